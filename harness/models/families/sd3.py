"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from harness.models.families.base import Arguments, Family, Reader, sample_size
from harness.models.safetensors_header import VaeFamily

if TYPE_CHECKING:
    from harness.taps.joint_attention import JointAttentionTap, Words


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5: a transformer over image and prompt; two CLIPs and a T5."""

    pipelines = ("StableDiffusion3Pipeline",)
    name = "Stable Diffusion 3"
    vae_family: VaeFamily | None = "sd3"
    denoiser = "transformer"
    weighting = False
    first_skipped = None
    needed = (
        *("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        *("transformer", "vae", "scheduler"),
    )
    longest = 256
    renamed_in_loop: Mapping[str, str] = MappingProxyType({})
    text_first = False
    """Whether the prompt's tokens come before the image's in the joint sequence."""

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.model.config.in_channels)

    def side(self) -> int:
        """Pixels of an image's side at the size that the model was trained for."""
        return sample_size(self.model) * int(self.pipe.vae_scale_factor)

    def readers(self) -> list[Reader]:
        """CLIP, and behind its tokens T5, which reads further."""
        clip = super().readers()[0]._replace(name="CLIP")
        if self.pipe.text_encoder_3 is None:
            return [clip]
        return [clip, Reader("T5", self.pipe.tokenizer_3, self.longest, clip.length)]

    def reads_negative(self, guidance: float) -> bool:
        """Guidance is classifier-free."""
        return guidance > 1

    def encode(self, text: str) -> Arguments:
        """All encoders' vectors in one sequence, and the pooled ones."""
        made = self.pipe.encode_prompt(
            text,
            None,
            None,
            do_classifier_free_guidance=False,
            max_sequence_length=self.longest,
        )
        return {"prompt_embeds": made[0], "pooled_prompt_embeds": made[2]}

    def tokens(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image's tokens: squares of four latents."""
        side = self.pipe.vae_scale_factor * 2
        return height // side, width // side

    def attention_tap(
        self,
        words: Mapping[str, Sequence[Words]],
        size: tuple[int, int],
        layers: bool,
        stages: int,
    ) -> JointAttentionTap:
        """What follows joint attention; arguments as `Family.attention_tap`."""
        from harness.taps.joint_attention import JointAttentionTap

        negatives = words.get("negative")
        return JointAttentionTap(
            self, words["prompt"], self.tokens(*size), negatives, layers, stages
        )

    def attention(self) -> dict[str, torch.nn.Module]:
        """Joint attention, in which image and prompt are one sequence."""
        return {n: m for n, m in self.model.named_modules() if n.endswith(".attn")}
