"""What a .safetensors file holds, told from its header alone.

The header names every tensor with its shape. That is enough to say which model a file
is, and what is missing from it, before gigabytes are read.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from harness.errors import AuditError
from harness.models.pickle_scan import is_pickle, refusal

if TYPE_CHECKING:
    import torch

Family = Literal[
    "sd15",
    "sd2",
    "sdxl",
    "sd3-medium",
    "sd35-medium",
    "sd35-large",
    "flux-dev",
    "flux-schnell",
]
"""A folder of `harness/models/configs`."""
VaeFamily = Literal["sd15", "sdxl", "sd3", "flux"]
"""A published latent space."""
VAE_OF: dict[Family, VaeFamily] = {
    "sd15": "sd15",
    "sd2": "sd15",
    "sdxl": "sdxl",
    "sd3-medium": "sd3",
    "sd35-medium": "sd3",
    "sd35-large": "sd3",
    "flux-dev": "flux",
    "flux-schnell": "flux",
}

UNET = "model.diffusion_model."
SUPPORTED = (
    "supported: full checkpoints of Stable Diffusion 1.x, 2.x, 3 and 3.5, SDXL base and Flux"
)
_CONTEXT = "transformer_blocks.0.attn2.to_k.weight"

# Read from the top: an adapter's names hold those of the model it adapts.
Kind = Literal[
    "LoRA",
    "ControlNet",
    "IP-Adapter",
    "SD 3",
    "Flux",
    "VAE",
    "tiny VAE",
    "component",
    "text encoder",
    "embedding",
    "",
]
"""What a file is that is no whole checkpoint; '' is not known."""
_KINDS: tuple[tuple[str, Kind, str], ...] = (
    (r"(^|[._])lora(_|\.)|\.hada_w|\.lokr_w|\.dora_scale$", "LoRA", "a LoRA or similar adapter"),
    (
        r"^(control_model|controlnet_cond_embedding|input_hint_block)\.",
        "ControlNet",
        "a ControlNet",
    ),
    (r"^(ip_adapter|image_proj)\.", "IP-Adapter", "an IP-Adapter"),
    (r"(^|\.)joint_blocks\.", "SD 3", "Stable Diffusion 3"),
    (r"(^|\.)(double_blocks|single_transformer_blocks)\.", "Flux", "Flux or a relative of it"),
    (r"^(first_stage_model\.|vae\.)?(en|de)coder\.(up|down|mid)", "VAE", "a stand-alone VAE"),
    (r"^(en|de)coder\.layers\.", "tiny VAE", "a tiny autoencoder (TAESD)"),
    (r"^(down_blocks|up_blocks|mid_block)\.", "component", "one component of a diffusers folder"),
    (r"text_model\.|transformer\.resblocks\.", "text encoder", "a text encoder alone"),
    (r"^(emb_params|string_to_param|clip_[lg]$)", "embedding", "a textual-inversion embedding"),
)


class WeightsError(AuditError):
    """Weights that cannot be used: one line with the file, what was found, what would be right."""


class Header(NamedTuple):
    """What a safetensors file says of itself."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """As safetensors writes them: 'F16', 'F32', 'BF16', …"""
    metadata: dict[str, str]

    @property
    def numbers(self) -> int:
        """How many numbers its tensors hold together."""
        return sum(prod(shape) for shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """Read the names, shapes and dtypes of a .safetensors file, and none of its tensors.

    Raises:
        WeightsError: Missing or unreadable, cut short, a pickle (also one renamed to
            .safetensors), or anything else that is not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"{str(path)!r} {what}; name a .safetensors file")
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            header = Header(
                path,
                {name: tuple(s.get_shape()) for name, s in slices.items()},
                {name: str(s.get_dtype()) for name, s in slices.items()},
                file.metadata() or {},
            )
    except SafetensorError as error:
        raise WeightsError(_unreadable(path, str(error))) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(f"{str(path)!r} cannot be read: {reason}") from None
    if path.suffix != ".safetensors":
        # Loaders choose by the name: under another one these bytes would go to torch.load.
        raise WeightsError(
            f"{str(path)!r} holds safetensors but its name ends in {path.suffix!r}: "
            "rename it to end in '.safetensors'"
        )
    if not header.shapes:
        raise WeightsError(f"{str(path)!r} holds no tensors; name a file with weights")
    return header


def family_of(header: Header) -> Family:
    """Tell from tensor names and shapes which model a full checkpoint is.

    Of a U-Net, the width of the text that it attends to decides: 768 is Stable Diffusion 1.x,
    1024 is 2.x, 2048 is SDXL. Of a transformer, its layers' names and width do. Whether every
    tensor is there is checked on loading.

    Raises:
        WeightsError: Anything else, with what it seems to be.
    """
    shapes = header.shapes
    first = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    if len(first) != 4:
        return _transformer_family(header)
    to_k = [shapes.get(f"{UNET}input_blocks.{block}.1.{_CONTEXT}") for block in (1, 4)]
    width = next((shape[-1] for shape in to_k if shape), 0)
    known: dict[int, Family] = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
    kind = {
        768: "Stable Diffusion 1.x",
        1024: "Stable Diffusion 2.x",
        1280: "the SDXL refiner",
        2048: "SDXL",
    }.get(width, f"a U-Net for text of width {width}")
    if first[1] == 9:
        kind = f"an inpainting model ({kind})"
    elif first[1] == 8:
        kind = f"an InstructPix2Pix model ({kind})"
    elif first[1] != 4:
        kind = f"a U-Net for {first[1]} input channels"
    elif "edm_mean" in shapes or "edm_vpred.sigma_max" in shapes:
        kind = f"{kind} with EDM noise levels (Playground 2.5, CosXL)"
    elif width in known:
        return known[width]
    raise WeightsError(f"{str(header.path)!r} seems to be {kind}; {SUPPORTED}")


