"""Round trips: every image through every VAE, as an ordinary run that nothing denoises.

The images are those of a folder, or of a run (what its first VAE made). The arm 'original'
holds them; the arm of a VAE holds decode(encode(image)) at the mode of the posterior, in
fp32, clamped to [0, 1] and rounded to 8 bits. An image larger than `longest` is scaled down
first; one whose side is no multiple of the VAE's step is padded by its edge and cut again.

A unit holds at most a batch of images of one size and is one forward, never filled up with copies:
what must be equal between VAEs is the grouping, so that a copy of a VAE differs by exactly 0.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from audit.pipeline.imported_images import FILE, given_cell
from audit.pipeline.plan import LIBRARIES
from audit.pipeline.round_trip_inputs import Picture
from audit.pipeline.session import Audit
from harness.errors import reason
from harness.files.checksums import DamagedError
from harness.generate.executor import Outcome
from harness.hashing import canonical_digest, sha256
from harness.images.png import png_bytes
from harness.images.stored import pixels
from harness.json_types import JsonObject
from harness.models.digests import digest_of
from harness.models.vae_files import VAE_CLASSES
from harness.models.vae_identity import Codec, behaviour, codec, load_vae_alone
from harness.plan.cells import Cell, Unit
from harness.spec.prompts import Prompt
from harness.spec.schema import parse_spec
from harness.store.damage import lost
from harness.store.run import Run
from harness.store.run_folder import DiskFullError

if TYPE_CHECKING:
    from diffusers import ModelMixin

ORIGINAL = "original"
CLASSES = tuple(VAE_CLASSES.values())


def round_trip_audit(
    name: str,
    pictures: list[Picture],
    sources: Mapping[str, object],
    out: Path,
    longest: int,
    batch: int,
    attributes: Iterable[str] = (),
    classifiers: Mapping[str, object] | None = None,
) -> tuple[Audit, pd.DataFrame, JsonObject, JsonObject]:
    """The audit, plan, provenance and loaded VAEs of a round trip. Nothing is written.

    Args:
        name: Of the audit.
        pictures: What is sent round.
        sources: 'reference:NAME', a folder or a file by the VAE's name, or a loaded VAE: any
            object with encode and decode, as `harness.models.vae_identity.codec` takes it.
        out: Run folder.
        longest: Images with a longer side are scaled down to it.
        batch: Images encoded and decoded together, at most.
        attributes: Attribute sets to measure before and after.
        classifiers: Those to measure them with.

    Raises:
        AuditError: A VAE cannot be loaded, or an attribute or classifier is unknown.
    """
    vaes = {
        key: load_vae_alone(key, source, Path.cwd()) if isinstance(source, str) else source
        for key, source in sources.items()
    }
    digests = {key: _digest(vae) for key, vae in vaes.items()}
    sources = {
        key: source if isinstance(source, str) else f"object:{type(source).__name__}"
        for key, source in sources.items()
    }
    prompts = list(dict.fromkeys(p.prompt for p in pictures))
    raw = {
        "name": name,
        "checkpoints": {FILE: FILE},
        "vaes": {ORIGINAL: FILE, **sources},
        "prompts": {"list": prompts},
        "attributes": list(attributes),
        "classifiers": dict(classifiers or {}),
        "probes": ["attributes", "vae", "spectrum"] if attributes else ["vae", "spectrum"],
        "batch_size": batch,
        "dtype": "float32",
    }
    spec = parse_spec(raw, Path(name))
    audit = Audit(spec, Path.cwd(), Run(out), [Prompt(p, {}, "", {}) for p in prompts])
    plan = _plan(pictures, digests, prompts, longest, batch)
    provenance = {
        "spec": spec.digest(),
        "base": str(Path.cwd()),
        "audited": [
            {"kind": "VAE", "name": key, "of": FILE, "source": source, "digest": digests[key]}
            for key, source in sources.items()
        ],
        "made with": {
            "batch size": batch,
            "last batch": "as it is",  # it was filled up with copies before
            "device": audit.device,
            "dtype": "float32",
            "longest side": longest,
            "libraries": {name: version(name) for name in LIBRARIES},
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return audit, plan, provenance, vaes


def store_originals(audit: Audit, plan: pd.DataFrame, pictures: list[Picture]) -> None:
    """Copy the images, their masks and labels into the run; what is no image has a reason."""
    longest = (audit.run.made_with() or {})["longest side"]
    known = {cell_of(p, longest): p for p in pictures}
    for unit, rows in plan[plan["vae"] == ORIGINAL].groupby("unit", sort=False):
        masks = [audit.run.mask_path(str(t)) for t in rows["trajectory"].unique()]
        held = audit.run.images_path(str(unit), FILE).exists()
        if held and not any(lost(audit.run, m) for m in masks):
            continue
        records: list[JsonObject] = []
        for cell in rows["cell"].drop_duplicates():
            picture = known[str(cell)]
            record = {"cell": cell, "png": None, "sha256": None, "reason": None}
            try:
                pixels = shrink(picture.load(), longest)
            except ValueError as error:
                records.append(record | {"reason": str(error).split(": ", 1)[-1]})
                continue
            mask = picture.mask()
            if mask is not None:
                audit.run.write_mask(str(cell), png_bytes(shrink(mask, longest), "mask"))
            digest = sha256(pixels.tobytes())
            records.append(record | {"png": png_bytes(pixels, picture.prompt), "sha256": digest})
        if not held:
            audit.run.write_images(str(unit), FILE, records)
    rows = [
        (cell_of(p, longest), label, value, "given")
        for p in pictures
        for label, value in p.labels.items()
    ]
    audit.run.write_labels("given", rows)


class RoundTripWorker:
    """Sends a unit's originals through every VAE that has not had them yet."""

    def __init__(self, run: Run, vaes: Mapping[str, object], batch: int, device: str) -> None:
        self.run, self.batch = run, batch
        self.codecs: dict[str, Codec] = {
            name: codec(vae.to(device).eval() if isinstance(vae, CLASSES) else vae)
            for name, vae in vaes.items()
        }

    def __call__(self, unit: Unit) -> Outcome:
        """Make one unit; a failure is an outcome with a reason."""
        self.run.clear_failure(unit.id)
        made = 0
        for file, rows in unit.rows[unit.rows["vae"] != ORIGINAL].groupby("vae_file", sort=False):
            latents = self.run.latents_path(f"{unit.id}-{file}")
            if self.run.images_path(unit.id, str(file)).exists() and not lost(self.run, latents):
                continue
            try:
                made += self._make(unit, str(file), rows.drop_duplicates("cell"))
            except (DiskFullError, DamagedError):
                raise
            except (RuntimeError, OSError, ValueError) as error:
                why = f"{rows['vae'].iloc[0]}: {reason(error)}"
                self.run.write_failure(unit.id, why)
                return Outcome(unit.id, False, made, why)
        return Outcome(unit.id, True, made)

    def _make(self, unit: Unit, file: str, rows: pd.DataFrame) -> int:
        table = self.run.read_images(unit.id, FILE).set_index("cell")["png"]
        held = rows[rows["trajectory"].map(table).notna()]
        records = [
            {"cell": c, "png": None, "sha256": None, "reason": "the original cannot be read"}
            for c in rows.loc[~rows.index.isin(held.index), "cell"]
        ]
        if len(held):
            originals = np.stack([pixels(table[t]) for t in held["trajectory"]])
            images, latents = send(self.codecs[str(rows["vae"].iloc[0])], originals, self.batch)
            self.run.write_latents(
                f"{unit.id}-{file}",
                {str(t): latents[i].clone() for i, t in enumerate(held["trajectory"])},
            )
            for cell, image, prompt in zip(held["cell"], images, held["prompt"], strict=True):
                fine = bool(np.isfinite(image).all())
                drawn = (np.nan_to_num(image) * 255).round().astype(np.uint8)
                records.append(
                    {
                        "cell": cell,
                        "png": png_bytes(drawn, prompt) if fine else None,
                        "sha256": sha256(drawn.tobytes()) if fine else None,
                        "reason": None if fine else "NaN pixels: the decoder overflowed",
                    }
                )
        self.run.write_images(unit.id, file, records)
        return len(held)


