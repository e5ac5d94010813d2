"""The check of scaling factors on real VAEs: `python -m validation.simulations.scale`.

First table: how far the fitted factor is from the true one, by VAE and set of images, beside the
error that the check states. Second: verdicts over draws of photographs, right and wrong factors.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from harness.models.latent_spaces import KNOWN
from harness.models.vae_identity import Codec, codec, load_vae_alone
from harness.models.vae_scaling import ScaleCheck, check_scale
from reference import MODELS
from reference.world import STYLES, picture_grid
from validation.real import photographs, vaes
from validation.real.vaes import APPROX, LIGHT, SD1

FOUR = [known for known in KNOWN.values() if known.channels == 4]
SD, XL = (known.factor for known in FOUR)
Images = list[NDArray[np.uint8]]


class Remembered:
    """A VAE that encodes and decodes an image once; its latents are multiplied by `by`."""

    def __init__(
        self,
        vae: Codec,
        by: float = 1.0,
        known: dict[tuple[bool, bytes], torch.Tensor] | None = None,
    ) -> None:
        self.vae, self.step, self.by = vae, vae.step, by
        self.known: dict[tuple[bool, bytes], torch.Tensor] = {} if known is None else known

    def rescaled(self, by: float) -> Remembered:
        """The same VAE with other latents, as another published scale would have them."""
        return Remembered(self.vae, by, self.known)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images to latents."""
        return torch.cat([self._one(image[None]) for image in images]) * self.by

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents to images."""
        # Rescaling there and back moves the last bits.
        return torch.cat(
            [self._one(z[None], back=True) for z in (latents / self.by).round(decimals=2)]
        )

    def _one(self, tensor: torch.Tensor, back: bool = False) -> torch.Tensor:
        key = (back, tensor.numpy().tobytes())
        if key not in self.known:
            self.known[key] = self.vae.decode(tensor) if back else self.vae.encode(tensor)
        found: torch.Tensor = self.known[key]
        return found


class Count(NamedTuple):
    """Verdicts over draws."""

    named: int
    confirmed: int
    accused: int
    draws: int


def real(names: Sequence[str] = (*LIGHT, "taef2", *APPROX)) -> dict[str, Remembered]:
    """Real VAEs by name."""
    return {name: Remembered(vaes.load(name)) for name in names}


def image_sets() -> dict[str, Images]:
    """Sets of images by name: what kinds of them there are in scikit-image's wheel."""
    tiles = photographs.tiles
    return {
        "colour photographs, 48 tiles of 128": tiles(photographs.COLOUR, 48, 128, 0),
        "colour photographs, 24 tiles of 256": tiles(photographs.COLOUR, 24, 256, 0),
        "scenes, 48 tiles of 128": tiles(photographs.SCENES, 48, 128, 0),
        "scenes, 48 tiles of 64": tiles(photographs.SCENES, 48, 64, 0),
        "all photographs, 17 whole, 192": [
            _cut(photographs.scaled(name, 192)) for name in photographs.EVERY
        ],
        "all photographs, 72 tiles of 128": tiles(photographs.EVERY, 72, 128, 0),
        "grey photographs, 48 tiles of 128": tiles(photographs.GREY, 48, 128, 0),
        "textures, 36 tiles of 128": tiles(photographs.TEXTURES, 36, 128, 0),
        "pages, 20 tiles of 96": tiles(photographs.PAGES, 20, 96, 0),
        "the world, 48": world(48, 0),
        "the world enlarged, 48": [i.repeat(2, 0).repeat(2, 1) for i in world(48, 0)],
    }


def world(count: int, seed: int) -> Images:
    """Images of the reference world: emoji on white."""
    every = np.concatenate([picture_grid(style).reshape(-1, 64, 64, 3) for style in STYLES])
    return list(every[np.random.default_rng(seed).choice(len(every), count, replace=False)])


def true_factors(named: dict[str, Remembered]) -> dict[str, float]:
    """SD 1's; TAEF2 has none that is published, so that of colour photographs stands for it."""
    photos = photographs.tiles(photographs.COLOUR, 48, 128, 1)
    return {
        name: SD1 if name != "taef2" else 1 / float(vae.encode(_tensor(photos)).std())
        for name, vae in named.items()
    }


def verdicts(vae: Remembered, sets: Sequence[Images], true: float, configured: float) -> Count:
    """Of a VAE whose latents are rescaled from SD 1's to `true`, with a configured factor."""
    scaled = vae.rescaled(SD1 / true)
    found = [check_scale(scaled, images, configured, FOUR) for images in sets]
    wrong = [f for f in found if f.verdict.startswith("wrong")]
    named = [f for f in wrong if [k.factor for k in f.fits] == [true]]
    return Count(
        len(named) if true != configured else 0,
        sum(f.verdict == "right" for f in found),
        len(wrong) - (len(named) if true != configured else 0),
        len(found),
    )


def systematic(kinds: Sequence[str]) -> None:
    """Print the first table, of sets of images by name."""
    named = real()
    true = true_factors(named)
    named["reference"] = Remembered(codec(load_vae_alone("f", "reference:faithful", MODELS)))
    true["reference"] = 0.87808
    print("| images | VAE | fitted / true | log | of it sampling | stated error | judged |")
    print("|---|---|---|---|---|---|---|")
    sets = image_sets()
    for kind, images in ((kind, sets[kind]) for kind in kinds):
        for name, vae in named.items():
            found = check_scale(vae, images, true[name], [])
            off = math.log(found.fitted / true[name])
            print(
                f"| {kind} | {name} | {found.fitted / true[name]:.2f} | {off:+.3f} | "
                f"{found.sampling:.3f} | {found.error:.3f} | {_judged(found)} |",
                flush=True,
            )


def bar(draws: int, kinds: Sequence[str]) -> None:
    """Print the second table, of groups of photographs by name."""
    named = real((*LIGHT, *APPROX))
    print(
        "| photographs | VAEs | n | latents of | configured | named | confirmed | accused | draws |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in kinds:
        for n in (16, 48):
            sets = [
                photographs.tiles(getattr(photographs, kind), n, 128, seed) for seed in range(draws)
            ]
            for title, group in (("3 VAElight", tuple(LIGHT)), ("5 approx", APPROX)):
                for true, configured in ((SD, SD), (SD, XL), (XL, XL), (XL, SD)):
                    counts = [verdicts(named[name], sets, true, configured) for name in group]
                    total = Count(*np.sum(counts, axis=0).tolist())
                    print(
                        f"| {kind.lower()} | {title} | {n} | {true:g} | {configured:g} | "
                        f"{total.named if true != configured else '–'} | {total.confirmed} | "
                        f"{total.accused} | {total.draws} |",
                        flush=True,
                    )


def _judged(found: ScaleCheck) -> str:
    return "yes" if "would bring" in found.why else found.why.split(" (")[0]


def _cut(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = (side // 8 * 8 for side in image.shape[:2])
    return image[:height, :width]


def _tensor(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--part", help="one row of sets of the first table or group of the second")
    arguments = parser.parse_args()
    sets, groups = tuple(image_sets()), ("COLOUR", "SCENES", "EVERY")
    if arguments.part is None or arguments.part in sets:
        systematic([k for k in sets if arguments.part in (None, k)])
        print()
    if arguments.part is None or arguments.part in groups:
        bar(arguments.draws, [k for k in groups if arguments.part in (None, k)])


if __name__ == "__main__":
    main()
