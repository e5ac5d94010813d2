"""VAEs: load one, use it, tell which it is, and whether it may be swapped in."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from diffusers import AutoencoderTiny
from skimage import data

from harness.errors import AuditError, reason
from harness.hashing import canonical_digest
from harness.models.safetensors_header import VaeFamily, WeightsError
from harness.models.vae_files import VAE_CLASSES, load_vae_source

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from numpy.typing import NDArray

LEAST_ALIKE = 0.5
"""Below this correlation of `same_space` two latent spaces are not the same."""
Kinship = Literal[
    "the same file",
    "a copy",
    "same encoder, other decoder",
    "same decoder, other encoder",
    "different",
]


class VaeIdentity(NamedTuple):
    """Which VAE this is."""

    name: str
    source: str
    exact: str
    """`models.digest_of`: configuration, dtype and every bit."""
    normalised: str
    """Of the weights alone, as fp16: the same for a copy of another precision or layout."""
    encoder: str
    """As `normalised`, of the encoder with its quant_conv."""
    decoder: str
    """As `normalised`, of the decoder with its post_quant_conv."""
    channels: int
    pixels: int
    """Pixels that a latent covers in each direction."""
    scaling_factor: float | None
    """None for an object that says nothing of it."""
    shift_factor: float | None
    kind: str
    """Class."""


class Codec(Protocol):
    """Anything that turns images into latents and back."""

    step: int
    """Pixels that a latent covers in each direction."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, 3, height, width) in [-1, 1] to latents, unscaled."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Unscaled latents to images (n, 3, height, width), about [-1, 1]."""
        ...


class _Diffusers:
    """A VAE of diffusers as a codec; the latents are the mode of the posterior."""

    def __init__(self, vae: ModelMixin) -> None:
        self.vae, self.step = vae, spatial_factor(vae)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents in fp32. AutoencoderTiny takes [-1, 1] too and maps it to [0, 1] inside."""
        coded = self.vae.encode(images.to(self.vae.device, self.vae.dtype))
        tiny = isinstance(self.vae, AutoencoderTiny)
        latents: torch.Tensor = coded.latents if tiny else coded.latent_dist.mode()
        return latents.float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images in fp32, not clamped."""
        latents = latents.to(self.vae.device, self.vae.dtype)
        images: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return images.float()


class _Foreign:
    """Somebody's object with `encode` and `decode`, whose step is found by trying."""

    def __init__(self, made: Any) -> None:
        self.encode, self.decode = made.encode, made.decode
        self.step = 64 // int(made.encode(torch.zeros(1, 3, 64, 64)).shape[-1])


def codec(vae: ModelMixin) -> Codec:
    """A VAE of diffusers, or any object with `encode` and `decode`, as a codec.

    Raises:
        TypeError: It has no such methods.
    """
    if isinstance(vae, tuple(VAE_CLASSES.values())):
        return _Diffusers(vae)
    if not (callable(getattr(vae, "encode", None)) and callable(getattr(vae, "decode", None))):
        raise TypeError(f"a {type(vae).__name__} is no VAE: it needs methods encode and decode")
    made: Codec = vae if hasattr(vae, "step") else _Foreign(vae)
    return made


def spatial_factor(vae: ModelMixin) -> int:
    """Pixels a latent covers in each direction."""
    blocks = vae.config.get("block_out_channels") or vae.config.get("down_block_out_channels")
    if isinstance(vae, AutoencoderTiny):
        blocks = vae.config.encoder_block_out_channels
    return int(2 ** (len(blocks) - 1))


def legal(vae: ModelMixin, channels: int, pixels: int) -> str:
    """Why a VAE cannot decode latents of this shape; empty if it can.

    Args:
        vae: Of diffusers.
        channels: Of the denoiser's latents.
        pixels: That a latent covers in each direction.
    """
    if vae.config.latent_channels != channels:
        return (
            f"its latents have {vae.config.latent_channels} channels, the denoiser's {channels}: "
            "another latent space, no swap is possible"
        )
    factor = spatial_factor(vae)
    if factor != pixels:
        return (
            f"one latent covers {factor} x {factor} pixels, the checkpoint's "
            f"{pixels} x {pixels}: no swap is possible"
        )
    return ""


