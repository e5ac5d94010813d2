"""Load single-file checkpoints and stand-alone VAE files, with nothing fetched.

Checkpoints as the WebUIs keep them are one .safetensors file with the tensor names of the
original LDM code and no configuration. diffusers converts the names, but takes
configuration and vocabulary from the network. Here the configurations are package data
(`harness/models/configs`), the vocabulary is the BPE table inside open_clip, and before anything is
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
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from safetensors import safe_open
from transformers import CLIPTokenizer

from harness.errors import reading
from harness.json_types import JsonObject
from harness.models.checkpoint_keys import (
    WHOLE,
    Tensors,
    check_tensors,
    convert,
    empty_model,
    names_of,
)
from harness.models.components import load_component
from harness.models.folders import check_folder
from harness.models.safetensors_header import (
    UNET,
    VAE_OF,
    Header,
    VaeFamily,
    WeightsError,
    family_of,
    read_header,
    seems_to_be,
    told_prediction,
)
from harness.models.scaled_fp8 import Scales, scales_of, unscaled
from harness.models.schedulers import ignored_settings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
    from transformers import PreTrainedTokenizerBase

__all__ = ["WHOLE", "WeightsError", "check_tensors", "clip_tokenizer", "load_pipeline_file"]

CONFIGS = Path(__file__).parent / "configs"
VAE_CONFIGS = {"sd15": "sd15", "sdxl": "sdxl", "sd3": "sd3-medium", "flux": "flux-dev"}
COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
AT_ONCE = 32
"""Tensors that are read together where they change precision; the file's pages are then let go."""

_VAE_PREFIX = re.compile(r"^(first_stage_model|vae)\.(?=(en|de)coder\.|(post_)?quant_conv\.)")
_VAE_PART = re.compile(r"^((en|de)coder|(post_)?quant_conv)\.")
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.")
_NEW_NAME = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_pipeline_file(
    path: Path,
    dtype: torch.dtype,
    parts: Path | None = None,
    prediction: str | None = None,
) -> DiffusionPipeline:
    """Load a full checkpoint of any family in `harness/models/configs` from one .safetensors file.

    The pipeline is on the CPU, without a safety checker, with the family's published
    sampler. Works without a network.

    Args:
        path: The file.
        dtype: Of all weights.
        parts: A diffusers folder that gives the VAE, text encoders and tokenizers that the file
            lacks.
        prediction: 'epsilon' or 'v': what the denoiser predicts, where the file does not tell.

    Raises:
        WeightsError: The file cannot be read, is something else, or lacks a component.
    """
    header = read_header(path)
    return load_with_configs(header, dtype, CONFIGS / family_of(header), parts, prediction)


def load_with_configs(
    header: Header,
    dtype: torch.dtype,
    folder: Path,
    parts: Path | None = None,
    prediction: str | None = None,
) -> DiffusionPipeline:
    """Load a checkpoint as the pipeline that `folder` describes; see `load_pipeline_file`.

    Tensors that keep their precision stay in the mapped file; others are cast a few at a time.
    So loading never holds the file twice.

    Raises:
        WeightsError: A tensor is missing or misshapen; the component is named.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    scheduler = _scheduler(header, folder, index, prediction)
    wanted = [c for c in COMPONENTS if c in index]
    scales = _scales(header)
    names = [n for n in header.shapes if not n.startswith("model_ema.") and n not in scales.beside]
    held = {c: names_of(c, index["_class_name"], names) for c in wanted}
    for component in wanted:
        lent = parts is not None and component not in ("unet", "transformer")
        # Stable Diffusion 3 draws without its T5, too.
        if not held[component] and (lent or component == "text_encoder_3"):
            continue
        # Rehearsed on shapes alone: an error is found before gigabytes are read.
        meta = {
            name: torch.empty(
                header.shapes[name], dtype=_kind_of(header.dtypes[name]), device="meta"
            )
            for name in held[component]
        }
        try:
            convert(header.path, component, meta, _config(folder / component))
        except WeightsError as error:
            if held[component] or component in ("unet", "transformer"):
                raise
            raise WeightsError(
                f"{error}, or set components_from to a folder that gives it"
            ) from None
    made: JsonObject = {}
    for component in wanted:
        if held[component]:
            made[component] = _load(header.path, component, held[component], scales, folder, dtype)
        elif parts is not None:
            made[component] = _from_parts(parts, component, index[component], dtype)
        else:
            made[component] = None
    for name in index:
        if name.startswith("tokenizer"):
            made[name] = _tokenizer(header, folder, name, index[name][1], parts, made)
    pipeline = getattr(diffusers, index["_class_name"])
    extra = {k: v for k, v in index.items() if isinstance(v, bool)}
    nothing = {k: None for k in ("safety_checker", "feature_extractor") if k in index}
    return pipeline(**made, scheduler=scheduler, **extra, **nothing)


def _load(
    path: Path,
    component: str,
    names: list[str],
    scales: Scales,
    folder: Path,
    dtype: torch.dtype,
) -> ModelMixin:
    config = _config(folder / component)
    tensors: Tensors = {}
    for start in range(0, len(names), AT_ONCE):
        with safe_open(path, framework="pt") as file:
            for name in names[start : start + AT_ONCE]:
                tensor = _tensor(path, file, name, scales)
                tensors[name] = _as(tensor, _kept(component, name, config, dtype))
    model = empty_model(config)
    converted = convert(path, component, tensors, config)
    tensors.clear()
    model.load_state_dict(converted, assign=True)
    return model.eval()


def _scales(header: Header) -> Scales:
    with safe_open(header.path, framework="pt") as file:
        return scales_of(header, file.get_tensor)


def _tensor(path: Path, file: Any, name: str, scales: Scales) -> torch.Tensor:
    """One tensor of an open file, times its scale where it has one."""
    tensor: torch.Tensor = file.get_tensor(name)
    if name not in scales.of:
        return tensor
    try:
        return unscaled(tensor, file.get_tensor(scales.of[name]))
    except ValueError as error:
        raise WeightsError(f"{str(path)!r}: {name[:80]!a}: {error}") from None


def _as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _kept(component: str, name: str, config: JsonObject, dtype: torch.dtype) -> torch.dtype:
    """Precision of one tensor: T5 overflows in fp16 where its layers' halves are put together."""
    upcast = dtype == torch.float16 and config.get("model_type") == "t5" and ".wo." in name
    return torch.float32 if upcast else dtype


