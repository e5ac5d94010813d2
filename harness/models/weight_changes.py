"""Adapters whose change is put into the weights: LoHa, LoKr, DoRA, LoCon, whole differences.

Where a plain LoRA runs beside the weights, these are merged while they act, and the weights
themselves are put back when they do not: at strength 0 an image is the checkpoint's bit for bit.
With W a layer's weights and s the strength they become W + s D. D is

    LoHa    alpha / r · (A1 B1) ∘ (A2 B2)                    arXiv 2108.06098, 2309.14859
    LoKr    alpha / r · C1 ⊗ C2, each whole or a product     arXiv 2309.14859
    LoCon   alpha / r · A B, with a core in between (Tucker) for convolutions
    DoRA    m (W + D') / ‖W + D'‖ - W, of any D' of those    arXiv 2402.09353

as LyCORIS, the WebUIs and ComfyUI compute it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file

from harness.errors import reading
from harness.models import peft_layout
from harness.models.layer_names import Layer, flat, layers_of
from harness.models.safetensors_header import Header, WeightsError, some

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Parts = Mapping[str, torch.Tensor]
_SPELLED = {
    "lora_up.weight": "up",
    "lora_down.weight": "down",
    "lora_mid.weight": "mid",
    "lora_B.weight": "up",
    "lora_A.weight": "down",
    "lora_B.default.weight": "up",
    "lora_A.default.weight": "down",
    "lora.up.weight": "up",
    "lora.down.weight": "down",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_magnitude_vector.default.weight": "magnitude",
    "diff": "diff",
    "w_norm": "diff",
    "diff_b": "diff_b",
    "b_norm": "diff_b",
    **{n: n for n in ("alpha", "dora_scale")},
    **{f"hada_{n}": f"hada_{n}" for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{n}": f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_PART = re.compile(rf"^(?P<layer>.+)\.(?P<part>{'|'.join(map(re.escape, _SPELLED))})$")
_MERGED = re.compile(
    r"\.(hada_w|lokr_w|lora_mid\.)|\.(dora_scale|diff|diff_b|w_norm|b_norm)$|lora_magnitude_vector"
)
_COMFY = re.compile(r"^(diffusion_model|model\.diffusion_model|text_encoders)\.")
EPS = torch.finfo(torch.float32).eps


class Change(NamedTuple):
    """What a file does to one layer."""

    layer: Layer
    parts: Parts
    scale: float | None
    """alpha / rank where the file does not hold it; None: from its parts."""


def is_merged(header: Header) -> bool:
    """Whether a file's change is put into the weights, whatever its layers are called."""
    return any(_MERGED.search(name) for name in header.shapes)


def has_comfyui_names(header: Header) -> bool:
    """Whether its layers have ComfyUI's names, by which diffusers finds none of a U-Net."""
    return any(_COMFY.match(name) for name in header.shapes)


def unknown_parts(header: Header) -> list[str]:
    """Names of a file's tensors that are no part of an adapter known here."""
    return [name for name in header.shapes if not _PART.match(name)]


def read_changes(path: Path, pipe: DiffusionPipeline) -> list[Change]:
    """A file's changes, layer by layer.

    Args:
        path: The file.
        pipe: The pipeline that it is for.

    Raises:
        WeightsError: It cannot be read, a layer has no place in the pipeline, or a change does not
            fit its layer.
    """
    with reading(f"{str(path)!r} cannot be read", WeightsError):
        tensors = load_file(path)
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        found = _PART.match(name)
        if found is None:
            raise WeightsError(f"{str(path)!r}: {some([name])} is no part of an adapter known here")
        grouped.setdefault(found["layer"], {})[_SPELLED[found["part"]]] = tensor
    named, scales = layers_of(pipe), {}
    prefix = ""
    if any(name.startswith(peft_layout.PREFIX) for name in tensors):
        shorter = {n.removeprefix(peft_layout.PREFIX): t for n, t in tensors.items()}
        prefix = peft_layout.component_of(path, shorter, pipe) + "_"
        scales = peft_layout.scales(path, {k.removeprefix(peft_layout.PREFIX) for k in grouped})
    made, lost = [], []
    for name, parts in grouped.items():
        plain = name.removeprefix(peft_layout.PREFIX)
        layer = named.get(flat(prefix + plain))
        if layer is None:
            lost.append(name)
            continue
        made.append(Change(layer, parts, scales.get(plain)))
    if lost:
        raise WeightsError(
            f"{str(path)!r}: {len(lost)} of its {len(grouped)} layers have no place in the "
            f"checkpoint ({some(lost, 1)}): an adapter for another model, or names that are not "
            "known here"
        )
    for change in made:
        _check(path, change)
    return made


class WeightChanges:
    """The changes that act on one pipeline, and the weights as they were."""

    def __init__(self) -> None:
        self._plain: dict[torch.nn.Module, dict[str, torch.nn.Parameter]] = {}

    @torch.no_grad()
    def act(self, wanted: Iterable[tuple[Sequence[Change], float, float]]) -> None:
        """Have exactly these changes act.

        Args:
            wanted: Changes, with their strength on the denoiser and on the text encoders.
        """
        for module, held in self._plain.items():
            for key, parameter in held.items():
                setattr(module, key, parameter)
        self._plain = {}
        by_layer: dict[torch.nn.Module, list[tuple[Change, float]]] = {}
        for changes, denoiser, text_encoder in wanted:
            for change in changes:
                text = change.layer.component.startswith("text_encoder")
                strength = text_encoder if text else denoiser
                if strength:
                    by_layer.setdefault(change.layer.module, []).append((change, strength))
        for module, several in by_layer.items():
            self._plain[module] = {}
            for key, kinds in (("weight", None), ("bias", "diff_b")):
                mine = [x for x in several if kinds is None or kinds in x[0].parts]
                plain = getattr(module, key, None)
                if not mine or plain is None:
                    continue
                base = plain.float()
                total = sum(s * difference(c.parts, base, c.scale, key).to(base) for c, s in mine)
                new = torch.nn.Parameter((base + total).to(plain), requires_grad=False)
                self._plain[module][key] = plain
                setattr(module, key, new)


