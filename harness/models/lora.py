"""LoRA files: read, checked against the checkpoint, put into it at any strength.

A LoRA adds a low-rank change to the weights of the denoiser and of the text encoders; each of
the two sides has a strength of its own. The layers run beside the weights (peft), which stay as
they were: at strength 0, and with no LoRA, an image is that of the checkpoint bit for bit.
Layouts: kohya's ('lora_unet_…', 'lora_te_…'), those of diffusers, and peft's own
(`harness.models.peft_layout`). LyCORIS, DoRA and ComfyUI's names: `harness.models.weight_changes`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import load_file

from harness.errors import reading
from harness.hashing import canonical_digest
from harness.library_logs import quiet_libraries
from harness.models import peft_layout
from harness.models.safetensors_header import (
    Header,
    WeightsError,
    exact_digest,
    read_header,
    refuse_not_finite,
    seems_to_be,
    some,
)
from harness.models.weight_changes import (
    Change,
    WeightChanges,
    has_comfyui_names,
    is_merged,
    read_changes,
    unknown_parts,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_DOWN = re.compile(r"\.(lora_down|lora_A|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")
_OLD_DOWN = re.compile(r"_lora\.down\.weight$")
_UP = re.compile(
    r"\.(lora_up|lora_B|lora\.up|lora_linear_layer\.up)(\.default)?\.weight$"
    r"|_lora\.up\.weight$|\.alpha$"
)
_CONTEXT = re.compile(r"attn2[._](processor\.)?to_k[._]")
_KOHYA = ("lora_unet_", "lora_te")
_OTHER_KINDS = (
    (re.compile(r"\.oft_|\.(a1|a2|b1|b2)\.weight$|\.on_input$"), "an OFT, GLoRA or IA3"),
    (re.compile(r"^bundle_emb\."), "a LoRA with embeddings bundled in"),
)
_WIDTHS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the SDXL refiner",
    2048: "SDXL",
}


class Lora(NamedTuple):
    """A LoRA to be put in."""

    path: Path
    denoiser: float
    """Strength on the denoiser."""
    text_encoder: float
    """Strength on the text encoders."""


class Adapters:
    """The LoRAs of one loaded pipeline; a file is loaded once, and then switched on and off."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self.held: dict[Path, str] = {}
        """Name of the adapter by file; of those whose change is put into the weights, below."""
        self.merged: dict[Path, list[Change]] = {}
        self._changes = WeightChanges()
        self._acting: list[Lora] = []

    def put_in(self, loras: Sequence[Lora]) -> None:
        """Have exactly these LoRAs act, in this order.

        Raises:
            WeightsError: One does not fit the checkpoint.
        """
        for lora in loras:
            if lora.path in self.held or lora.path in self.merged:
                continue
            header = read_header(lora.path)
            comfyui = has_comfyui_names(header) and hasattr(self.pipe, "unet")
            if comfyui or is_merged(header):
                check_fit(lora.path, self.pipe)
                self.merged[lora.path] = read_changes(lora.path, self.pipe)
            else:
                name = f"lora{len(self.held)}"
                _load(self.pipe, lora.path, name)
                self.held[lora.path] = name
        inside = [lora for lora in loras if lora.path in self.merged]
        if inside != self._acting:  # to merge costs as much as a forward, and each batch asks
            self._changes.act((self.merged[x.path], x.denoiser, x.text_encoder) for x in inside)
            self._acting = inside
        if not self.held:
            return
        beside = [lora for lora in loras if lora.path in self.held]
        for kind, model in _models(self.pipe):
            text = kind.startswith("text_encoder")
            strengths = {self.held[x.path]: x.text_encoder if text else x.denoiser for x in beside}
            _activate(model, strengths)


def digest_of_lora(path: Path) -> str:
    """Exact digest of a LoRA file: names, dtypes, shapes and bytes, and peft's settings.

    Settings of peft's own layout, which lie beside the file, are part of it.

    Raises:
        WeightsError: Unreadable, no LoRA, or a tensor that holds NaN or infinity.
    """
    header = read_header(path)
    _check_kind(header)
    with reading(f"{str(path)!r} cannot be read", WeightsError):
        tensors = load_file(path)
    refuse_not_finite(path, tensors)
    digest = exact_digest(header)
    if not peft_layout.is_peft(header):
        return digest
    return canonical_digest([digest, peft_layout.settings_of(path)])


def check_fit(path: Path, pipe: DiffusionPipeline) -> None:
    """Refuse a LoRA of another family than the checkpoint's.

    Raises:
        WeightsError: What the LoRA is of, and what the checkpoint is.
    """
    header = read_header(path)
    mine, width = _family(header)
    name = type(pipe).__name__.removesuffix("Pipeline")
    own = getattr(getattr(pipe, "unet", None), "config", None)
    if own is None:
        like = {"StableDiffusion3": "Stable Diffusion 3", "Flux": "Flux"}.get(name, name)
        if mine not in ("", "another model", like):
            raise WeightsError(f"{str(path)!r} is a LoRA for {mine}; the checkpoint is {like}")
        return
    wanted = own.cross_attention_dim
    if mine and (not width or width != wanted):
        said = f"{mine} (it attends to text of width {width})" if width else mine
        what = _WIDTHS.get(wanted, name)
        raise WeightsError(
            f"{str(path)!r} is a LoRA for {said}; the checkpoint is {what} (text of width {wanted})"
        )


