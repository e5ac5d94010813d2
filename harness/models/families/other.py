"""A pipeline of no known family: its images are measured, nothing inside it is."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import AuditError
from harness.json_types import JsonObject
from harness.models.families.base import Arguments, Family, Reader
from harness.models.safetensors_header import VaeFamily

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Pixels(torch.nn.Module):
    """Stands for the VAE of a pipeline that gives images: decodes nothing."""

    config: JsonObject = {}  # noqa: RUF012
    device, dtype = torch.device("cpu"), torch.float32


class Other(Family):
    """Any other pipeline of diffusers that draws images from a prompt."""

    vae_family: VaeFamily | None = None
    weighting = False
    first_skipped = None
    inside = False
    needed = ()
    not_measured = (
        "other VAEs: the pipeline decodes by itself",
        "latents, attention, steps and activations: what is inside is not known here",
        "component swaps, embeddings and weights in prompts",
    )

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__(pipe)
        self.name = type(pipe).__name__
        self.pixels = Pixels()
        self.denoiser = next((n for n in ("transformer", "unet") if hasattr(pipe, n)), "")
        self._accepts = inspect.signature(pipe.__call__).parameters
        if "prompt" not in self._accepts or "output_type" not in self._accepts:
            raise AuditError(f"a {self.name} draws no images from a prompt")
        if {"image", "strength"} <= self._accepts.keys():
            raise AuditError(f"a {self.name} needs an image to begin with")

    @property
    def channels(self) -> int:
        """Of images."""
        return 3

    def side(self) -> int:
        """What the denoiser's and the VAE's settings say.

        Raises:
            AuditError: They do not.
        """
        sample = getattr(self.model, "config", {}).get("sample_size") if self.denoiser else None
        factor = getattr(self.pipe, "vae_scale_factor", None)
        if not isinstance(sample, int) or not isinstance(factor, int):
            raise AuditError(f"a {self.name} does not tell the size of its images; give sizes")
        return sample * factor

    def readers(self) -> list[Reader]:
        """Not known."""
        return []

    def reads_negative(self, guidance: float) -> bool:
        """Where the pipeline takes one."""
        return guidance > 1 and "negative_prompt" in self._accepts

    def encode(self, text: str) -> Arguments:
        """The text itself: the pipeline encodes it."""
        return {"prompt": [text]}

    def settings(self, wanted: Arguments) -> Arguments:
        """Only what this pipeline takes."""
        return {k: v for k, v in wanted.items() if k in self._accepts} | {"output_type": "np"}

    def latents(self, made: Any, height: int, width: int) -> torch.Tensor:
        """Images as (batch, 3, height, width) in [-1, 1]."""
        return torch.from_numpy(made).permute(0, 3, 1, 2).float() * 2 - 1

    def parts(self) -> dict[str, list[torch.nn.Module]]:
        """All that it holds but its text encoders takes part in the denoising."""
        held = dict(sorted(self.pipe.components.items()))
        modules = [
            part
            for name, part in held.items()
            if isinstance(part, torch.nn.Module) and not name.startswith("text_encoder")
        ]
        return {"denoiser": modules, "vae": [self.pixels]}

    def attention(self) -> dict[str, torch.nn.Module]:
        """None that is known."""
        return {}
