"""Load single-file checkpoints and stand-alone VAE files, with nothing fetched.

Checkpoints as the WebUIs keep them are one .safetensors file with the tensor names of the
original LDM code and no configuration. diffusers converts the names, but takes
configuration and vocabulary from the network. Here the configurations are package data
(`audit/configs`), the vocabulary is the BPE table inside open_clip, and before anything is
read it is checked that the file has every tensor that the model needs, in the right shape.

Where a file carries 'model_ema.*' beside the model, the model's own weights are used, as
the WebUIs do. An SDXL image is never given an invisible watermark, so that pixels do not
depend on which packages are installed.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from audit.weights import (
    UNET,
    Family,
    Header,
    WeightsError,
    family_of,
    read_header,
    seems_to_be,
    some,
)

__all__ = ["WeightsError", "clip_tokenizer", "load_pipeline_file", "load_vae_file"]

CONFIGS = Path(__file__).parent / "configs"
PIPELINES = {c.__name__: c for c in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
TEXT_ENCODERS = {c.__name__: c for c in (CLIPTextModel, CLIPTextModelWithProjection)}
WHOLE = "name a file that holds the whole model"
Tensors = dict[str, torch.Tensor]

_VAE_PREFIX = re.compile(r"^(first_stage_model|vae)\.(?=(en|de)coder\.|(post_)?quant_conv\.)")
_VAE_PART = re.compile(r"^((en|de)coder|(post_)?quant_conv)\.")
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.")
_NEW_NAME = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_pipeline_file(
    path: Path, dtype: torch.dtype
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Load a full Stable Diffusion 1.x or SDXL checkpoint from one .safetensors file.

    The pipeline is on the CPU, without a safety checker, with the family's published
    sampler. Works without a network.

    Raises:
        WeightsError: The file cannot be read, is something else, or lacks a component.
    """
    header = read_header(path)
    return load_with_configs(header, dtype, CONFIGS / family_of(header))


def load_with_configs(
    header: Header, dtype: torch.dtype, folder: Path
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Load a checkpoint as the pipeline that `folder` describes.

    Args:
        header: Of the checkpoint.
        dtype: Of all weights.
        folder: A diffusers pipeline's configuration files, without weights.

    Raises:
        WeightsError: A tensor is missing or misshapen; the component is named.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    tensors = {
        name: torch.empty(shape, dtype=_kind_of(header.dtypes[name]), device="meta")
        for name, shape in header.shapes.items()
        if not name.startswith("model_ema.")
    }
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if component in index:
            _convert(header.path, component, tensors, _config(folder / component))
    tokenizers = {
        name: clip_tokenizer(folder / name)
        for name in ("tokenizer", "tokenizer_2")
        if name in index
    }
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline
    pipe = PIPELINES[index["_class_name"]].from_single_file(
        str(header.path),
        config=str(folder),
        local_files_only=True,
        torch_dtype=dtype,
        **tokenizers,
    )
    return pipe


def load_vae_file(path: Path, dtype: torch.dtype, family: Family | None = None) -> AutoencoderKL:
    """Load the VAE of a stand-alone VAE file, or of a full checkpoint.

    LDM and diffusers tensor names are both read. The VAEs of Stable Diffusion 1.x and SDXL
    have the same names and shapes; only the scaling factor of their latents differs
    (0.18215 and 0.13025), and no file holds it.

    Args:
        path: A .safetensors file.
        dtype: Of all weights.
        family: That of the checkpoint whose latents it decodes. May be left out only for a
            full checkpoint, which tells it.

    Raises:
        WeightsError: The file cannot be read, holds no such VAE, or is of another family.
    """
    header = read_header(path)
    if any(name.startswith(UNET) for name in header.shapes):
        own = family_of(header)
        if family not in (None, own):
            raise WeightsError(
                f"{str(path)!r} is a checkpoint of family {own!r}, not {family!r}: "
                "its VAE has another latent space"
            )
        family = own
    if family is None:
        raise WeightsError(
            f"{str(path)!r} does not tell its family; say 'sd15' or 'sdxl', after the "
            "checkpoint that it is used with"
        )
    return load_vae_with_configs(header, dtype, CONFIGS / family)


def load_vae_with_configs(header: Header, dtype: torch.dtype, folder: Path) -> AutoencoderKL:
    """Load a VAE as the `vae` of the pipeline that `folder` describes; see `load_vae_as`."""
    return load_vae_as(header, dtype, _config(folder / "vae"))


def load_vae_as(header: Header, dtype: torch.dtype, config: dict[str, Any]) -> AutoencoderKL:
    """Load a VAE with a configuration of AutoencoderKL.

    Raises:
        WeightsError: No VAE, other latent channels, or a tensor is missing or misshapen.
    """
    names = vae_names(header)
    shapes = {new: header.shapes[name] for name, new in names.items()}
    found, channels = shapes["decoder.conv_in.weight"][1], config["latent_channels"]
    if found != channels:
        raise WeightsError(
            f"{str(header.path)!r} is a VAE for latents of {found} channels; "
            f"this checkpoint's have {channels}"
        )
    with safe_open(header.path, framework="pt") as file:
        tensors = {new: file.get_tensor(name) for name, new in names.items()}
    tensors = _convert(header.path, "vae", tensors, config)
    with init_empty_weights():
        vae: AutoencoderKL = AutoencoderKL.from_config(config)
    vae.load_state_dict({name: t.to(dtype) for name, t in tensors.items()}, assign=True)
    return vae.eval()


def vae_names(header: Header) -> dict[str, str]:
    """Tensors of a VAE: the name in the file, and without prefix and outdated names.

    The rest of the file (a discriminator, EMA, a U-Net) is left out.

    Raises:
        WeightsError: No decoder of an AutoencoderKL.
    """
    names = {name: current_name(name) for name in header.shapes}
    names = {name: new for name, new in names.items() if _VAE_PART.match(new)}
    entry = {new: header.shapes[name] for name, new in names.items()}.get("decoder.conv_in.weight")
    if entry is None or len(entry) != 4:
        raise WeightsError(
            f"{str(header.path)!r} has no VAE decoder and {seems_to_be(header)}; "
            "name the file of an AutoencoderKL"
        )
    return names


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with the settings in `folder`/tokenizer_config.json.

    The vocabulary is the BPE table that open_clip ships: 49,408 tokens, the same as OpenAI's.
    As in the published SDXL folder, the second tokenizer pads with '!' (id 0). The padding
    token being special, a '!' in a prompt then also becomes 0 and not 256, 'the word !', as
    in training: kept, so that a file and a folder of one model make the same image.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    vocabulary, merges = _bpe()
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        model_max_length=settings["model_max_length"],
        pad_token=settings["pad_token"],
    )


