"""Nine small real VAEs: `load(name)`. Weights, licences and origin: README.md beside this file.

Each has `step`, `encode` (images in [-1, 1] to latents) and `decode`, as
`harness.models.vae_identity.Codec`. The modules are written from the names and shapes of the
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
LIGHT = {"light-10024": 8024, "light-12727": 12030, "light-15012": 12870}
"""VAElight: encoder's checkpoint in the name, that of its decoder."""
APPROX = tuple(f"approx-{name}" for name in ("sd1.4", "sd1.5", "wd1.3", "wd1.4", "wd1.5"))
NAMES = (*LIGHT, "taef2", *APPROX)
SD1 = 0.18215
"""Scaling factor of Stable Diffusion 1.x, whose latents VAElight and the approximations have."""


class Light(nn.Module):
    """VAElight: chains of convolutions at several resolutions, summed. Unscaled latents of SD 1."""

    step = 8

    def __init__(self, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = _convolutions(encoder, nn.Conv2d)
        self.decoder = _convolutions(decoder, nn.ConvTranspose2d)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, height, width) in [-1, 1] to latents (n, 4, height / 8, width / 8)."""
        fine = self._chain(self.encoder, images, "cv", range(1, 7))
        return fine + self._chain(
            self.encoder, functional.avg_pool2d(images, 8), "cv", range(14, 19)
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, about [-1, 1]."""
        shape = [8 * side for side in latents.shape[-2:]]
        parts = [
            self._chain(self.decoder, latents, prefix, range(1, last + 1))
            for prefix, last in (("cv", 11), ("c4v", 8), ("c3v", 5), ("c2v", 4))
        ]
        grown = [functional.interpolate(part, size=shape, mode="bilinear") for part in parts]
        return torch.stack(grown).sum(0)

    @staticmethod
    def _chain(layers: nn.ModuleDict, x: Tensor, prefix: str, numbers: range) -> Tensor:
        """Layers in turn, a leaky rectifier between two."""
        for number in numbers:
            x = layers[f"{prefix}{number}"](x)
            if number != numbers[-1]:
                x = functional.leaky_relu(x, 0.01)
        return x


class Taef2(nn.Module):
    """TAEF2: FLUX.2's latent space, 32 channels."""

    step = 8

    def __init__(self, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = _trunk(encoder, down=True)
        self.decoder = _trunk(decoder, down=False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, height, width) in [-1, 1] to latents (n, 32, height / 8, width / 8)."""
        return cast(Tensor, self.encoder(images / 2 + 0.5))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, about [-1, 1]."""
        return cast(Tensor, self.decoder(torch.tanh(latents / 3) * 3) * 2 - 1)


class Approx(nn.Module):
    """One colour per latent: three linear layers each way. Latents of SD 1, here unscaled."""

    step = 8

    def __init__(self, encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder, self.decoder = (_perceptron(half) for half in (encoder, decoder))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, height, width) in [-1, 1] to latents (n, 4, height / 8, width / 8)."""
        return self._pixelwise(self.encoder, functional.avg_pool2d(images, 8)) / SD1

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, about [-1, 1]."""
        colours = self._pixelwise(self.decoder, latents * SD1)
        return functional.interpolate(colours, scale_factor=8)

    @staticmethod
    def _pixelwise(half: nn.Sequential, x: Tensor) -> Tensor:
        return cast(Tensor, half(x.movedim(1, -1)).movedim(-1, 1))


class Block(nn.Module):
    """Three convolutions beside the identity; some first add what a normalised 1 x 1 pair gives."""

    def __init__(self, width: int, pooled: bool) -> None:
        super().__init__()
        three = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(three[0], nn.ReLU(), three[1], nn.ReLU(), three[2])
        self.pool: nn.Sequential | None = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Of one shape, (n, width, height, width)."""
        if self.pool is not None:
            x = x + self.pool(x)
        return functional.relu(x + self.conv(x))


def load(name: str) -> Light | Taef2 | Approx:
    """One of `NAMES`, in fp32 on the CPU.

    Raises:
        ValueError: No such VAE.
    """
    if name in LIGHT:
        encoder = f"encoder-{name.removeprefix('light-')}"
        return Light(*_halves("vaelight", encoder, f"decoder-{LIGHT[name]}")).eval()
    if name == "taef2":
        return Taef2(*_halves("taef2", "encoder", "decoder")).eval()
    if name in APPROX:
        space = name.removeprefix("approx-")
        return Approx(*_halves("approx", f"encoder-{space}", f"decoder-{space}")).eval()
    raise ValueError(f"unknown real VAE {name!r}; available: {', '.join(NAMES)}")


def _halves(folder: str, *files: str) -> list[dict[str, Tensor]]:
    paths = [HERE / folder / f"{file}.safetensors" for file in files]
    return [{name: t.float() for name, t in load_file(path).items()} for path in paths]


def _convolutions(tensors: Mapping[str, Tensor], halving: type[nn.Module]) -> nn.ModuleDict:
    """Kernels of 2 change the resolution by 2 (`halving`), kernels of 3 keep it."""
    layers: dict[str, nn.Module] = {}
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        wide, narrow, size, _ = tensors[f"{name}.weight"].shape
        if size == 2:
            pair = (wide, narrow) if halving is nn.ConvTranspose2d else (narrow, wide)
            layers[name] = halving(*pair, 2, stride=2)
        else:
            layers[name] = nn.Conv2d(narrow, wide, 3, padding=1)
    built = nn.ModuleDict(layers)
    built.load_state_dict(dict(tensors))
    return built


def _trunk(tensors: Mapping[str, Tensor], down: bool) -> nn.Sequential:
    """Numbered layers; a convolution without bias changes the resolution by 2."""
    layers: list[nn.Module] = []
    for number in range(1 + max(int(key.split(".")[0]) for key in tensors)):
        if f"{number}.conv.0.weight" in tensors:
            width = tensors[f"{number}.conv.0.weight"].shape[0]
            layers.append(Block(width, f"{number}.pool.0.weight" in tensors))
        elif f"{number}.weight" in tensors:
            wide, narrow = tensors[f"{number}.weight"].shape[:2]
            bias = f"{number}.bias" in tensors
            stride = 2 if down and not bias else 1
            layers.append(nn.Conv2d(narrow, wide, 3, stride, 1, bias=bias))
        elif number == 0:
            layers.append(nn.Identity())
        else:  # Numbers without tensors: a rectifier behind the first layer, else doubling.
            layers.append(nn.ReLU() if number == 2 else nn.Upsample(scale_factor=2))
    built = nn.Sequential(*layers)
    built.load_state_dict(dict(tensors))
    return built


def _perceptron(tensors: Mapping[str, Tensor]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for name in ("in_proj", "hidden_layers.0", "out_proj"):
        weight = tensors[f"{name}.weight"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": tensors[f"{name}.bias"]})
        layers += [layer, nn.SiLU()]
    return nn.Sequential(*layers[:-1])