def identify(name: str, source: str, vae: ModelMixin, exact: str) -> VaeIdentity:
    """Which VAE this is.

    Weights are rounded to fp16, so load in fp32 or fp16: bf16 has dropped bits, and a VAE
    saved in bf16 is another one.

    Args:
        name: In the spec.
        source: Where it came from.
        vae: VAE of diffusers, whose own tensor names are the canonical ones, or an object as
            `codec` takes it; one without weights is identified by what it does.
        exact: Its `models.digest_of`.
    """
    encoder, decoder = _weights(vae) if _has_weights(vae) else behaviour(vae)
    config = getattr(vae, "config", None) or {}
    known = isinstance(vae, tuple(VAE_CLASSES.values()))
    way = codec(vae)
    side = 8 * way.step
    channels = (
        config["latent_channels"] if known else way.encode(torch.zeros(1, 3, side, side)).shape[1]
    )
    return VaeIdentity(
        name,
        source,
        exact,
        canonical_digest([encoder, decoder]),
        encoder,
        decoder,
        channels,
        way.step,
        config.get("scaling_factor"),
        config.get("shift_factor"),
        type(vae).__name__,
    )


def _has_weights(vae: ModelMixin) -> bool:
    return isinstance(vae, torch.nn.Module) and bool(vae.state_dict())


def _weights(vae: torch.nn.Module) -> tuple[str, str]:
    """Digests of encoder and decoder, of the weights as fp16."""
    halves = {"encoder": hashlib.sha256(), "decoder": hashlib.sha256()}
    for key, tensor in sorted(vae.state_dict().items()):
        half = "encoder" if key.startswith(("encoder.", "quant_conv.")) else "decoder"
        rounded = tensor.detach().cpu().to(torch.float16).contiguous()
        halves[half].update(f"{key}|{tuple(rounded.shape)}|".encode())
        halves[half].update(rounded.numpy().data)
    return halves["encoder"].hexdigest(), halves["decoder"].hexdigest()


@torch.no_grad()
def behaviour(vae: ModelMixin) -> tuple[str, str]:
    """Digests of a VAE's latents of two photographs and of the images that it makes of them."""
    way = codec(vae)
    latents = way.encode(_cards())
    found = [x.float().cpu().contiguous() for x in (latents, way.decode(latents))]
    encoder, decoder = (hashlib.sha256(x.numpy().data).hexdigest() for x in found)
    return encoder, decoder


def compare(a: VaeIdentity, b: VaeIdentity) -> Kinship:
    """How two VAEs are related. Copies have equal weights but another dtype or configuration."""
    if a.exact == b.exact:
        return "the same file"
    if a.normalised == b.normalised:
        return "a copy"
    if a.encoder == b.encoder:
        return "same encoder, other decoder"
    if a.decoder == b.decoder:
        return "same decoder, other encoder"
    return "different"


def load_vae_alone(
    name: str,
    source: str,
    base: Path,
    dtype: torch.dtype = torch.float32,
    family: VaeFamily | None = None,
) -> ModelMixin:
    """Load a VAE without a pipeline, on the CPU.

    A stand-alone file holds no scaling factor. Without `family` that of Stable Diffusion 1.x
    (4 channels) or 3 (16) is assumed and the configuration says so: `vae_scale.settle`.

    Args:
        name: In messages.
        source: 'reference:NAME', a folder with config.json or a .safetensors file.
        base: What relative paths start from.
        dtype: Of all weights.
        family: Of the checkpoint whose latents a stand-alone file decodes.

    Raises:
        WeightsError: It cannot be read, is no VAE, or is of another family.
    """
    try:
        return load_vae_source(source, base, dtype, family).eval()
    except (AuditError, OSError) as error:
        raise WeightsError(f"vaes.{name}: {source!r}: {reason(error)}") from None


@torch.no_grad()
def same_space(a: ModelMixin, b: ModelMixin) -> float:
    """How alike two VAEs' latents of the same images are: mean correlation over channels.

    1 for one encoder, near 0 for VAEs that were trained apart: then one cannot decode the
    other's latents though the shapes agree. Two of scikit-image's photographs, at 128 pixels.
    """
    cards = _cards()
    both = [codec(_wide(vae)).encode(cards).cpu().transpose(0, 1).flatten(1) for vae in (a, b)]
    pairs = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*both, strict=True)]
    return float(torch.stack(pairs).mean())


def _wide(vae: ModelMixin) -> ModelMixin:
    """The VAE in fp32: fp16 overflows, and takes a CPU without its arithmetic 100 times as long."""
    narrow = getattr(vae, "dtype", torch.float32) != torch.float32
    return copy.deepcopy(vae).float() if narrow else vae


def _cards() -> torch.Tensor:
    """Two photographs, (2, 3, 128, 128) in [-1, 1]."""
    pictures: list[NDArray[np.uint8]] = [
        getattr(data, name)()[:384, :384] for name in ("astronaut", "coffee")
    ]
    small = np.stack([p.reshape(128, 3, 128, 3, 3).mean(axis=(1, 3)) for p in pictures])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1
