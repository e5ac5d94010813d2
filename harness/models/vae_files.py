"""Read VAEs from folders and stand-alone .safetensors files.

Folders with a config.json and files hold an AutoencoderKL, AutoencoderTiny or
AsymmetricAutoencoderKL; which one a file holds is told from its tensors. What a file does not
hold is its scaling factor: that comes from the caller's family or is assumed, and
`harness.models.vae_scaling` checks it against images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file

import reference
from harness.errors import reading
from harness.json_types import JsonObject
from harness.library_logs import quieten
from harness.models.checkpoint_keys import refuse_left_over
from harness.models.components import load_component
from harness.models.folders import read_config
from harness.models.latent_spaces import KNOWN
from harness.models.pickle_scan import PICKLE_SUFFIXES
from harness.models.safetensors_header import UNET, Header, VaeFamily, WeightsError, read_header
from harness.models.single_file import (
    CONFIGS,
    WHOLE,
    check_tensors,
    current_name,
    load_vae_as,
    load_vae_file,
    vae_names,
)

if TYPE_CHECKING:
    from diffusers import ModelMixin

quieten()
VAE_CLASSES = {c.__name__: c for c in (AutoencoderKL, AutoencoderTiny, AsymmetricAutoencoderKL)}
ASSUMED = "_scale_assumed"
"""In the configuration of a VAE whose file and caller told no family."""


def load_vae_source(
    source: str, base: Path, dtype: torch.dtype, family: VaeFamily | None
) -> ModelMixin:
    """Load 'reference:NAME', a folder or a .safetensors file, on the CPU.

    A checkpoint gives its own VAE.

    A stand-alone file is read as of `family`; without one, as Stable Diffusion 1.x (4 latent
    channels) or 3 (16), with `ASSUMED` in its configuration.

    Raises:
        WeightsError: It is not there, cannot be read, is no VAE, or is of another family.
    """
    if source.startswith("reference:"):
        name = source.removeprefix("reference:")
        whole = name in reference.names()
        with reading("reference", WeightsError):
            path = reference.components(name)["vae"] if whole else reference.component("vae", name)
    else:
        path = base / Path(source).expanduser()
        if (path / "model_index.json").exists():
            path = path / "vae"
    if path.is_file() or path.suffix in {".safetensors", *PICKLE_SUFFIXES}:
        return _load_file(path, dtype, family)
    if not (path / "config.json").exists():
        raise WeightsError("no such VAE; name a folder with config.json or a .safetensors file")
    class_name = read_config(path / "config.json").get("_class_name")
    if not isinstance(class_name, str) or class_name not in VAE_CLASSES:
        raise WeightsError(f"a {str(class_name)[:60]}; supported: {', '.join(VAE_CLASSES)}")
    return load_component(path, VAE_CLASSES[class_name], dtype)


def config_of(header: Header, family: VaeFamily | None) -> JsonObject:
    """The configuration of a stand-alone AutoencoderKL of the published width.

    Raises:
        WeightsError: No VAE, or one of another latent space than the family's.
    """
    names = vae_names(header)
    shapes = {new: header.shapes[name] for name, new in names.items()}
    channels = shapes["decoder.conv_in.weight"][1]
    defaults: dict[int, VaeFamily] = {4: "sd15", 16: "sd3"}
    told = family or defaults.get(channels)
    if told is None:
        raise WeightsError(
            f"{str(header.path)!r} is a VAE for latents of {channels} channels; known are 4 and "
            "16: name a folder with its config.json"
        )
    folder = CONFIGS / (told if told == "sdxl" else "sd15") / "vae"
    config: JsonObject = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config | {
        "latent_channels": KNOWN[told].channels,
        "scaling_factor": KNOWN[told].factor,
        "shift_factor": KNOWN[told].shift or None,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def _load_file(path: Path, dtype: torch.dtype, family: VaeFamily | None) -> ModelMixin:
    header = read_header(path)
    if any(name.startswith(UNET) for name in header.shapes):
        return load_vae_file(path, dtype, family)
    if "decoder.layers.0.weight" in header.shapes:
        return _load_own_names(header, dtype, AutoencoderTiny, _tiny_config(header))
    if any(name.startswith("decoder.condition_encoder.") for name in header.shapes):
        config = _asymmetric_config(header, family or "sd15")
        vae = _load_own_names(header, dtype, AsymmetricAutoencoderKL, config)
    else:
        vae = load_vae_as(header, dtype, config_of(header, family))
    if family is None:
        vae.register_to_config(**{ASSUMED: True})
    return vae


def _load_own_names(
    header: Header, dtype: torch.dtype, kind: type[ModelMixin], config: JsonObject
) -> ModelMixin:
    """A file whose tensors have diffusers' names."""
    with init_empty_weights():
        vae = kind.from_config(config)
    expected = vae.state_dict()
    found = {current_name(name): tensor for name, tensor in load_file(header.path).items()}
    check_tensors(header.path, "vae", expected, found)
    refuse_left_over(header.path, "vae", found.keys() - expected.keys())
    vae.load_state_dict({name: found[name].to(dtype) for name in expected}, assign=True)
    return vae


def _tiny_config(header: Header) -> JsonObject:
    """Widths are those of every published tiny autoencoder; its latents need no scaling."""
    entry = header.shapes["decoder.layers.0.weight"]
    return {"latent_channels": entry[1] if len(entry) == 4 else 0}


def _asymmetric_config(header: Header, family: VaeFamily) -> JsonObject:
    """Depth and widths as the tensors have them, groups as published."""
    shapes = {current_name(name): shape for name, shape in header.shapes.items()}
    down, down_layers = _blocks(shapes, "encoder.down_blocks")
    up, up_layers = _blocks(shapes, "decoder.up_blocks")
    if not (down and up):
        raise WeightsError(f"{str(header.path)!r} lacks an encoder or a decoder; {WHOLE}")
    return {
        "down_block_types": ["DownEncoderBlock2D"] * len(down),
        "down_block_out_channels": down,
        "layers_per_down_block": down_layers,
        "up_block_types": ["UpDecoderBlock2D"] * len(up),
        "up_block_out_channels": up[::-1],
        "layers_per_up_block": up_layers - 1,
        "latent_channels": KNOWN[family].channels,
        "scaling_factor": KNOWN[family].factor,
    }


def _blocks(shapes: dict[str, tuple[int, ...]], side: str) -> tuple[list[int], int]:
    """Width of every block, and the layers of each."""
    entries = [shapes.get(f"{side}.{i}.resnets.0.conv1.weight", ()) for i in range(8)]
    layers = sum(f"{side}.0.resnets.{i}.conv1.weight" in shapes for i in range(16))
    return [shape[0] for shape in entries if shape], layers
