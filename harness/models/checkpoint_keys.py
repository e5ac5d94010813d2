"""Tensor names of single-file checkpoints: each component's, under its model's own names.

The names are those of each family's original code, with the prefixes that the WebUIs and ComfyUI
keep. diffusers knows how to rename them; here it is checked that all of them are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

from harness.errors import reason
from harness.json_types import JsonObject
from harness.models.safetensors_header import UNET, WeightsError, some
from harness.models.traced_keys import names_in, traced

if TYPE_CHECKING:
    from diffusers import ModelMixin

WHOLE = "name a file that holds the whole model"
Tensors = dict[str, torch.Tensor]
MODELS = {
    c.__name__: c
    for c in (AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel)
}
_BARE = ("double_blocks.0.img_attn.qkv.weight", "joint_blocks.0.x_block.attn.qkv.weight")
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_NAMED = ("clip_l", "clip_g", "t5xxl")
PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": (UNET,),
    "transformer": (UNET,),
    "vae": ("first_stage_model.", "vae."),
    "sd.text_encoder": (_CLIP[0], _OPEN_CLIP[0]),
    "sdxl.text_encoder": (_CLIP[1],),
    "sdxl.text_encoder_2": (_OPEN_CLIP[1],),
    "sd3.text_encoder": ("text_encoders.clip_l.transformer.",),
    "sd3.text_encoder_2": ("text_encoders.clip_g.transformer.",),
    "sd3.text_encoder_3": ("text_encoders.t5xxl.transformer.",),
    "flux.text_encoder": ("text_encoders.clip_l.transformer.",),
    "flux.text_encoder_2": ("text_encoders.t5xxl.transformer.",),
}
"""Where a component's tensors are; the part before the point is a kind of family."""
KINDS = {
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}


_HARMLESS = re.compile(
    r"position_ids$|logit_scale$|text_projection(\.weight)?$|\.attn_mask$|spiece_model$"
    r"|encoder\.embed_tokens\.weight$|^first_stage_model\.loss\."
)
"""Tensors that the original code keeps beside the weights and no image depends on: counters, the
training loss, a projection that only retrieval uses, a second name of the token embeddings."""
_BLOCK = re.compile(r"\.resblocks\.(\d+)\.")


def names_of(component: str, pipeline: str, names: list[str]) -> list[str]:
    """The tensors of a file that belong to a component of a pipeline of some class."""
    kind = KINDS.get(pipeline, "sd")
    starts = PREFIXES[f"{kind}.{component}" if component.startswith("text") else component]
    if component == "transformer" and any(bare in names for bare in _BARE):
        held = [p for key, values in PREFIXES.items() if key != "transformer" for p in values]
        return [n for n in names if not n.startswith(tuple(p for p in held if p != UNET))]
    return [n for n in names if n.startswith(starts)]


def empty_model(config: JsonObject) -> ModelMixin:
    """The model that a configuration describes, without memory for its weights."""
    with init_empty_weights():
        if "_class_name" in config:
            return MODELS[config["_class_name"]].from_config(config)
        kind = getattr(transformers, config["architectures"][0])
        return kind(kind.config_class(**config))


def convert(path: Path, component: str, tensors: Tensors, config: JsonObject) -> Tensors:
    """A component's tensors from a file's, under the model's own names, all there and checked.

    The conversion is rehearsed on shapes, which tells the tensors that it would drop.

    Args:
        path: Path of the file, for messages.
        component: Name of the component in the pipeline.
        tensors: Tensors of the component by their names in the file, with data or without.
        config: Configuration of the component.

    Raises:
        WeightsError: A tensor is missing, misshapen or left over; the component is named.
    """
    model = empty_model(config)
    shapes: Tensors = {n: traced(n, tuple(t.shape), t.dtype) for n, t in tensors.items()}
    try:
        rehearsed = _own_names(component, shapes, config, model)
        expected = model.state_dict()
        plain = {name.removeprefix("text_model."): t for name, t in expected.items()}
        check_tensors(path, component, plain, rehearsed)
        used = names_in({name: rehearsed[name] for name in plain})
        _refuse_dropped(path, component, tensors.keys() - used, config)
        found = _own_names(component, dict(tensors), config, model)
    except WeightsError:
        raise
    except Exception as error:
        # The converters look some names up without asking, and cut some tensors up.
        raise WeightsError(
            f"{str(path)!r} lacks parts of its {component} ({reason(error)}); {WHOLE}"
        ) from None
    return {name: found[name.removeprefix("text_model.")] for name in expected}


