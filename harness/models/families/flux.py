"""Flux."""

from __future__ import annotations

from typing import Any

import torch

from harness.models.families.base import Arguments, Reader
from harness.models.families.sd3 import StableDiffusion3
from harness.models.safetensors_header import VaeFamily


class Flux(StableDiffusion3):
    """Flux: a transformer with guidance built in, a CLIP for the pooled vector and a T5."""

    pipelines = ("FluxPipeline",)
    name = "Flux"
    text_first = True
    fixed_over_steps = frozenset({"pooled_prompt_embeds"})
    vae_family: VaeFamily | None = "flux"

    @property
    def _distilled(self) -> bool:
        return bool(self.model.config.guidance_embeds)

    @property
    def channels(self) -> int:
        """Of the latents: the transformer sees squares of four."""
        return int(self.model.config.in_channels) // 4

    def side(self) -> int:
        """The pipeline's own."""
        return int(self.pipe.default_sample_size * self.pipe.vae_scale_factor)

    def readers(self) -> list[Reader]:
        """T5; of CLIP only the pooled vector is used."""
        return [Reader("T5", self.pipe.tokenizer_2, 512 if self._distilled else 256, 0)]

    def reads_negative(self, guidance: float) -> bool:
        """Guidance is an input of the transformer; there is no negative."""
        return False

    def encode(self, text: str) -> Arguments:
        """T5's vectors, and CLIP's pooled one."""
        made = self.pipe.encode_prompt(text, None, max_sequence_length=self.readers()[0].length)
        return {"prompt_embeds": made[0], "pooled_prompt_embeds": made[1]}

    def latents(self, made: Any, height: int, width: int) -> torch.Tensor:
        """Out of the transformer's squares of four."""
        unpacked: torch.Tensor = self.pipe._unpack_latents(
            made, height, width, self.pipe.vae_scale_factor
        )
        return unpacked
