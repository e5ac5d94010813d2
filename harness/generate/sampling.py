"""From prompts to latents, and from latents to images.

Every forward runs at the spec's batch size, the last batch padded, so that an image's pixels
depend on its cell, the batch size, the precision, the device and the library versions, and
not on its neighbours, the order or the run's history. One CPU generator an image.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from harness.errors import AuditError
from harness.json_types import JsonObject
from harness.models import loading, textual_inversion
from harness.models.families import family
from harness.models.lora import Adapters, Lora
from harness.models.prompt_reader import PromptReader
from harness.models.prompt_weights import token_weights, weigh
from harness.models.schedulers import sampler, with_zero_terminal_snr
from harness.spec.schema import Spec
from harness.spec.sections import SamplerSpec, strengths
from harness.taps import record as taps
from harness.taps.trajectory import switching

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin


class Extras(NamedTuple):
    """What a spec adds to a checkpoint, and how it has prompts read."""

    adapters: Mapping[str, Sequence[Lora]] = {}
    """LoRAs by level of the factor 'adapters'; the checkpoint's own are in each."""
    embeddings: Mapping[str, Path] = {}
    """Files of textual inversions by name."""
    weighting: str = "none"
    in_chunks: bool = False
    """Whether a text longer than the text encoder is read in chunks; else it is cut."""
    clip_skip: int = 1
    samplers: Mapping[str, SamplerSpec] = {}
    """What the plan's names of samplers mean; others mean themselves."""
    zero_terminal_snr: bool = False
    arguments: JsonObject = {}  # noqa: RUF012
    """Of the pipeline's call, by the names that diffusers has for them."""


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
        spec.prompt_syntax,
        spec.in_chunks,
        spec.clip_skip_of(checkpoint),
        spec.samplers,
        spec.checkpoints[checkpoint].zero_terminal_snr,
        spec.arguments_of(checkpoint),
    )