def _transformer_family(header: Header) -> Family:
    shapes = {name.removeprefix(UNET): shape for name, shape in header.shapes.items()}
    flux = shapes.get("double_blocks.0.img_attn.qkv.weight")
    inputs = shapes.get("img_in.weight", (0, 0))
    sd3 = shapes.get("joint_blocks.0.x_block.attn.qkv.weight", (0, 0))[-1]
    kind = ""
    if flux and flux[-1] == 3072 and inputs[-1] == 64:
        guided = any(name.startswith("guidance_in.") for name in shapes)
        return "flux-dev" if guided else "flux-schnell"
    if flux:
        kind = f"a relative of Flux (width {flux[-1]}, {inputs[-1]} input channels)"
    elif sd3 == 1536:
        normed = "joint_blocks.0.x_block.attn.ln_q.weight" in shapes
        return "sd35-medium" if normed else "sd3-medium"
    elif sd3 == 2432:
        return "sd35-large"
    elif sd3:
        kind = f"a relative of Stable Diffusion 3 (width {sd3})"
    said = f"seems to be {kind}" if kind else seems_to_be(header)
    raise WeightsError(f"{str(header.path)!r} {said}; {SUPPORTED}")


def told_prediction(header: Header) -> Literal["epsilon", "v"] | None:
    """What a file says that its denoiser predicts: by a marker tensor, or in its metadata."""
    if "v_pred" in header.shapes:
        return "v"
    said = header.metadata.get("modelspec.prediction_type")
    if said == "v":
        return "v"
    return "epsilon" if said == "epsilon" else None


def seems_to_be(header: Header) -> str:
    """A guess at what a file is that is no checkpoint: 'seems to be …'."""
    kind = kind_of(header)
    if kind:
        return f"seems to be {next(words for _, known, words in _KINDS if known == kind)}"
    return f"is of no kind known here (it holds {some(header.shapes)})"


def kind_of(header: Header) -> Kind:
    """A guess at what a file is that is no checkpoint, from its tensors' names; '' if none."""
    for pattern, kind, _ in _KINDS:
        if any(re.search(pattern, name) for name in header.shapes):
            return kind
    small = len(header.shapes) <= 2 and all(len(shape) <= 2 for shape in header.shapes.values())
    return "embedding" if small else ""


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first few names in order and how many there are, safe to print on one line."""
    ordered = sorted(names)
    listed = ", ".join(ascii(name[:80]) for name in ordered[:shown])
    return f"{listed}, … {len(ordered)} in all" if len(ordered) > shown else listed


def exact_digest(header: Header) -> str:
    """sha256 over every tensor's name, dtype, shape and bytes, and peft's own settings."""
    import torch
    from safetensors.torch import load_file

    total = hashlib.sha256(header.metadata.get("lora_adapter_metadata", "").encode())
    for name, tensor in sorted(load_file(header.path).items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def refuse_not_finite(what: object, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that hold NaN or infinity, as a merge gone wrong leaves them.

    Args:
        what: Path or name, for the message.
        tensors: torch tensors by name.

    Raises:
        WeightsError: The first such tensor and how many there are.
    """
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not _finite(t)]
    if bad:
        raise WeightsError(
            f"{str(what)!r}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity "
            f"({some(bad, 1)}), finite numbers are expected: a merge gone wrong? get it again"
        )


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.numel():
        return True
    low, high = (tensor.float() if tensor.itemsize < 2 else tensor).aminmax()
    return bool(low.isfinite() & high.isfinite())


_OTHER_FILES = (
    (
        b"GGUF",
        "a GGUF file, which holds a denoiser alone: name a whole checkpoint as source, and this "
        "file as its denoiser",
    ),
    (b"PK\x03\x04", "a zip archive: unpack it and name the .safetensors file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it and name the .safetensors file inside"),
    (b"Rar!", "a RAR archive: unpack it and name the .safetensors file inside"),
    (b"\x1f\x8b", "a gzip archive: unpack it and name the .safetensors file inside"),
    (b"\x89PNG", "a PNG image, not weights: name a .safetensors file"),
    (b"\xff\xd8\xff", "a JPEG image, not weights: name a .safetensors file"),
)
"""Files that people name by mistake, by their first bytes."""


def _of_torch(path: Path) -> bool:
    """Whether a zip is one that torch.save wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return True  # damaged: it may be one, and is refused as such


def _unreadable(path: Path, reason: str) -> str:
    reason = ascii(reason[:200])[1:-1]  # It may quote the file.
    with path.open("rb") as file:
        start = file.read(100)
    for magic, kind in _OTHER_FILES:
        if start.startswith(magic) and not (magic == b"PK\x03\x04" and _of_torch(path)):
            return f"{str(path)!r} is {kind}"
    if is_pickle(path):
        return refusal(path)
    if start.startswith(b"version https://git-lfs"):
        return f"{str(path)!r} is a Git LFS pointer, not the weights: run 'git lfs pull'"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"{str(path)!r} is a web page, not weights: download the file itself"
    if start[8:9] == b"{":
        # The header begins as it should, so the file was one once.
        return f"{str(path)!r} is a damaged safetensors file, cut short? ({reason}): get it again"
    return f"{str(path)!r} is not a safetensors file ({reason}); name a .safetensors file"