def _from_parts(parts: Path, component: str, kind: list[str], dtype: torch.dtype) -> ModelMixin:
    library = {"diffusers": diffusers, "transformers": transformers}[kind[0]]
    if not (parts / component).is_dir():
        raise WeightsError(f"components_from: {str(parts)!r} has no folder {component!r}")
    return load_component(parts / component, getattr(library, kind[1]), dtype)


def _tokenizer(
    header: Header, folder: Path, name: str, kind: str, parts: Path | None, made: JsonObject
) -> PreTrainedTokenizerBase | None:
    if made[name.replace("tokenizer", "text_encoder")] is None:
        return None
    if kind == "CLIPTokenizer":
        return clip_tokenizer(folder / name)
    if parts is None or not (parts / name).is_dir():
        raise WeightsError(
            f"{str(header.path)!r} has a T5, whose vocabulary no such file holds: set "
            f"components_from to a diffusers folder with {name!r}"
        )
    check_folder(parts / name)
    with reading(f"components_from: {str(parts / name)!r} cannot be loaded", WeightsError):
        return transformers.AutoTokenizer.from_pretrained(
            parts / name, local_files_only=True, trust_remote_code=False
        )


def _scheduler(
    header: Header, folder: Path, index: JsonObject, prediction: str | None
) -> SchedulerMixin:
    """The family's sampler, for what the denoiser predicts."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    scheduler_class = getattr(diffusers, index["scheduler"][1])
    told = told_prediction(header)
    if "beta_start" in config:
        if prediction and told and prediction != told:
            raise WeightsError(
                f"{str(header.path)!r} says of itself that it predicts {told}, not {prediction}"
            )
        known = prediction or told
        if known is None and config.get("prediction_type") == "v_prediction":
            raise WeightsError(
                f"{str(header.path)!r} is a Stable Diffusion 2.x, which does not tell what it "
                "predicts: set prediction_type: v (768 pixels) or prediction_type: epsilon "
                "(512-base)"
            )
        names = {"v": "v_prediction", "epsilon": "epsilon", None: "epsilon"}
        config["prediction_type"] = names[known]
        if "ztsnr" in header.shapes:
            config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            if ignored_settings(scheduler_class.from_config(config)):
                # PNDM does not know it, and the noise schedule would be another one.
                scheduler_class = diffusers.DDIMScheduler
    elif prediction:
        raise WeightsError(f"{str(header.path)!r} follows a flow: leave out prediction")
    return scheduler_class.from_config(config)


def load_vae_file(path: Path, dtype: torch.dtype, family: VaeFamily | None = None) -> AutoencoderKL:
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
        own = VAE_OF[family_of(header)]
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
    return load_vae_with_configs(header, dtype, CONFIGS / VAE_CONFIGS[family])


def load_vae_with_configs(header: Header, dtype: torch.dtype, folder: Path) -> AutoencoderKL:
    """Load a VAE as the `vae` of the pipeline that `folder` describes; see `load_vae_as`."""
    return load_vae_as(header, dtype, _config(folder / "vae"))


def load_vae_as(header: Header, dtype: torch.dtype, config: JsonObject) -> AutoencoderKL:
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
    scales = _scales(header)
    names = {name: new for name, new in names.items() if name not in scales.beside}
    with safe_open(header.path, framework="pt") as file:
        tensors = {new: _tensor(header.path, file, name, scales) for name, new in names.items()}
    tensors = convert(header.path, "vae", tensors, config)
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
def _bpe() -> tuple[dict[str, int], list[object]]:
    from open_clip.tokenizer import SimpleTokenizer

    table = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {special.get(t, t): i for t, i in table.encoder.items()}, list(table.bpe_ranks)


def _config(folder: Path) -> JsonObject:
    config: JsonObject = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def current_name(name: str) -> str:
    """A VAE tensor's name without prefix, its attention layers as diffusers names them now."""
    plain = _VAE_PREFIX.sub("", name)
    return _OLD_ATTENTION.sub(lambda m: f"{m[1]}{_NEW_NAME[m[2]]}.", plain)


def _kind_of(dtype: str) -> torch.dtype:
    """Any float or any integer type, after safetensors' name of a dtype."""
    return torch.float32 if dtype.startswith(("F", "BF")) else torch.int64