class Generator:
    """Denoises and decodes batches with one loaded checkpoint.

    Args:
        pipe: A pipeline; what of it differs from others is its `families.Family`.
        batch_size: Of every forward.
        extras: LoRAs, embeddings, prompt weights.

    Raises:
        AuditError: The pipeline takes no such extras.
    """

    def __init__(self, pipe: DiffusionPipeline, batch_size: int, extras: Extras = Extras()) -> None:  # noqa: B008
        self.pipe = pipe
        self.family = family(pipe)
        self.batch_size = batch_size
        self.own_scheduler = getattr(pipe, "scheduler", None)
        if extras.zero_terminal_snr:
            self.own_scheduler = with_zero_terminal_snr(self.own_scheduler)
        if extras.weighting != "none" and not self.family.weighting:
            raise AuditError(
                f"prompt_syntax: {extras.weighting}: of a {self.family.name} prompt weights are "
                "not known here; supported: Stable Diffusion 1.x, 2.x and SDXL"
            )
        if extras.in_chunks and not self.family.weighting:
            raise AuditError(
                f"long_prompts: chunks: a {self.family.name} does not read chunks; supported: "
                "Stable Diffusion 1.x, 2.x and SDXL"
            )
        taken = inspect.signature(pipe.__call__).parameters
        for key, value in extras.arguments.items():
            if key not in taken:
                raise AuditError(
                    f"{_key_of(key)}: a {self.family.name} does not take {key} ({value})"
                )
        self.family.skip_layers(extras.clip_skip)
        self.extras = extras
        self._adapters = Adapters(pipe)
        spelled = textual_inversion.put_in(pipe, extras.embeddings)
        tokenizer = getattr(pipe, "tokenizer", None)
        self.reader = PromptReader(tokenizer, extras.weighting, extras.in_chunks, spelled)
        self._level = "none"
        self._embeddings: dict[tuple[str, str], JsonObject] = {}

    def adapt(self, level: str) -> None:
        """Have the LoRAs of one level of the factor 'adapters' act, and no others."""
        self._adapters.put_in(self.extras.adapters.get(level, ()))
        self._level = level

    def sampler(self, name: str) -> SchedulerMixin:
        """The scheduler that a sampler's name means.

        Args:
            name: As the plan has it.

        Raises:
            AuditError: It cannot follow the checkpoint's noise schedule.
        """
        wanted = self.extras.samplers.get(name) or SamplerSpec(sampler=name)
        return sampler(self.own_scheduler, wanted.sampler, wanted.schedule, wanted.arguments)

    @torch.no_grad()
    def embed(self, text: str) -> JsonObject:
        """What the denoiser sees of a text, encoded alone and once."""
        key = (self._level, text)
        if key not in self._embeddings:
            whole = self.reader.is_plain(text)
            self._embeddings[key] = self._encoded(text) if whole else self._in_chunks(text)
        return self._embeddings[key]

    def _encoded(self, text: str) -> JsonObject:
        made = self.family.encode(self.reader.plain(text))
        parts = self.reader.pieces(text)
        if any(part.weight != 1 for part in parts):
            weights = token_weights(self.pipe.tokenizer, parts)
            made["prompt_embeds"] = weigh(made["prompt_embeds"], weights, self.family.widths())
        return made

    def _in_chunks(self, text: str) -> JsonObject:
        chunks, weights = self.reader.chunks(text), self.reader.chunk_weights(text)
        made = self.family.encode_chunks([[token.id for token in chunk] for chunk in chunks])
        vectors = made["prompt_embeds"].split(self.pipe.tokenizer.model_max_length, dim=1)
        weighed = []
        for part, own in zip(vectors, weights, strict=True):  # each keeps its own mean
            framed = torch.ones(part.shape[1])
            framed[1 : 1 + len(own)] = torch.tensor(own)
            weighed.append(weigh(part, framed, self.family.widths()))
        return made | {"prompt_embeds": torch.cat(weighed, dim=1)}

    def _as_long(self, several: Sequence[Sequence[JsonObject]]) -> list[JsonObject]:
        """Texts of a batch one behind the other, each as long as the longest: empty chunks."""
        longest = max(e["prompt_embeds"].shape[1] for each in several for e in each)
        made = []
        for each in several:
            rest = [longest - e["prompt_embeds"].shape[1] for e in each]
            long = [
                self._with_rest(e, more) if more else e for e, more in zip(each, rest, strict=True)
            ]
            made.append(_stack(long))
        return made

    def _with_rest(self, encoded: JsonObject, more: int) -> JsonObject:
        vectors, empty = encoded["prompt_embeds"], self.embed("")["prompt_embeds"]
        times = more // empty.shape[1]
        return encoded | {"prompt_embeds": torch.cat([vectors, *[empty] * times], dim=1)}

    def embed_negative(self, text: str) -> JsonObject:
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
        several = [[self.embed(rows["text"].iloc[i]) for i in padded]]
        guided = self.family.reads_negative(float(first["guidance"]))
        switched = first.get("switch", -1) > 0
        if guided:
            several.append([self.embed_negative(rows["negative_text"].iloc[i]) for i in padded])
        if switched:
            several.append([self.embed(rows["second_text"].iloc[i]) for i in padded])
        stacked = self._as_long(several) if self.extras.in_chunks else list(map(_stack, several))
        arguments = dict(stacked[0])
        if guided:
            arguments |= {f"negative_{k}": v for k, v in stacked[1].items()}
        if switched:
            arguments |= switching(self.family, int(first["switch"]), arguments, stacked[-1])
        self.pipe.scheduler = self.sampler(first["sampler"])
        with ExitStack() as stack:
            stack.callback(setattr, self.pipe, "scheduler", self.own_scheduler)
            if watchers:
                seen = rows.iloc[padded]
                read = {
                    k: [self.reader.plain(t) for t in seen[k]] for k in ("text", "negative_text")
                }
                seen = seen.assign(
                    **read, in_chunks=self.extras.in_chunks, breaks=self.reader.weighs
                )
            for tap in watchers:
                stack.enter_context(tap.watch(self.pipe, seen, len(rows)))
            arguments |= {
                "generator": [
                    torch.Generator("cpu").manual_seed(int(rows["noise"].iloc[i])) for i in padded
                ],
                "num_inference_steps": int(first["steps"]),
                "guidance_scale": float(first["guidance"]),
                **self.extras.arguments,
                "width": int(first["width"]),
                "height": int(first["height"]),
            }
            made = self.pipe(**self.family.settings(arguments)).images
            latents = self.family.latents(made, int(first["height"]), int(first["width"]))
        return torch.Tensor.cpu(latents[: len(rows)])

    def decode(self, vae: ModelMixin, latents: torch.Tensor) -> NDArray[np.float32]:
        """Images (n, height, width, 3) in [0, 1]; NaN where the decoder overflowed."""
        padded = latents[_padded(list(range(len(latents))), self.batch_size)]
        drawn = loading.decode(vae, padded)[: len(latents)].float()
        drawn = drawn.where(drawn.isfinite(), torch.nan)  # clamping would hide infinity
        return (drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def _key_of(argument: str) -> str:
    return argument if argument == "guidance_rescale" else "size_conditioning"


def _padded(items: list[int], size: int) -> list[int]:
    return items + [items[-1]] * (size - len(items))


def _stack(parts: list[JsonObject]) -> JsonObject:
    """Batches of one as one batch: tensors, or lists of texts."""
    whole = {key: [part[key] for part in parts] for key in parts[0]}
    return {
        key: torch.cat(values) if torch.is_tensor(values[0]) else [t for v in values for t in v]
        for key, values in whole.items()
    }
