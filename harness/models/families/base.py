"""What differs between families of text-to-image pipelines, behind one interface.

A family encodes a prompt, says what a denoising is called with, brings the result into the shape
that a VAE decodes, and names the attention layers that a tap may follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from harness.errors import AuditError
from harness.json_types import JsonObject
from harness.models.safetensors_header import VaeFamily

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.taps.cross_attention import AttentionTap
    from harness.taps.joint_attention import JointAttentionTap, Words

Arguments: TypeAlias = JsonObject
LARGEST_SIZE = 1024
"""Of a side, in latents."""


class Reader(NamedTuple):
    """A text encoder's tokenizer, and where its tokens are among those that the denoiser sees."""

    name: str
    """'CLIP' or 'T5'; '' where all encoders of the checkpoint share one reading."""
    tokenizer: PreTrainedTokenizerBase
    length: int
    """Tokens that it has room for."""
    first: int
    """Position of its first token."""


class Family:
    """Stable Diffusion 1.x and 2.x: a U-Net that attends to one CLIP text encoder.

    Attributes:
        pipelines: Names of the classes of pipelines that it is for.
        name: In messages.
        vae_family: Of stand-alone VAE files for this family.
        denoiser: The pipeline's attribute that holds it.
        weighting: Whether weights in prompts can be applied.
        needed: Components that must be there.
        not_measured: What cannot be measured of this family, one sentence each.
        inside: Whether its parts are known: other VAEs, component swaps, latents, taps.
        vae_in_fp32: Whether a VAE that asks for it (`force_upcast`) decodes in float32 under fp16.
        fixed_over_steps: Names of what `encode` gives that the denoising loop reads as one tensor
            throughout, so that an exchange of the prompt writes into it.
        renamed_in_loop: Names that the loop uses for what `encode` gives, where they differ.
    """

    pipelines: tuple[str, ...] = ()
    name = "Stable Diffusion 1.x or 2.x"
    vae_family: VaeFamily | None = "sd15"
    denoiser = "unet"
    weighting = True
    not_measured: tuple[str, ...] = ()
    inside = True
    vae_in_fp32 = False
    fixed_over_steps: frozenset[str] = frozenset()
    renamed_in_loop: Mapping[str, str] = MappingProxyType(
        {"pooled_prompt_embeds": "add_text_embeds"}
    )
    needed: tuple[str, ...] = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")

    first_skipped: int | None = 2
    """The first clip skip, as the WebUIs count, that leaves a layer out; None: it is not read."""

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self.pipe = pipe
        self.skipped: int | None = None

    def skip_layers(self, clip_skip: int) -> None:
        """Read an earlier layer of the text encoders from now on.

        Args:
            clip_skip: As the WebUIs count: 1 is the last layer.

        Raises:
            AuditError: The pipeline's prompts do not come from CLIP alone, or there are not as many
                layers.
        """
        if clip_skip == 1:
            return
        if self.first_skipped is None:
            raise AuditError(
                f"clip_skip: {clip_skip}: of a {self.name} no layer is left out; supported: Stable "
                "Diffusion 1.x, 2.x and SDXL"
            )
        layers = min(e.config.num_hidden_layers for e in self.encoders())
        if clip_skip > layers:
            raise AuditError(f"clip_skip: {clip_skip}: its text encoder has {layers} layers")
        left_out = clip_skip - self.first_skipped + 1
        self.skipped = left_out if left_out > 0 else None

    def encoders(self) -> list[PreTrainedModel]:
        """The text encoders whose layers can be left out."""
        return [self.pipe.text_encoder]

    @property
    def model(self) -> ModelMixin:
        """The denoiser."""
        return getattr(self.pipe, self.denoiser)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, also where its parts wait elsewhere."""
        return self.pipe._execution_device

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.pipe.unet.config.out_channels)

    def side(self) -> int:
        """Pixels of an image's side at the size that the model was trained for."""
        return sample_size(self.pipe.unet) * int(self.pipe.vae_scale_factor)

    def readers(self) -> list[Reader]:
        """Who reads a prompt, in the order of their tokens; the last sees most of it."""
        return [Reader("", self.pipe.tokenizer, int(self.pipe.tokenizer.model_max_length), 0)]

    def widths(self) -> list[int]:
        """Of each text encoder's vectors, which lie side by side."""
        return [self.pipe.text_encoder.config.hidden_size]

    def reads_negative(self, guidance: float) -> bool:
        """Whether a negative prompt has an effect: a distilled model has guidance built in."""
        return guidance > 1 and self.pipe.unet.config.get("time_cond_proj_dim") is None

    def encode(self, text: str) -> Arguments:
        """A text as the denoiser sees it, a batch of one."""
        if self.skipped:
            tokenizer = self.pipe.tokenizer
            read = tokenizer(
                text,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            return {"prompt_embeds": self._vectors(read.input_ids, read.attention_mask)}
        return {"prompt_embeds": self.pipe.encode_prompt(text, self.device, 1, False)[0]}

    def encode_chunks(self, chunks: Sequence[Sequence[int]]) -> Arguments:
        """As `encode`, of tokens in chunks, whose vectors stand behind each other.

        Args:
            chunks: Ids of each chunk's tokens, without start, end and padding.
        """
        read = [framed(self.pipe.tokenizer, chunk) for chunk in chunks]
        return {"prompt_embeds": torch.cat([self._vectors(*one) for one in read], dim=1)}

    def _vectors(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The text encoder's vectors, (1, tokens, width), of the layer that is read.

        An earlier layer's are normalised as the last one's are; the pipeline's own clip_skip looks
        for the norm where transformers 5 has it no more.
        """
        encoder = self.pipe.text_encoder
        masked = getattr(encoder.config, "use_attention_mask", False)
        made = encoder(
            ids.to(self.device),
            attention_mask=mask.to(self.device) if masked else None,
            output_hidden_states=bool(self.skipped),
        )
        if not self.skipped:
            last: torch.Tensor = made[0]
            return last.to(encoder.dtype)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        layer: torch.Tensor = norm(made.hidden_states[-(self.skipped + 1)])
        return layer.to(encoder.dtype)

    def negative(self, text: str, encoded: Arguments) -> Arguments:
        """What an encoded text is as a negative."""
        return encoded

    def settings(self, wanted: Arguments) -> Arguments:
        """What the pipeline is called with."""
        return wanted | {"output_type": "latent"}

    def latents(self, made: Any, height: int, width: int) -> torch.Tensor:
        """What the pipeline returned as (batch, channels, height, width), for a VAE."""
        latents: torch.Tensor = made
        return latents

    def parts(self) -> dict[str, list[torch.nn.Module]]:
        """What is digested as its denoiser and as its VAE: usually one module each."""
        return {"denoiser": [self.model], "vae": [self.pipe.vae]}

    def attention_tap(
        self,
        words: Mapping[str, Sequence[Words]],
        size: tuple[int, int],
        layers: bool,
        stages: int,
    ) -> AttentionTap | JointAttentionTap:
        """What follows the attention of one batch to its words.

        Args:
            words: Words of each image's prompt, and of its negative where that is followed.
            size: Height and width of the images in pixels.
            layers: Whether each layer's share of attention is kept.
            stages: Equal parts of the noise levels whose maps are kept; 0: none.
        """
        from harness.taps.cross_attention import AttentionTap

        count = len(words["prompt"])
        return AttentionTap(self.pipe.unet, count, "negative" in words, layers, stages)

    def attention(self) -> dict[str, torch.nn.Module]:
        """Layers by name in which the image attends to the prompt: where a tap hooks in."""
        return {n: m for n, m in self.model.named_modules() if n.endswith(".attn2")}


def framed(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with their start, end and padding, and their mask, both (1, tokens)."""
    room = int(tokenizer.model_max_length)
    held = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    rest = room - len(held)
    whole = torch.tensor([held + [tokenizer.pad_token_id] * rest])
    return whole, torch.tensor([[1] * len(held) + [0] * rest])


def sample_size(denoiser: ModelMixin) -> int:
    """Latents of a side of the images that a denoiser was trained for, as its config has it."""
    size = denoiser.config.get("sample_size")
    if type(size) is not int or not 0 < size <= LARGEST_SIZE:
        raise AuditError(f"the denoiser's sample_size is {str(size)[:40]}; give sizes in the spec")
    return size
