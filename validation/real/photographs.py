"""Photographs from scikit-image's wheel, nothing fetched, and tiles of different ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

COLOUR = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Colour photographs: people, animals, things, places, sky, tissue."""
SCENES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
GREY = ("brick.png", "camera.png", "cell.png", "clock_motion.png", "coins.png", "moon.png")
TEXTURES = ("brick.png", "grass.png", "gravel.png")
PAGES = ("clock_motion.png", "page.png", "text.png")
EVERY = tuple(dict.fromkeys((*COLOUR, *GREY, *TEXTURES, *PAGES)))
Pixels = NDArray[np.uint8]


def photograph(name: str) -> Pixels:
    """A photograph by its file's name, (height, width, 3); grey ones have three equal channels."""
    with Image.open(Path(skimage.data.__file__).parent / name) as image:
        return np.asarray(image.convert("RGB"))


def tiles(names: tuple[str, ...], count: int, side: int, seed: int) -> list[Pixels]:
    """Tiles that do not overlap, drawn from photographs in turn, so that all differ.

    Args:
        names: Photographs.
        count: Number of tiles; fewer where the photographs hold no more.
        side: Pixels of a side.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    cut = []
    for name in rng.permutation(names):
        pixels = photograph(str(name))
        rows, columns = (n // side for n in pixels.shape[:2])
        parts = [
            pixels[y * side : (y + 1) * side, x * side : (x + 1) * side]
            for y in range(rows)
            for x in range(columns)
        ]
        cut.append([parts[i] for i in rng.permutation(len(parts))])
    turns = [parts[i] for i in range(max(map(len, cut))) for parts in cut if i < len(parts)]
    return turns[:count]


def scaled(name: str, longest: int) -> Pixels:
    """A photograph scaled (Lanczos) so that its longest side has so many pixels."""
    image = Image.fromarray(photograph(name))
    size = [max(1, round(s * longest / max(image.size))) for s in image.size]
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.LANCZOS))
