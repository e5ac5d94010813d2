"""What differs between families of text-to-image pipelines, behind one interface.

A family encodes a prompt, says what a denoising is called with, brings the result into the shape
that a VAE decodes, and names the attention layers that a tap may follow. A pipeline of no known
family runs as `Other`: its pictures are measured, nothing inside it is.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch

from harness.errors import AuditError
from harness.models.safetensors_header import VaeFamily

Arguments = dict[str, Any]
LARGEST_SIZE = 1024
"""Of a side, in latents."""


class Reader(NamedTuple):
    """A text encoder's tokenizer, and where its tokens are among those that the denoiser sees."""

    name: str
    """'CLIP' or 'T5'; '' where all encoders of the checkpoint share one reading."""
    tokenizer: Any
    length: int
    """Tokens that it has room for."""
    first: int
    """Position of its first token."""


class Family:
    """Stable Diffusion 1.x and 2.x: a U-Net that attends to one CLIP text encoder.

    Attributes:
        name: In messages.
        vae_family: Of stand-alone VAE files for this family.
        denoiser: The pipeline's attribute that holds it.
        weighting: Whether weights in prompts can be applied.
        needed: Components that must be there.
        not_measured: What cannot be measured of this family, one sentence each.
    """

    name = "Stable Diffusion 1.x or 2.x"
    vae_family: VaeFamily | None = "sd15"
    denoiser = "unet"
    weighting = True
    not_measured: tuple[str, ...] = ()
    needed: tuple[str, ...] = ("text_encoder", "tokenizer", "unet", "vae", "scheduler")

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def model(self) -> Any:
        """The denoiser."""
        return getattr(self.pipe, self.denoiser)

    @property
    def device(self) -> Any:
        """Where the pipeline computes, also where its parts wait elsewhere."""
        return self.pipe._execution_device

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.pipe.unet.config.out_channels)

    def side(self) -> int:
        """Pixels of a picture's side at the size that the model was trained for."""
        return _sample_size(self.pipe.unet) * int(self.pipe.vae_scale_factor)

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
        return {"prompt_embeds": self.pipe.encode_prompt(text, self.device, 1, False)[0]}

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

    def attention(self) -> dict[str, torch.nn.Module]:
        """Layers by name in which the picture attends to the prompt: where a tap hooks in."""
        return {n: m for n, m in self.model.named_modules() if n.endswith(".attn2")}


class LatentConsistency(Family):
    """The pipeline of its own that LCM checkpoints of Stable Diffusion 1.x name."""

    name = "Latent Consistency Model"

    def reads_negative(self, guidance: float) -> bool:
        """Guidance is an input of the U-Net; there is no negative."""
        return False


class XL(Family):
    """SDXL: two CLIP text encoders side by side, and the second one's pooled output."""

    name = "SDXL"
    vae_family: VaeFamily | None = "sdxl"
    needed = (*Family.needed, "text_encoder_2", "tokenizer_2")

    def widths(self) -> list[int]:
        """Of both encoders."""
        return [e.config.hidden_size for e in (self.pipe.text_encoder, self.pipe.text_encoder_2)]

    def encode(self, text: str) -> Arguments:
        """Both encoders' vectors, and the pooled one."""
        made = self.pipe.encode_prompt(text, do_classifier_free_guidance=False)
        return {"prompt_embeds": made[0], "pooled_prompt_embeds": made[2]}

    def negative(self, text: str, encoded: Arguments) -> Arguments:
        """Zeros for an empty negative, where the checkpoint wants them."""
        if text == "" and self.pipe.config.get("force_zeros_for_empty_prompt", False):
            return {k: torch.zeros_like(v) for k, v in encoded.items()}
        return encoded


class SD3(Family):
    """Stable Diffusion 3 and 3.5: a transformer over picture and prompt; two CLIPs and a T5."""

    name = "Stable Diffusion 3"
    vae_family: VaeFamily | None = "sd3"
    denoiser = "transformer"
    weighting = False
    needed = (
        *("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        *("transformer", "vae", "scheduler"),
    )
    longest = 256

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.model.config.in_channels)

    def side(self) -> int:
        """Pixels of a picture's side at the size that the model was trained for."""
        return _sample_size(self.model) * int(self.pipe.vae_scale_factor)

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
        """Rows and columns of a picture's tokens: squares of four latents."""
        side = self.pipe.vae_scale_factor * 2
        return height // side, width // side

    def attention(self) -> dict[str, torch.nn.Module]:
        """Joint attention, in which picture and prompt are one sequence."""
        return {n: m for n, m in self.model.named_modules() if n.endswith(".attn")}


class Flux(SD3):
    """Flux: a transformer with guidance built in, a CLIP for the pooled vector and a T5."""

    name = "Flux"
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


class Pixels(torch.nn.Module):
    """Stands for the VAE of a pipeline that gives pictures: decodes nothing."""

    config: dict[str, Any] = {}  # noqa: RUF012
    device, dtype = torch.device("cpu"), torch.float32


class Other(Family):
    """Any other pipeline of diffusers that draws pictures from a prompt."""

    vae_family: VaeFamily | None = None
    weighting = False
    needed = ()
    not_measured = (
        "other VAEs: the pipeline decodes by itself",
        "latents, attention, steps and activations: what is inside is not known here",
        "component swaps, embeddings and weights in prompts",
    )

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self.name = type(pipe).__name__
        self.pixels = Pixels()
        self.denoiser = next((n for n in ("transformer", "unet") if hasattr(pipe, n)), "")
        self._accepts = inspect.signature(pipe.__call__).parameters
        if "prompt" not in self._accepts or "output_type" not in self._accepts:
            raise AuditError(f"a {self.name} draws no pictures from a prompt")
        if {"image", "strength"} <= self._accepts.keys():
            raise AuditError(f"a {self.name} needs a picture to begin with")

    @property
    def channels(self) -> int:
        """Of pictures."""
        return 3

    def side(self) -> int:
        """What the denoiser's and the VAE's settings say.

        Raises:
            AuditError: They do not.
        """
        sample = getattr(self.model, "config", {}).get("sample_size") if self.denoiser else None
        factor = getattr(self.pipe, "vae_scale_factor", None)
        if not isinstance(sample, int) or not isinstance(factor, int):
            raise AuditError(f"a {self.name} does not tell the size of its pictures; give sizes")
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
        """Pictures as (batch, 3, height, width) in [-1, 1]."""
        return torch.from_numpy(made).permute(0, 3, 1, 2).float() * 2 - 1

    def attention(self) -> dict[str, torch.nn.Module]:
        """None that is known."""
        return {}


def _sample_size(denoiser: Any) -> int:
    """Latents of a side of the images that a denoiser was trained for, as its config has it."""
    size = denoiser.config.get("sample_size")
    if type(size) is not int or not 0 < size <= LARGEST_SIZE:
        raise AuditError(f"the denoiser's sample_size is {str(size)[:40]}; give sizes in the spec")
    return size


FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": Family,
    "LatentConsistencyModelPipeline": LatentConsistency,
    "StableDiffusionXLPipeline": XL,
    "StableDiffusion3Pipeline": SD3,
    "FluxPipeline": Flux,
}
"""By the pipeline's class."""


def family(pipe: Any) -> Family:
    """The family of a loaded pipeline.

    Raises:
        AuditError: It draws no pictures from a prompt.
    """
    return FAMILIES.get(type(pipe).__name__, Other)(pipe)
