"""Load checkpoints and VAEs, and say exactly what was loaded.

Weights come from a diffusers folder, a single .safetensors file, a hub id, or the reference
models ('reference:NAME'). Only safetensors are read; nothing is downloaded unless the spec
names a hub id.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

import reference
from harness.errors import AuditError, reading, reason
from harness.library_logs import quieten
from harness.models.components import load_component, load_folder, only_variant
from harness.models.digests import pipeline_digests
from harness.models.families import family
from harness.models.families.other import Pixels
from harness.models.gguf_files import is_gguf, load_gguf
from harness.models.pickle_scan import PICKLE_SUFFIXES
from harness.models.safetensors_header import refuse_not_finite
from harness.models.single_file import WeightsError, load_pipeline_file
from harness.models.vae_files import load_vae_source
from harness.models.vae_identity import LEAST_ALIKE, legal, same_space
from harness.spec.sections import CheckpointSpec, RuntimeSpec

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

quieten()


class Checkpoint(NamedTuple):
    """A loaded pipeline and the exact digests of its components."""

    pipe: DiffusionPipeline
    digests: dict[str, str]
    """text_encoder (with its tokenizer), denoiser, vae, scheduler."""
    revision: str | None
    """Commit of a hub id, else None."""


def pick_device(wanted: str) -> str:
    """'auto' becomes cuda, else mps, else cpu."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(wanted: str, device: str) -> torch.dtype:
    """'auto' becomes float16 on a GPU and float32 on the CPU."""
    if wanted == "auto":
        wanted = "float32" if device == "cpu" else "float16"
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def load_checkpoint(
    name: str,
    spec: CheckpointSpec,
    base: Path,
    device: str,
    dtype: torch.dtype,
    runtime: RuntimeSpec = RuntimeSpec(),  # noqa: B008
) -> Checkpoint:
    """Load one checkpoint with its component swaps, ready on its device.

    Raises:
        WeightsError: One line naming the checkpoint, what was found and what would be right.
    """
    try:
        pipe, revision = _load_pipeline(spec, base, dtype)
        for needed in family(pipe).needed:
            if getattr(pipe, needed, None) is None:
                raise WeightsError(f"lacks its {needed}; a {type(pipe).__name__} needs one")
        _exchange(pipe, spec, base, dtype)
        _check_tokenizers(pipe)
        for kind, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                refuse_not_finite(kind, part.state_dict())
    except (AuditError, OSError) as error:
        raise WeightsError(f"checkpoints.{name}: {spec.source!r}: {reason(error)}") from None
    digests = pipeline_digests(pipe)
    place(pipe, device, runtime)
    pipe.set_progress_bar_config(disable=True)
    return Checkpoint(pipe, digests, revision)


def place(pipe: DiffusionPipeline, device: str, runtime: RuntimeSpec) -> None:
    """Bring a pipeline to its device, as the spec's runtime settings say.

    With cpu_offload the text encoders and the denoiser come to the GPU only for their work. The
    VAE takes no part in that: who decodes moves it, as any other VAE of the spec.
    """
    denoiser = getattr(pipe, family(pipe).denoiser, None)
    if runtime.channels_last and denoiser is not None:
        denoiser.to(memory_format=torch.channels_last)
    if runtime.cpu_offload and device != "cpu":
        order = pipe.model_cpu_offload_seq.split("->")
        pipe.model_cpu_offload_seq = "->".join(part for part in order if part != "vae")
        pipe._exclude_from_cpu_offload = [*pipe._exclude_from_cpu_offload, "vae"]
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if runtime.compile:
        compile_denoiser(pipe)


def compile_denoiser(pipe: DiffusionPipeline) -> None:
    """Have torch compile a pipeline's denoiser at its first forward."""
    denoiser = getattr(pipe, family(pipe).denoiser, None)
    if denoiser is not None:
        denoiser.compile()


