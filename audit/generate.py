"""From units to latents and images: denoise once, decode by every VAE.

Every forward runs at the spec's batch size, the last batch padded, so that an image's pixels
depend on its cell, the batch size, the precision, the device and the library versions, and
not on its neighbours, the order or the run's history. One CPU generator an image.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from audit.checkpoints import models
from audit.checkpoints.adapters import Adapters, Lora
from audit.checkpoints.families import Other, family
from audit.executors import Outcome
from audit.given.parameters import write_parameters
from audit.plan import Unit
from audit.spec import Spec, strengths
from audit.store import Run, sha256
from audit.taps import store as taps
from audit.taps.chosen import taps_of
from audit.taps.steps import predicted_latents, switching
from audit.text import embeddings
from audit.text.weighting import Piece, pieces, token_weights, weigh

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++ sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def sampler(own: Any, name: str) -> Any:
    """The scheduler of that name, on the checkpoint's own noise schedule.

    Raises:
        ValueError: The checkpoint follows a flow, which only its own sampler does.
    """
    if name == "own":
        return own
    if own is None or "beta_start" not in own.config:
        kind = type(own).__name__
        raise ValueError(f"samplers: {name!r} does not go with the checkpoint's {kind}; use 'own'")
    class_name, changes = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(own.config, **changes)


class Extras(NamedTuple):
    """What a spec adds to a checkpoint, and how it has prompts read."""

    adapters: Mapping[str, Sequence[Lora]] = {}
    """LoRAs by level of the factor 'adapters'; the checkpoint's own are in each."""
    embeddings: Mapping[str, Path] = {}
    """Files of textual inversions by name."""
    weighting: str = "none"


def extras_of(spec: Spec, checkpoint: str, base: Path) -> Extras:
    """The extras of one checkpoint of a spec, paths resolved."""
    own = spec.checkpoints[checkpoint].loras
    return Extras(
        {
            name: [
                Lora(base / Path(source).expanduser(), *both)
                for source, both in strengths(own, adapter.loras).items()
            ]
            for name, adapter in spec.adapters.items()
        },
        {name: base / Path(source).expanduser() for name, source in spec.embeddings.items()},
        spec.weighting,
    )