@torch.no_grad()
def send(
    way: Codec, pixels: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.float32], torch.Tensor]:
    """Images of one size through a VAE and back.

    Args:
        way: Encodes and decodes; its step is the number of pixels that a latent covers.
        pixels: (n, height, width, 3), uint8 sRGB.
        batch: Images per forward, at most; the last is as small as what is left.

    Returns:
        Images (n, height, width, 3) in [0, 1], and latents (n, channels, rows, columns).
    """
    n, height, width = pixels.shape[:3]
    step = way.step
    grown = np.pad(pixels, ((0, 0), (0, -height % step), (0, -width % step), (0, 0)), mode="edge")
    images, latents = [], []
    for start in range(0, n, batch):
        part = torch.from_numpy(grown[start : start + batch]).permute(0, 3, 1, 2)
        encoded = way.encode(part.contiguous().float() / 127.5 - 1)
        drawn = way.decode(encoded).float()
        # Clamping would hide infinity.
        drawn = (drawn.where(drawn.isfinite(), torch.nan) / 2 + 0.5).clamp(0, 1)
        images.append(drawn[:, :, :height, :width].permute(0, 2, 3, 1).cpu().numpy())
        latents.append(encoded.float().cpu().contiguous())
    return np.concatenate(images), torch.cat(latents)