def difference(
    parts: Parts, weight: torch.Tensor, scale: float | None = None, key: str = "weight"
) -> torch.Tensor:
    """What an adapter of strength 1 adds to a layer's weights, of their shape.

    Args:
        parts: Its matrices by name.
        weight: The layer's own weights, (out, in, …).
        scale: alpha / rank, where the parts do not say it.
        key: 'weight', or 'bias'.

    Raises:
        KeyError: A matrix is missing.
        RuntimeError: Their shapes do not go together.
    """
    if key == "bias":
        return parts["diff_b"].to(weight).reshape(weight.shape)
    held = {name: tensor.to(weight) for name, tensor in parts.items()}
    if "diff" in held:
        made = held["diff"]
    elif "hada_w1_a" in held:
        made = _hadamard(held) * _scale(held, ("hada_w1_b",), scale)
    elif "lokr_w2" in held or "lokr_w2_a" in held:
        made = _kronecker(held) * _scale(held, ("lokr_w1_b", "lokr_w2_b"), scale)
    elif "diff_b" in held and len(held) == 1:
        return torch.zeros_like(weight)
    else:
        made = _product(held["down"], held["up"], held.get("mid")) * _scale(held, ("down",), scale)
    if made.ndim == 0 or (made.shape[0], made.numel()) != (weight.shape[0], weight.numel()):
        raise RuntimeError("shapes")
    made = made.reshape(weight.shape)
    if "magnitude" in held:  # peft's: of each output
        return _decomposed(weight + made, held["magnitude"], 0) - weight
    if "dora_scale" in held:
        length = held["dora_scale"]
        of_inputs = length.ndim > 1 and length.shape[0] == 1 and length.shape[1] == weight.shape[1]
        return _decomposed(weight + made, length, int(of_inputs)) - weight
    return made


def _scale(held: Parts, ranked: Sequence[str], given: float | None) -> float:
    """Alpha / rank; 1 where nothing is a product, or no alpha is kept."""
    if given is not None:
        return given
    rank = next((held[name].shape[0] for name in ranked if name in held), 0)
    return float(held["alpha"]) / rank if rank and "alpha" in held else 1.0


def _hadamard(held: Parts) -> torch.Tensor:
    if "hada_t1" in held:
        one, two = (
            _rebuilt(held[f"hada_t{n}"], held[f"hada_w{n}_a"], held[f"hada_w{n}_b"]) for n in (1, 2)
        )
    else:
        one, two = (held[f"hada_w{n}_a"] @ held[f"hada_w{n}_b"] for n in (1, 2))
    if one.shape != two.shape:
        raise RuntimeError("shapes")
    return one * two


def _kronecker(held: Parts) -> torch.Tensor:
    one = held["lokr_w1"] if "lokr_w1" in held else held["lokr_w1_a"] @ held["lokr_w1_b"]
    if "lokr_w2" in held:
        two = held["lokr_w2"]
    elif "lokr_t2" in held:
        two = _rebuilt(held["lokr_t2"], held["lokr_w2_a"], held["lokr_w2_b"])
    else:
        two = held["lokr_w2_a"] @ held["lokr_w2_b"].flatten(1)
    return torch.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two)


def _product(down: torch.Tensor, up: torch.Tensor, mid: torch.Tensor | None) -> torch.Tensor:
    if mid is not None:
        return torch.einsum("mn...,im,nj->ij...", mid, up.flatten(1), down.flatten(1))
    return up.flatten(1) @ down.flatten(1)


def _rebuilt(core: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij...,ip,jr->pr...", core, rows, columns)


def _decomposed(weight: torch.Tensor, lengths: torch.Tensor, along: int) -> torch.Tensor:
    """Weights of which each output's (along 0) or each input's (along 1) has that length."""
    others = [d for d in range(weight.ndim) if d != along]
    own = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return weight / (own + EPS) * lengths.reshape(own.shape)


def _check(path: Path, change: Change) -> None:
    """Refuse a change that does not fit its layer before an image is paid for."""
    name = f"{str(path)!r}: {change.layer.name}"
    module: Any = change.layer.module
    weight = module.weight.detach().float()
    alpha = change.parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise WeightsError(f"{name}: alpha has the shape {tuple(alpha.shape)}, not one number")
    try:
        made = difference(change.parts, weight, change.scale)
        if "diff_b" in change.parts:
            difference(change.parts, module.bias, None, "bias")
    except KeyError as error:
        raise WeightsError(f"{name}: its matrix {error} is missing: get the file again") from None
    except (RuntimeError, AttributeError):
        shapes = ", ".join(f"{k} {tuple(t.shape)}" for k, t in change.parts.items())
        raise WeightsError(
            f"{name}: {shapes} make no change of weights of {tuple(weight.shape)}: an adapter for "
            "another model"
        ) from None
    if not bool(made.isfinite().all()):
        raise WeightsError(f"{name}: the change is not finite")