class Generator:
    """Denoises and decodes batches with one loaded checkpoint.

    Args:
        pipe: A pipeline; what of it differs from others is its `families.Family`.
        batch_size: Of every forward.
        extras: LoRAs, embeddings, prompt weights.

    Raises:
        ValueError: The pipeline takes no such extras.
    """

    def __init__(self, pipe: Any, batch_size: int, extras: Extras = Extras()) -> None:  # noqa: B008
        self.pipe = pipe
        self.family = family(pipe)
        self.batch_size = batch_size
        self.own_scheduler = getattr(pipe, "scheduler", None)
        if extras.weighting != "none" and not self.family.weighting:
            raise ValueError(
                f"weighting: {extras.weighting}: of a {self.family.name} prompt weights are not "
                "known here; supported: Stable Diffusion 1.x, 2.x and SDXL"
            )
        self.extras = extras
        self._adapters = Adapters(pipe)
        self._spelled = embeddings.put_in(pipe, extras.embeddings)
        self._level = "none"
        self._embeddings: dict[tuple[str, str], dict[str, Any]] = {}

    def adapt(self, level: str) -> None:
        """Have the LoRAs of one level of the factor 'adapters' act, and no others."""
        self._adapters.put_in(self.extras.adapters.get(level, ()))
        self._level = level

    def read(self, text: str) -> list[Piece]:
        """A text as it is tokenised: weights taken out, embeddings' names spelled out."""
        parts = pieces(text) if self.extras.weighting == "a1111" else [Piece(text, 1.0)]
        return [Piece(embeddings.spell(p.text, self._spelled), p.weight) for p in parts]

    def plain(self, text: str) -> str:
        """A text as the tokenizer gets it."""
        return "".join(part.text for part in self.read(text))

    @torch.no_grad()
    def embed(self, text: str) -> dict[str, Any]:
        """What the denoiser sees of a text, encoded alone and once."""
        key = (self._level, text)
        if key not in self._embeddings:
            parts = self.read(text)
            made = self.family.encode(self.plain(text))
            if any(part.weight != 1 for part in parts):
                weights = token_weights(self.pipe.tokenizer, parts)
                made["prompt_embeds"] = weigh(made["prompt_embeds"], weights, self.family.widths())
            self._embeddings[key] = made
        return self._embeddings[key]

    def embed_negative(self, text: str) -> dict[str, Any]:
        """As `embed`; an SDXL checkpoint may want zeros for an empty negative."""
        return self.family.negative(text, self.embed(text))

    @torch.no_grad()
    def denoise(self, rows: pd.DataFrame, watchers: Sequence[taps.Tap] = ()) -> torch.Tensor:
        """Final latents of up to `batch_size` trajectories of one setting.

        Args:
            rows: Rows of the plan, one a trajectory.
            watchers: What follows the denoising; the latents do not depend on it.

        Returns:
            (rows, channels, height, width), as the pipeline gives them before decoding.
        """
        first = rows.iloc[0]
        self.adapt(str(first.get("adapters", "none")))
        padded = _padded(list(range(len(rows))), self.batch_size)
        texts = [rows["text"].iloc[i] for i in padded]
        arguments: dict[str, Any] = _stack([self.embed(t) for t in texts])
        if self.family.reads_negative(float(first["guidance"])):
            negatives = [rows["negative_text"].iloc[i] for i in padded]
            stacked = _stack([self.embed_negative(t) for t in negatives])
            arguments |= {f"negative_{k}": v for k, v in stacked.items()}
        if first.get("switch", -1) > 0:
            seconds = [rows["second_text"].iloc[i] for i in padded]
            second = _stack([self.embed(t) for t in seconds])
            arguments |= switching(self.family, int(first["switch"]), arguments, second)
        self.pipe.scheduler = sampler(self.own_scheduler, first["sampler"])
        with ExitStack() as stack:
            stack.callback(setattr, self.pipe, "scheduler", self.own_scheduler)
            seen = rows.iloc[padded]
            read = {k: [self.plain(t) for t in seen[k]] for k in ("text", "negative_text")}
            for tap in watchers:
                stack.enter_context(tap.watch(self.pipe, seen.assign(**read), len(rows)))
            arguments |= {
                "generator": [
                    torch.Generator("cpu").manual_seed(int(rows["noise"].iloc[i])) for i in padded
                ],
                "num_inference_steps": int(first["steps"]),
                "guidance_scale": float(first["guidance"]),
                "width": int(first["width"]),
                "height": int(first["height"]),
            }
            made = self.pipe(**self.family.settings(arguments)).images
            latents = self.family.latents(made, int(first["height"]), int(first["width"]))
        return torch.Tensor.cpu(latents[: len(rows)])

    def decode(self, vae: Any, latents: torch.Tensor) -> NDArray[np.float32]:
        """Images (n, height, width, 3) in [0, 1]; NaN where the decoder overflowed."""
        padded = latents[_padded(list(range(len(latents))), self.batch_size)]
        drawn = models.decode(vae, padded)[: len(latents)].float()
        return (drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


class GenerateWorker:
    """Makes what is missing of a unit: its latents, then its images by every VAE.

    PNG encoding and writing overlap the next batch.

    Args:
        run: Where to write.
        spec: The spec.
        base: Folder that the spec's paths are relative to.
        device: 'cpu', 'cuda' or 'mps'.
        dtype: Of the weights.
    """

    def __init__(self, run: Run, spec: Spec, base: Path, device: str, dtype: torch.dtype) -> None:
        self.run, self.spec, self.base = run, spec, base
        self.device, self.dtype = device, dtype
        self.taps = taps_of(spec)
        self.loaded = ""
        self.generator: Generator | None = None
        self.vaes: dict[str, Any] = {}
        self.writer = ThreadPoolExecutor(1)
        self.writing: tuple[Unit, Future[None]] | None = None

    def use(self, name: str, checkpoint: models.Checkpoint | None = None) -> Generator:
        """Load a checkpoint and its VAEs, letting go of the last one."""
        if self.loaded != name or self.generator is None:
            self.generator, self.vaes, self.loaded = None, {}, ""
            if checkpoint is None:
                checkpoint = models.load_checkpoint(
                    name,
                    self.spec.checkpoints[name],
                    self.base,
                    self.device,
                    self.dtype,
                    self.spec.speed,
                )
            self.vaes = {
                # Their latent spaces were compared when the plan was made.
                vae: models.load_vae(vae, source, self.base, checkpoint.pipe, self.dtype, True)
                for vae, source in self.spec.vaes.items()
            }
            self.generator = Generator(
                checkpoint.pipe, self.spec.batch_size, extras_of(self.spec, name, self.base)
            )
            self.loaded = name
        return self.generator

    def __call__(self, unit: Unit) -> Outcome:
        """Make one unit; a failure is an outcome with a reason, not an exception."""
        self.run.clear_failure(unit.id)
        try:
            return Outcome(unit.id, True, self._make(unit))
        except (RuntimeError, OSError, ValueError) as error:
            return self._failed(unit, error)

    def close(self) -> None:
        """Wait for the last write."""
        self.flush()
        self.writer.shutdown(wait=True)

    def _make(self, unit: Unit) -> int:
        rows = unit.rows
        wanted = {
            str(file): group
            for file, group in rows.groupby("vae_file")
            if not self.run.images_path(unit.id, str(file)).exists()
        }
        held = self.run.latents_path(unit.id).exists()
        missing = taps.untapped(self.run, unit.id, self.taps)
        if not wanted and held and not missing:
            return 0
        generator = self.use(str(rows["checkpoint"].iloc[0]))
        trajectories = rows.drop_duplicates("trajectory")
        ids = list(trajectories["trajectory"])
        # A tap that was added later can only follow a denoising that is done again.
        if not held or missing:
            latents = generator.denoise(trajectories, missing)
            for tap in missing:
                taps.write(self.run, tap, unit.id, ids)
        if held:
            stored = self.run.read_latents(unit.id)
            latents = torch.stack([stored[i] for i in ids])
        else:
            if not isinstance(generator.family, Other):
                kept = {i: latents[n].clone() for n, i in enumerate(ids)}
                self.run.write_latents(unit.id, kept)
        made = 0
        for file, group in wanted.items():
            group = group.drop_duplicates("cell")
            vae = self.vaes[str(group["vae"].iloc[0])]
            step = int(group["step"].iloc[0]) if "step" in group else -1
            if step < 0:
                chosen = latents[[ids.index(t) for t in group["trajectory"]]]
            else:
                chosen, why = predicted_latents(self.run, self.taps, unit.id, group, step)
                if why:
                    lost = {"png": None, "sha256": None, "reason": why}
                    records = [{"cell": c, **lost} for c in group["cell"]]
                    self.run.write_images(unit.id, file, records)
                    continue
            images = generator.decode(vae, chosen)
            self._write_behind(unit, file, group, images)
            made += len(images)
        return made

    def _write_behind(
        self, unit: Unit, file: str, rows: pd.DataFrame, images: NDArray[np.float32]
    ) -> None:
        self.flush()
        future = self.writer.submit(_write, self.run, unit.id, file, rows, images)
        self.writing = (unit, future)

    def flush(self) -> None:
        """Wait for the write under way; where it failed, its unit's failure is noted."""
        if self.writing is not None:
            unit, future = self.writing
            self.writing = None
            try:
                future.result()
            except OSError as error:
                self._failed(unit, error)

    def _failed(self, unit: Unit, error: Exception) -> Outcome:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            reason = f"out of memory at batch size {self.spec.batch_size}; try a smaller one"
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            reason = "disk full; free some space and run the same command again"
        try:
            self.run.write_failure(unit.id, reason)
        except OSError as second:
            # A full disk may refuse even this note; the outcome still carries the reason.
            reason += f" (and the failure could not be noted: {second.strerror})"
        return Outcome(unit.id, False, 0, reason)


def png_bytes(pixels: NDArray[np.uint8], parameters: str) -> bytes:
    """A PNG with an A1111-style `parameters` text chunk."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", parameters)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def _write(run: Run, unit: str, file: str, rows: pd.DataFrame, images: NDArray[np.float32]) -> None:
    records: list[dict[str, Any]] = []
    for row, image in zip(rows.itertuples(), images, strict=True):
        reason = _unusable(image)
        if reason:
            records.append({"cell": row.cell, "png": None, "sha256": None, "reason": reason})
            continue
        pixels = (image * 255).round().astype(np.uint8)
        settings = {
            "Steps": str(row.steps),
            "Sampler": str(row.sampler),
            "CFG scale": f"{row.guidance:g}",
            "Seed": str(row.noise),
            "Size": f"{row.width}x{row.height}",
            "Model": str(row.checkpoint),
            "VAE": str(row.vae),
            "Adapters": str(row.adapters),
            "Audit cell": str(row.cell),
        }
        text = write_parameters(str(row.text), str(row.negative_text), settings)
        data = png_bytes(pixels, text)
        records.append(
            {"cell": row.cell, "png": data, "sha256": sha256(pixels.tobytes()), "reason": None}
        )
    run.write_images(unit, file, records)


def _unusable(image: NDArray[np.float32]) -> str | None:
    if not np.isfinite(image).all():
        return "NaN pixels: the decoder overflowed; try bfloat16 or float32"
    if image.max() == 0:
        return "all black"
    return None


def _padded(items: list[int], size: int) -> list[int]:
    return items + [items[-1]] * (size - len(items))


def _stack(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Batches of one as one batch: tensors, or lists of texts."""
    whole = {key: [part[key] for part in parts] for key in parts[0]}
    return {
        key: torch.cat(values) if torch.is_tensor(values[0]) else [t for v in values for t in v]
        for key, values in whole.items()
    }