def shrink(pixels: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Scale an image (Lanczos) so that no side is longer; smaller ones stay as they are."""
    size = (pixels.shape[1], pixels.shape[0])
    small = shrunk_size(size, longest)
    if small == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(small, Image.Resampling.LANCZOS))


def shrunk_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height after `shrink`."""
    scale = longest / max(*size, 1)
    if scale >= 1:
        return size
    return (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def _digest(vae: ModelMixin) -> str:
    """Of configuration and weights; of what it does, for an object without weights."""
    if isinstance(vae, torch.nn.Module) and vae.state_dict():
        return digest_of(vae)
    return canonical_digest([type(vae).__qualname__, *behaviour(vae)])


def cell_of(picture: Picture, longest: int) -> str:
    """Id of an original: of its content, and of the side that it is scaled down to."""
    return canonical_digest(["given", picture.digest, longest])


def _plan(
    pictures: list[Picture],
    digests: Mapping[str, str],
    prompts: list[str],
    longest: int,
    batch: int,
) -> pd.DataFrame:
    """Originals and round trips; a unit holds images of one size, once they are scaled down."""
    pictures = list({p.digest: p for p in pictures}.values())
    by_size: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        by_size.setdefault(shrunk_size(picture.size, longest), []).append(picture)
    seen: dict[str, int] = {}
    places = {prompt: place for place, prompt in enumerate(prompts)}
    cells = []
    for alike in by_size.values():
        for start in range(0, len(alike), batch):
            part = alike[start : start + batch]
            unit = canonical_digest([cell_of(p, longest) for p in part])[:16]
            for picture in part:
                prompt, own = picture.prompt, cell_of(picture, longest)
                seed = seen[prompt] = seen.get(prompt, -1) + 1
                base = given_cell(own, prompt, places[prompt], seed)
                base = base._replace(unit=unit, vae=ORIGINAL)
                cells.append(base)
                cells += [
                    base._replace(
                        cell=canonical_digest(["round trip", own, digest]),
                        kind="round trip",
                        vae=name,
                        vae_file=digest[:16],
                    )
                    for name, digest in digests.items()
                ]
    return pd.DataFrame(cells, columns=Cell._fields)