def load_vae(
    name: str,
    source: str,
    base: Path,
    pipe: DiffusionPipeline,
    dtype: torch.dtype,
    any_space: bool = False,
) -> ModelMixin | Pixels:
    """Load a VAE to decode the latents of `pipe` ('own': the checkpoint's).

    Raises:
        WeightsError: It cannot be read, its latents are of another shape than the denoiser's
            or, unless `any_space`, of another latent space.
    """
    named = family(pipe)
    if not named.inside:
        if source != "own":
            raise WeightsError(
                f"vaes.{name}: {source!r}: a {named.name} decodes by itself; of its images only "
                "'own' can be had"
            )
        return Pixels()
    if source == "own":
        vae = pipe.vae
    else:
        try:
            vae = load_vae_source(source, base, dtype, named.vae_family)
        except (AuditError, OSError) as error:
            raise WeightsError(f"vaes.{name}: {source!r}: {reason(error)}") from None
    check_latent_space(name, vae, pipe, any_space)
    if dtype == torch.float16 and named.vae_in_fp32:
        vae = vae.to(torch.float32) if vae.config.get("force_upcast", False) else vae
    return vae.to(named.device).eval()


def check_latent_space(
    name: str, vae: ModelMixin, pipe: DiffusionPipeline, any_space: bool = False
) -> None:
    """Refuse a VAE whose latents are of another shape or space than the checkpoint's own."""
    why = legal(vae, family(pipe).channels, pipe.vae_scale_factor)
    if why:
        raise WeightsError(f"vaes.{name}: {why}")
    if vae is pipe.vae or any_space:
        return
    device = family(pipe).device
    alike = same_space(vae.to(device), pipe.vae.to(device))
    if alike < LEAST_ALIKE:  # NaN where one overflows in this precision: not known
        raise WeightsError(
            f"vaes.{name}: another latent space than the checkpoint's: of the same images its "
            f"latents correlate with those of the own VAE by {alike:.2f} (needed: {LEAST_ALIKE}); "
            "to decode with it all the same, set allow_latent_space_mismatch: true"
        )


@torch.no_grad()
def decode(vae: ModelMixin, latents: torch.Tensor) -> torch.Tensor:
    """Final latents to images: (n, 3, height, width), about [-1, 1], float.

    Scaling, shift and mean come from the VAE's own configuration.
    """
    if isinstance(vae, Pixels):
        return latents
    config = vae.config
    latents = latents.to(device=vae.device, dtype=vae.dtype)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        centre = torch.tensor(mean).reshape(shape).to(latents)
        spread = torch.tensor(std).reshape(shape).to(latents)
        latents = latents * spread / config.scaling_factor + centre
    else:
        latents = latents / config.scaling_factor
    shift = config.get("shift_factor")
    if shift is not None:
        latents = latents + shift
    images: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return images


def _load_pipeline(
    spec: CheckpointSpec, base: Path, dtype: torch.dtype
) -> tuple[DiffusionPipeline, str | None]:
    if spec.source.startswith("reference:"):
        return _load_reference(spec.source.removeprefix("reference:"), dtype), None
    path = base / Path(spec.source).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise WeightsError("a folder without model_index.json: not a diffusers pipeline")
        return load_folder(path, dtype), None
    if path.is_file() or path.suffix in {".safetensors", *PICKLE_SUFFIXES}:
        parts = base / Path(spec.components_from).expanduser() if spec.components_from else None
        return load_pipeline_file(path, dtype, parts, spec.prediction_type), None
    if spec.source.count("/") == 1 and not spec.source.startswith((".", "/", "~")):
        from huggingface_hub import model_info

        try:
            info = model_info(spec.source, revision=spec.revision)
        except Exception as error:  # of the network, the hub, or the id: all of them are theirs
            raise WeightsError(
                f"the hub id cannot be reached ({reason(error, 120)}); "
                "name a folder or file that is here"
            ) from None
        files = [sibling.rfilename for sibling in info.siblings or ()]
        with reading("the hub id cannot be fetched", WeightsError):
            folder = Path(
                DiffusionPipeline.download(
                    spec.source,
                    revision=info.sha,
                    use_safetensors=True,
                    variant=only_variant(Path(file).name for file in files),
                )
            )
        return load_folder(folder, dtype), info.sha
    raise WeightsError(
        "no such folder or file; name a diffusers folder, a .safetensors file, a hub id "
        "(owner/name) or 'reference:NAME'"
    )