@cache
def _bpe() -> tuple[dict[str, int], list[Any]]:
    from open_clip.tokenizer import SimpleTokenizer

    table = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {special.get(t, t): i for t, i in table.encoder.items()}, list(table.bpe_ranks)


def _convert(path: Path, component: str, tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """A component's tensors from a file's, under the model's own names, all there and checked.

    On tensors with shapes but no data this rehearses the conversion that loading does.
    """
    with init_empty_weights():
        if component == "unet":
            model = UNet2DConditionModel.from_config(config)
        elif component == "vae":
            model = AutoencoderKL.from_config(config)
        else:
            model = TEXT_ENCODERS[config["architectures"][0]](CLIPTextConfig(**config))
    try:
        if component == "unet":
            found = convert_ldm_unet_checkpoint(tensors, config)
        elif component == "vae":
            own_names = "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors
            found = tensors if own_names else convert_ldm_vae_checkpoint(tensors, config)
        elif component == "text_encoder":
            found = convert_ldm_clip_checkpoint(tensors)
        else:
            found = convert_open_clip_checkpoint(model, tensors, "conditioner.embedders.1.model.")
    except (KeyError, IndexError) as error:
        # The converters look some names up without asking, and cut some tensors up.
        raise WeightsError(
            f"{str(path)!r} lacks parts of its {component} ({error!r}); {WHOLE}"
        ) from None
    # transformers 5.6 dropped this prefix from one of its two text encoders.
    found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    expected = {name.removeprefix("text_model."): t for name, t in model.state_dict().items()}
    check_tensors(path, component, expected, found)
    return {name: found[name] for name in expected}


def check_tensors(path: Path, component: str, expected: Tensors, found: Tensors) -> None:
    """Refuse a component with tensors missing, misshapen, quantised, or (U-Net) left over.

    Quantised weights are integers with a scale kept elsewhere: cast as they are they would
    load without a word. Left-over tensors of a U-Net are layers that would be dropped
    silently; those of a text encoder are harmless (position ids).
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
    extra = found.keys() - expected.keys()
    if component == "unet" and extra:
        raise WeightsError(
            f"{str(path)!r}: its unet has {len(extra)} tensors too many ({some(extra, 1)}): "
            "another model, or one with added layers"
        )


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def current_name(name: str) -> str:
    """A VAE tensor's name without prefix, its attention layers as diffusers names them now."""
    plain = _VAE_PREFIX.sub("", name)
    return _OLD_ATTENTION.sub(lambda m: f"{m[1]}{_NEW_NAME[m[2]]}.", plain)


def _kind_of(dtype: str) -> torch.dtype:
    """Any float or any integer type, after safetensors' name of a dtype."""
    return torch.float32 if dtype.startswith(("F", "BF")) else torch.int64