def family_of_lora(header: Header) -> str:
    """What a LoRA is for, such as 'SDXL'; '' where its names do not tell."""
    return _family(header)[0]


def _load(pipe: DiffusionPipeline, path: Path, name: str) -> None:
    check_fit(path, pipe)
    if not hasattr(pipe, "load_lora_weights"):
        raise WeightsError(f"{str(path)!r}: diffusers loads no LoRA into a {type(pipe).__name__}")
    header = read_header(path)
    downs = [n for n in header.shapes if _DOWN.search(n) or _OLD_DOWN.search(n)]
    kohya = any(n.startswith(_KOHYA) for n in header.shapes)
    folded: dict[str, torch.Tensor] | None = None
    if kohya:
        folded = _alpha_folded(path)
    elif peft_layout.is_peft(header):
        folded = peft_layout.diffusers_tensors(path, pipe)
    with (
        reading(f"{str(path)!r} does not fit the checkpoint", WeightsError),
        quiet_libraries(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        if folded is not None:
            pipe.load_lora_weights(folded, adapter_name=name)
        else:
            pipe.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=name,
                local_files_only=True,
                use_safetensors=True,
            )
    placed = sum(
        name in getattr(layer, "lora_A", {})
        for _, model in _models(pipe)
        for layer in model.modules()
    )
    if placed < len(downs):
        raise WeightsError(
            f"{str(path)!r}: {len(downs) - placed} of its {len(downs)} layers have no place in the "
            f"checkpoint ({some(downs, 1)}): a LoRA for another model, or in a layout that "
            "diffusers does not read"
        )


def _alpha_folded(path: Path) -> dict[str, torch.Tensor]:
    """A kohya file's tensors with strength alpha / rank inside, so that nobody need know it."""
    with reading(f"{str(path)!r} cannot be read", WeightsError):
        tensors = load_file(path)
    asked = any(n.startswith("lora_transformer_") for n in tensors)  # diffusers looks for alphas
    for key in [n for n in tensors if n.endswith(".alpha")]:
        base, value = key.removesuffix(".alpha"), tensors.pop(key)
        if value.numel() != 1:
            raise WeightsError(
                f"{str(path)!r}: {key[:80]!a} has the shape {tuple(value.shape)}, not one number"
            )
        alpha = float(value)
        up, down = f"{base}.lora_up.weight", f"{base}.lora_down.weight"
        if up in tensors and down in tensors:
            rank = tensors[down].shape[0] if tensors[down].ndim else 0
            if not rank:
                raise WeightsError(f"{str(path)!r}: {down[:80]!a} has no rank")
            tensors[up] = tensors[up].float() * (alpha / rank)
            if asked:
                tensors[key] = torch.tensor(float(rank))
    return tensors


def _models(pipe: DiffusionPipeline) -> list[tuple[str, ModelMixin]]:
    held = ((kind, getattr(pipe, kind, None)) for kind in COMPONENTS)
    return [(kind, model) for kind, model in held if isinstance(model, torch.nn.Module)]


def _activate(model: ModelMixin, strengths: Mapping[str, float]) -> None:
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            mine = [name for name in strengths if name in getattr(layer, "lora_A", {})]
            layer.enable_adapters(enabled=bool(mine))
            if mine:
                layer.set_adapter(mine)
            for name in mine:
                layer.set_scale(name, strengths[name])


def _check_kind(header: Header) -> None:
    for pattern, kind in _OTHER_KINDS:
        if any(pattern.search(name) for name in header.shapes):
            raise WeightsError(
                f"{str(header.path)!r} is {kind}; LoRA, LoCon, LoHa, LoKr, DoRA and whole "
                "differences are supported"
            )
    if is_merged(header):
        unknown = unknown_parts(header)
        if unknown:
            raise WeightsError(
                f"{str(header.path)!r} is an adapter with {len(unknown)} tensors that have no "
                f"meaning here ({some(unknown, 1)}) and would have no effect"
            )
        return
    downs = [n for n in header.shapes if _DOWN.search(n) or _OLD_DOWN.search(n)]
    if not downs:
        raise WeightsError(f"{str(header.path)!r} {seems_to_be(header)}; name a LoRA file")
    others = [n for n in header.shapes if n not in set(downs) and not _UP.search(n)]
    if others:
        raise WeightsError(
            f"{str(header.path)!r} is a LoRA with {len(others)} tensors that are no down matrix, "
            f"up matrix or alpha ({some(others, 1)}) and would have no effect; plain LoRA files "
            "alone are supported"
        )
    ups = sum(not n.endswith(".alpha") for n in header.shapes) - len(downs)
    if ups != len(downs):
        raise WeightsError(
            f"{str(header.path)!r} has {len(downs)} down matrices and {ups} up matrices, as many "
            "of both are needed: get it again"
        )


def _family(header: Header) -> tuple[str, int]:
    """What a LoRA is for, '' where its names do not tell, and the width of the text, or 0."""
    names = list(header.shapes)
    if any("single_blocks" in n or "single_transformer_blocks" in n for n in names):
        return "Flux", 0
    if any("joint_blocks" in n or "add_q_proj" in n for n in names):
        return "Stable Diffusion 3", 0
    for name, shape in header.shapes.items():
        down = _DOWN.search(name) or _OLD_DOWN.search(name) or name.endswith(".hada_w1_b")
        if down and _CONTEXT.search(name) and len(shape) == 2:
            return _WIDTHS.get(shape[1], "another model"), shape[1]
    return "", 0
