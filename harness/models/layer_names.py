"""Names that adapter files have for a pipeline's layers, whichever tool wrote them.

kohya and LyCORIS write `lora_unet_down_blocks_0_…`, in many SDXL files with the original code's
names of blocks (`lora_unet_input_blocks_4_1_…`); ComfyUI `diffusion_model.input_blocks.4.1.…`;
diffusers `unet.down_blocks.0.…`. Dots and underscores are one here: no two layers differ in them
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PREFIXES = {
    "unet": ("lora_unet", "unet", "diffusion_model", "model.diffusion_model", "lycoris"),
    "transformer": ("lora_transformer", "transformer", "lycoris"),
    "text_encoder": (
        *("lora_te", "lora_te1", "text_encoder", "lycoris_te", "lycoris"),
        "text_encoders.clip_l.transformer",
    ),
    "text_encoder_2": ("lora_te2", "text_encoder_2", "text_encoders.clip_g.transformer"),
}
_IN_RESNETS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ALONE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(
    r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


class Layer(NamedTuple):
    """A layer with weights, and the component that it is in."""

    component: str
    name: str
    module: torch.nn.Module


def layers_of(pipe: DiffusionPipeline) -> dict[str, Layer]:
    """A pipeline's layers by every name that files have for them, dots written as underscores.

    Args:
        pipe: The pipeline; LoRA layers of peft in it are looked through.
    """
    found: dict[str, Layer] = {}
    for component, prefixes in PREFIXES.items():
        model = getattr(pipe, component, None)
        if not isinstance(model, torch.nn.Module):
            continue
        for name, module in _weighted(model):
            layer = Layer(component, name, module)
            for spelled in _spellings(component, name, model):
                for prefix in prefixes:
                    found.setdefault(flat(f"{prefix}.{spelled}"), layer)
    return found


def flat(name: str) -> str:
    """A name with dots written as underscores."""
    return name.replace(".", "_")


def original_name(name: str, per_block: int) -> str | None:
    """What the original code of Stable Diffusion calls a layer of diffusers' U-Net.

    >>> original_name("down_blocks.1.attentions.0.proj_in", 2)
    'input_blocks.4.1.proj_in'

    Args:
        name: The layer's name in diffusers.
        per_block: Layers of a block (the config's `layers_per_block`).

    Returns:
        None: the layer has no name there.
    """
    if name in _ALONE:
        return _ALONE[name]
    middle = _MIDDLE.fullmatch(name)
    if middle:
        kind, at, rest = middle[1], int(middle[2]), middle[3]
        inner = _IN_RESNETS.get(rest) if kind == "resnets" else rest
        return inner and f"middle_block.{2 * at if kind == 'resnets' else 1}.{inner}"
    block = _BLOCK.fullmatch(name)
    if not block:
        return None
    side, i, kind, j, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    step = per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{step * (i + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{step * i + per_block}.UP.conv"
    number = f"input_blocks.{step * i + j + 1}" if side == "down_blocks" else ""
    number = number or f"output_blocks.{step * i + j}"
    inner = _IN_RESNETS.get(rest) if kind == "resnets" else rest
    return inner and f"{number}.{0 if kind == 'resnets' else 1}.{inner}"


def _spellings(component: str, name: str, model: Any) -> Iterator[str]:
    yield name
    if component.startswith("text_encoder"):
        yield f"text_model.{name}"
        yield name.removeprefix("text_model.")
    if component != "unet":
        return
    per_block = model.config.get("layers_per_block")
    original = original_name(name, per_block) if type(per_block) is int else None
    if original and ".UP." in original:  # behind an attention where the block has one
        yield original.replace(".UP.", ".1.")
        yield original.replace(".UP.", ".2.")
    elif original:
        yield original


def _weighted(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, module in model.named_modules():
        if ".lora_" in name or not isinstance(getattr(module, "weight", None), torch.Tensor):
            continue
        if any(True for _ in module.children()):  # peft's layer, around the one that is meant
            continue
        yield name.removesuffix(".base_layer"), module