def _own_names(component: str, tensors: Tensors, config: JsonObject, model: ModelMixin) -> Tensors:
    found = _renamed(component, tensors, config, model)
    # transformers 5.6 dropped this prefix from one of its two text encoders.
    found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    if isinstance(model, transformers.T5EncoderModel):
        shared = found.get("shared.weight", found.get("encoder.embed_tokens.weight"))
        if shared is not None:
            found |= {"shared.weight": shared, "encoder.embed_tokens.weight": shared}
    return found


def _renamed(component: str, tensors: Tensors, config: JsonObject, model: ModelMixin) -> Tensors:
    if isinstance(model, UNet2DConditionModel):
        return convert_ldm_unet_checkpoint(tensors, config)
    if isinstance(model, AutoencoderKL):
        own_names = "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors
        if any(name.startswith("vae.") for name in tensors):
            tensors = {n.removeprefix("vae."): t for n, t in tensors.items()}
        return tensors if own_names else convert_ldm_vae_checkpoint(tensors, config)
    if isinstance(model, SD3Transformer2DModel):
        return convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    if isinstance(model, FluxTransformer2DModel):
        return convert_flux_transformer_checkpoint_to_diffusers(tensors)
    for start in _OPEN_CLIP:
        if any(name.startswith(start) for name in tensors):
            return convert_open_clip_checkpoint(model, tensors, start)
    for name in _NAMED:
        start = f"text_encoders.{name}.transformer."
        if any(n.startswith(start) for n in tensors):
            return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
    return convert_ldm_clip_checkpoint(tensors)


def _refuse_dropped(path: Path, component: str, names: Iterable[str], config: JsonObject) -> None:
    # Stable Diffusion 2 uses its text encoder up to the last layer but one.
    layers = config.get("num_hidden_layers", 0)
    kept = (n for n in names if not ((b := _BLOCK.search(n)) and int(b[1]) >= layers))
    refuse_left_over(path, component, kept)


def refuse_left_over(path: Path, component: str, names: Iterable[str]) -> None:
    """Refuse a component with tensors that would have no effect.

    Raises:
        WeightsError: There are such names; the first is quoted.
    """
    unused = sorted(n for n in names if not _HARMLESS.search(n))
    if unused:
        raise WeightsError(
            f"{str(path)!r}: its {component} has {len(unused)} tensors too many "
            f"({some(unused, 1)}), which would have no effect: another model, one with added "
            "layers, or quantised in a way that is not known here"
        )


def check_tensors(path: Path, component: str, expected: Tensors, found: Tensors) -> None:
    """Refuse a component with tensors missing, misshapen or quantised.

    Quantised weights are integers with a scale kept elsewhere: cast as they are they would
    load without a word. For tensors left over see `refuse_left_over`.
    """
    missing = expected.keys() - found.keys()
    if missing:
        raise WeightsError(
            f"{str(path)!r} lacks {len(missing)} of {len(expected)} tensors of its {component} "
            f"({some(missing, 1)}); {WHOLE}"
        )
    for name in sorted(expected):
        have, want = tuple(found[name].shape), tuple(expected[name].shape)
        if have != want:
            raise WeightsError(f"{str(path)!r}: {component} {name} is {have}, should be {want}")
        if not found[name].is_floating_point():
            raise WeightsError(
                f"{str(path)!r}: {component} {name} is quantised to integers, should be floating "
                "point; name the file that was not quantised"
            )
