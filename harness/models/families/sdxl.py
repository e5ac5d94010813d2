"""SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from harness.models.families.base import Arguments, Family, framed
from harness.models.safetensors_header import VaeFamily

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StableDiffusionXL(Family):
    """SDXL: two CLIP text encoders side by side, and the second one's pooled output."""

    pipelines = ("StableDiffusionXLPipeline",)
    name = "SDXL"
    # Its VAE overflows in fp16; diffusers decodes it in fp32 for the same reason.
    vae_in_fp32 = True
    vae_family: VaeFamily | None = "sdxl"
    first_skipped = 3  # it reads the second last layer anyway
    needed = (*Family.needed, "text_encoder_2", "tokenizer_2")

    def widths(self) -> list[int]:
        """Of both encoders."""
        return [encoder.config.hidden_size for encoder in self.encoders()]

    def encoders(self) -> list[PreTrainedModel]:
        """Both."""
        return [self.pipe.text_encoder, self.pipe.text_encoder_2]

    def encode(self, text: str) -> Arguments:
        """Both encoders' vectors, and the pooled one."""
        made = self.pipe.encode_prompt(
            text, do_classifier_free_guidance=False, clip_skip=self.skipped
        )
        return {"prompt_embeds": made[0], "pooled_prompt_embeds": made[2]}

    def encode_chunks(self, chunks: Sequence[Sequence[int]]) -> Arguments:
        """Both encoders' vectors, and the pooled one of the first chunk."""
        layer = -((self.skipped or 0) + 2)
        beside, pooled = [], []
        for tokenizer, encoder in zip(
            (self.pipe.tokenizer, self.pipe.tokenizer_2), self.encoders(), strict=True
        ):
            made = [
                encoder(framed(tokenizer, chunk)[0].to(self.device), output_hidden_states=True)
                for chunk in chunks
            ]
            pooled = [one[0] for one in made]
            beside.append(torch.cat([one.hidden_states[layer] for one in made], dim=1))
        return {
            "prompt_embeds": torch.cat(beside, dim=-1).to(encoder.dtype),
            "pooled_prompt_embeds": pooled[0].to(encoder.dtype),
        }

    def negative(self, text: str, encoded: Arguments) -> Arguments:
        """Zeros for an empty negative, where the checkpoint wants them."""
        if text == "" and self.pipe.config.get("force_zeros_for_empty_prompt", False):
            return {k: torch.zeros_like(v) for k, v in encoded.items()}
        return encoded
