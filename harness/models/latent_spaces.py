"""The published latent spaces, by what a VAE's configuration says of them."""

from __future__ import annotations

from typing import NamedTuple

from harness.models.safetensors_header import VaeFamily


class Known(NamedTuple):
    """How the latents of a published latent space are brought to a standard deviation of 1."""

    name: str
    channels: int
    factor: float
    shift: float = 0.0


KNOWN: dict[VaeFamily, Known] = {
    "sd15": Known("Stable Diffusion 1.x", 4, 0.18215),
    "sdxl": Known("SDXL", 4, 0.13025),
    "sd3": Known("Stable Diffusion 3", 16, 1.5305, 0.0609),
    "flux": Known("Flux", 16, 0.3611, 0.1159),
}
