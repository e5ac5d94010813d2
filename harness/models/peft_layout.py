"""LoRA files as peft itself saves them: 'base_model.model.…' names, strength in a second file.

peft wraps one model, so the names do not say which component of a pipeline it was; the names of
its layers do. The strength alpha / rank lies in adapter_config.json beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from harness.errors import reading
from harness.json_types import JsonObject
from harness.models.folders import read_config
from harness.models.safetensors_header import Header, WeightsError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PREFIX = "base_model.model."
CONFIG = "adapter_config.json"
_OF_WIDTH = re.compile(r"q_proj\.(lora_A|hada_w1_b)")
KINDS = ("LORA", "LOHA", "LOKR")
_COMPONENTS = (
    ("unet", re.compile(r"^(down_blocks|mid_block|up_blocks)\.")),
    ("transformer", re.compile(r"^(single_)?transformer_blocks\.")),
    ("text_encoder", re.compile(r"^(text_model\.)?encoder\.layers\.")),
)


def is_peft(header: Header) -> bool:
    """Whether a file has peft's own names."""
    return any(name.startswith(PREFIX) for name in header.shapes)


def settings_of(path: Path) -> JsonObject:
    """What of adapter_config.json changes the effect of a LoRA.

    Args:
        path: Path of the weights, beside which the settings lie.

    Raises:
        WeightsError: No such file, or settings of another kind of adapter.
    """
    where = path.with_name(CONFIG)
    if not where.exists():
        raise WeightsError(
            f"{str(path)!r} is a LoRA in peft's own layout, whose strength lies in {CONFIG}: put "
            "that file beside it"
        )
    config = read_config(where)
    kind = config.get("peft_type")
    if kind not in KINDS or config.get("modules_to_save"):
        said = "whole modules" if kind in KINDS else f"peft_type {ascii(kind)[:40]}"
        raise WeightsError(f"{str(where)!r}: {said}; read are {', '.join(KINDS)}")
    keys = ("r", "lora_alpha", "use_rslora", "alpha_pattern")
    settings = {key: config.get(key) for key in keys}
    if kind != "LORA":
        settings |= {"lora_alpha": config.get("alpha"), "rank_pattern": config.get("rank_pattern")}
    patterns = settings["alpha_pattern"] or {}
    if not isinstance(patterns, dict):
        raise WeightsError(f"{str(where)!r}: alpha_pattern is no mapping of layers to numbers")
    alphas = [settings["lora_alpha"], *patterns.values()]
    if not all(isinstance(a, (int, float)) for a in alphas):
        raise WeightsError(f"{str(where)!r}: lora_alpha {ascii(alphas)[:80]} should be numbers")
    return settings


def diffusers_tensors(path: Path, pipe: DiffusionPipeline) -> dict[str, torch.Tensor]:
    """The LoRA under diffusers' names, its strength alpha / rank multiplied into the up matrices.

    Args:
        path: Path of the weights.
        pipe: Pipeline that it is for; decides which text encoder is meant.

    Raises:
        WeightsError: It is for no component known here, its settings cannot be read, or a matrix
            has no rank.
    """
    settings = settings_of(path)
    with reading(f"{str(path)!r} cannot be read", WeightsError):
        tensors = {n.removeprefix(PREFIX): t for n, t in load_file(path).items()}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or not tensor.numel():
            raise WeightsError(f"{str(path)!r}: {name[:80]!a} has no rank")
    component = component_of(path, tensors, pipe)
    patterns = dict(settings["alpha_pattern"] or {})
    out = {}
    for name, tensor in tensors.items():
        layer = re.sub(r"\.lora_[AB](\.\w+)?\.weight$", "", name)
        if ".lora_B" in name:
            rank = tensor.shape[1]
            alpha = _of_layer(patterns, layer, settings["lora_alpha"])
            tensor = tensor.float() * _scale(settings, alpha, rank)
        if component.startswith("text_encoder"):
            inner = hasattr(getattr(pipe, component), "text_model")
            name = ("text_model." if inner else "") + name.removeprefix("text_model.")
        out[f"{component}.{name}"] = tensor
    return out


def scales(path: Path, layers: Collection[str]) -> dict[str, float]:
    """Alpha / rank by layer, of an adapter whose change is put into the weights.

    Args:
        path: Path of the weights.
        layers: Names of the layers, without peft's prefix.
    """
    settings = settings_of(path)
    ranks = dict(settings.get("rank_pattern") or {})
    alphas = dict(settings["alpha_pattern"] or {})
    made = {}
    for layer in layers:
        rank = _of_layer(ranks, layer, settings["r"])
        alpha = _of_layer(alphas, layer, settings["lora_alpha"])
        if not isinstance(rank, int) or rank < 1:
            raise WeightsError(f"{str(path.with_name(CONFIG))!r}: r {ascii(rank)[:40]} is no rank")
        made[layer] = _scale(settings, alpha, rank)
    return made


def _scale(settings: JsonObject, alpha: float, rank: int) -> float:
    return alpha / (sqrt(rank) if settings["use_rslora"] else rank)


def _of_layer(patterns: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
    found = (v for k, v in patterns.items() if layer == k or layer.endswith(f".{k}"))
    return next(found, otherwise)


def component_of(path: Path, tensors: dict[str, torch.Tensor], pipe: DiffusionPipeline) -> str:
    """Which component of a pipeline an adapter in peft's own layout is for.

    Args:
        path: Path of the weights, for messages.
        tensors: Its tensors, without peft's prefix.
        pipe: The pipeline.

    Raises:
        WeightsError: It is for none known here.
    """
    for component, pattern in _COMPONENTS:
        if not any(pattern.search(name) for name in tensors):
            continue
        if component != "text_encoder":
            return component
        width = next(
            (t.shape[1] for n, t in tensors.items() if _OF_WIDTH.search(n)),
            0,
        )
        for kind in ("text_encoder", "text_encoder_2"):
            config = getattr(getattr(pipe, kind, None), "config", None)
            if config is not None and width in (0, config.hidden_size):
                return kind
    raise WeightsError(
        f"{str(path)!r} is a LoRA in peft's own layout for no component of a "
        f"{type(pipe).__name__} known here: U-Net, transformer and CLIP text encoders are"
    )