def _check_tokenizers(pipe: DiffusionPipeline) -> None:
    """Refuse a tokenizer that gives its text encoder more than it has room for."""
    for number in ("", "_2"):
        tokenizer = getattr(pipe, f"tokenizer{number}", None)
        config = getattr(getattr(pipe, f"text_encoder{number}", None), "config", None)
        if tokenizer is None or config is None:
            continue
        for needs, key in (
            (tokenizer.model_max_length, "max_position_embeddings"),
            (len(tokenizer), "vocab_size"),
        ):
            room = getattr(config, key, None)
            if not isinstance(needs, int | float):
                raise WeightsError(f"tokenizer{number}: its length is {str(needs)[:40]!a}")
            if type(room) is int and needs > room:
                raise WeightsError(
                    f"tokenizer{number} gives up to {needs:.6g} tokens or numbers of tokens; the "
                    f"text encoder's {key} is {room}"
                )


def _load_reference(name: str, dtype: torch.dtype) -> StableDiffusionPipeline:
    with reading("reference", WeightsError):
        parts = reference.components(name)
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(parts["vae"], dtype=dtype),
        text_encoder=CLIPTextModel.from_pretrained(parts["text_encoder"], dtype=dtype),
        tokenizer=CLIPTokenizer.from_pretrained(parts["tokenizer"]),
        unet=UNet2DConditionModel.from_pretrained(parts["unet"], dtype=dtype),
        scheduler=DDIMScheduler.from_pretrained(parts["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _exchange(
    pipe: DiffusionPipeline, spec: CheckpointSpec, base: Path, dtype: torch.dtype
) -> None:
    """Put in the components that the spec names in place of the checkpoint's own."""
    named = family(pipe)
    if not named.inside and (spec.text_encoder or spec.denoiser or spec.vae):
        raise WeightsError(f"components of a {named.name} cannot be exchanged")
    if spec.text_encoder is not None:
        for kind in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            old = getattr(pipe, kind, None)
            if old is not None:
                new = _part(spec.text_encoder, kind, base, dtype, type(old))
                setattr(pipe, kind, _swap(old, new, kind, ("hidden_size", "vocab_size")))
    if spec.denoiser is not None:
        own: SchedulerMixin = named.model
        file = base / Path(spec.denoiser).expanduser()
        if is_gguf(file):
            new = load_gguf(file, named.denoiser, own, dtype)
        else:
            new = _part(spec.denoiser, named.denoiser, base, dtype, type(own))
        text = "cross_attention_dim" if named.denoiser == "unet" else "joint_attention_dim"
        setattr(pipe, named.denoiser, _swap(own, new, "denoiser", ("in_channels", text)))
    if spec.vae is not None:
        vae = load_vae_source(spec.vae, base, dtype, named.vae_family)
        check_latent_space("own", vae, pipe)
        pipe.vae = vae


def _part(
    source: str, kind: str, base: Path, dtype: torch.dtype, wanted: type[ModelMixin]
) -> ModelMixin:
    """One component: of a whole checkpoint, or from a folder of its own."""
    if source.startswith("reference:"):
        name = source.removeprefix("reference:")
        whole = name in reference.names()
        with reading(f"{kind}", WeightsError):
            path = reference.components(name)[kind] if whole else reference.component(kind, name)
        return wanted.from_pretrained(path, dtype=dtype)
    path = base / Path(source).expanduser()
    if path.is_file() or path.suffix in {".safetensors", *PICKLE_SUFFIXES}:
        return getattr(load_pipeline_file(path, dtype), kind)
    if (path / "model_index.json").exists():
        path = path / kind
    return load_component(path, wanted, dtype)


def _swap(old: ModelMixin, new: ModelMixin, kind: str, keys: tuple[str, ...]) -> ModelMixin:
    for key in keys:
        have, want = getattr(new.config, key, None), getattr(old.config, key, None)
        if have != want:
            raise WeightsError(f"{kind}: its {key} is {have}, the checkpoint's is {want}")
    return new
