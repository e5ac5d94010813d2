"""How images that are not square are best shown to a classifier that sees squares.

Two tables. (1) People of the reference world over grounds that are not white, at the start, middle
and end of the long side: how often their gender is read rightly, and how far the share of women
is off where half are women. (2) Photographs of scikit-image, cut 2:3 and 3:2: how like the
classifier's embedding of the cut is to that of the square photograph that it was cut from. The
classifier is the reference world's own; the tables say what the ways of fitting do to an image,
not how well CLIP reads people.

    python -m validation.simulations.crops
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from scipy import ndimage
from skimage import data

from harness.spec.attributes import load_attribute
from harness.spec.sections import ClassifierSpec, Fit
from probes.contracts import Batch, Context
from probes.instruments.clip import ClipAttribute, ClipModel
from reference.world import GENDERS, ROLES, SIZE, STYLES, TONES, Person, picture

Pixels = NDArray[np.uint8]


class Way(NamedTuple):
    """One way of fitting."""

    fit: Fit
    colour: str = "#808080"

    def __str__(self) -> str:
        return f"{self.fit} {self.colour}" if self.fit == "pad" else self.fit


WAYS = (
    Way("crop"),
    Way("pad", "#ffffff"),
    Way("pad", "#808080"),
    Way("pad", "#000000"),
    Way("resize"),
    Way("crops"),
)
FORMATS = {"2:3": (1.5, 1), "3:2": (1, 1.5), "1:2": (2, 1), "2:1": (1, 2)}
"""Height and width in parts of the shorter side."""
NUMBERS = count()
PLACES = {"start": 0.0, "middle": 0.5, "end": 1.0}
PHOTOGRAPHS = (
    *("astronaut", "camera", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field"),
    *("immunohistochemistry", "brick", "grass", "gravel", "moon", "coins", "page"),
)


def photograph(name: str) -> Pixels:
    """A photograph of scikit-image, its middle cut to a square."""
    pixels = np.asarray(getattr(data, name)())
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    side = min(pixels.shape[:2])
    top, left = ((n - side) // 2 for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side, :3]).astype(np.uint8)


GROUNDS = ("#ffffff", "#f5f5f5", "#e6e6e6", "#d2d2d2", "#c8dcff", "#c8ebc8", "#f5e1c8", "#ffd2dc")
"""White, greys and tints; on all of them the classifier reads square images rightly."""


def grounds(colours: Sequence[str], height: int, width: int) -> Iterator[tuple[str, Pixels]]:
    """Grounds of one colour each."""
    for colour in colours:
        ground = np.empty((height, width, 3), np.uint8)
        ground[:] = ImageColor.getrgb(colour)
        yield colour, ground


def on_ground(person: Pixels, ground: Pixels, place: float) -> Pixels:
    """A person on a ground, along its long side; white that reaches the edge is cut away."""
    near_white = (person > 245).all(axis=2)
    named, _ = ndimage.label(np.pad(near_white, 1, constant_values=True))
    outside = (named == named[0, 0])[1:-1, 1:-1]
    out = ground.copy()
    top, left = (round((n - SIZE) * place) for n in ground.shape[:2])
    part = out[top : top + SIZE, left : left + SIZE]
    part[~outside] = person[~outside]
    return out


@cache
def classifier(way: Way) -> ClipModel:
    """The reference world's classifier, which fits images in one way."""
    spec = ClassifierSpec(model="reference:balanced", fit=way.fit, pad_colour=way.colour)
    return ClipModel("small", spec, way.fit)


def batches(images: list[Pixels]) -> Iterator[Batch]:
    """Images in batches; a model keeps its last batch by the names of its cells."""
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        cells = tuple(str(next(NUMBERS)) for _ in part)
        yield Batch(cells, ("",) * len(part), tuple(part))


def embedded(images: list[Pixels], way: Way) -> torch.Tensor:
    """The classifier's embeddings of images, fitted in one way."""
    return torch.cat([classifier(way).images(batch, "cpu")[0] for batch in batches(images)])


@cache
def gender(way: Way) -> ClipAttribute:
    """The world's gender as the classifier reads it, one way of fitting."""
    return ClipAttribute(classifier(way), load_attribute("world-gender", Path()))


def women(images: list[Pixels], way: Way) -> NDArray[np.bool_]:
    """Which images are read as women."""
    context = Context("cpu")
    rows = pd.concat([gender(way).measure(batch, context) for batch in batches(images)])
    read: NDArray[np.bool_] = (rows["class:woman"] > rows["class:man"]).to_numpy()
    return read


def world_table(roles: int = 4, colours: Sequence[str] = GROUNDS) -> pd.DataFrame:
    """Accuracy and share of women by way, format and place; 'square' is the same without a cut.

    Args:
        roles: How many roles take part, each as man and woman, in five tones and both styles.
        colours: Grounds.
    """
    people = [Person(*one) for one in product(ROLES[:roles], GENDERS, TONES, STYLES)]
    truth = np.array([p.gender == "woman" for p in people])
    rows = []

    def add(way: str, kind: str, place: str, ground: str, read: NDArray[np.bool_]) -> None:
        rows.append((way, kind, place, ground, (read == truth).mean(), read.mean()))

    for ground, pixels in grounds(colours, SIZE, SIZE):
        square = [on_ground(picture(p), pixels, 0) for p in people]
        add("square", "1:1", "all", ground, women(square, Way("crop")))
    for kind, (h, w) in FORMATS.items():
        for (ground, pixels), (place, where) in product(
            grounds(colours, round(SIZE * h), round(SIZE * w)), PLACES.items()
        ):
            images = [on_ground(picture(p), pixels, where) for p in people]
            for way in WAYS:
                add(str(way), kind, place, ground, women(images, way))
    return pd.DataFrame(rows, columns=["fit", "format", "place", "ground", "right", "women"])


def photograph_table() -> pd.DataFrame:
    """Cosine of the cut's embedding with that of the square photograph, by way and format."""
    rows = []
    whole = {name: photograph(name) for name in PHOTOGRAPHS}
    squares = embedded(list(whole.values()), Way("crop"))
    for way, kind in product(WAYS, ("2:3", "3:2")):
        h, w = (n / 1.5 for n in FORMATS[kind])
        for place, where in PLACES.items():
            cuts = []
            for pixels in whole.values():
                side = len(pixels)
                height, width = round(side * h), round(side * w)
                top, left = round((side - height) * where), round((side - width) * where)
                cuts.append(pixels[top : top + height, left : left + width])
            cosines = (embedded(cuts, way) * squares).sum(dim=1).tolist()
            rows += [(str(way), kind, place, n, c) for n, c in zip(whole, cosines, strict=True)]
    return pd.DataFrame(rows, columns=["fit", "format", "place", "photograph", "cosine"])


def summary(world: pd.DataFrame, photographs: pd.DataFrame) -> pd.DataFrame:
    """One row a way: what decides.

    Returns:
        right: share read rightly over all formats, places and grounds; worst: the lowest of any
        format and place; women off: mean distance of the share of women from a half; cosine:
        mean over the photographs' cuts; lowest: its 5 % point.
    """
    cut = world[world["fit"] != "square"]
    by = cut.groupby("fit", sort=False)
    worst = cut.groupby(["fit", "format", "place"], sort=False)["right"].mean()
    like = photographs.groupby("fit", sort=False)["cosine"]
    return pd.DataFrame(
        {
            "right": by["right"].mean(),
            "worst": worst.groupby(level="fit", sort=False).min(),
            "women off": by["women"].agg(lambda v: float((v - 0.5).abs().mean())),
            "cosine": like.mean(),
            "lowest": like.quantile(0.05),
        }
    )


def main() -> None:
    """Print the tables of docs/simulations/crops.md."""
    world, photographs = world_table(), photograph_table()
    square = world[world["fit"] == "square"]
    print(f"square, same grounds: right {square['right'].mean():.3f}")
    print(summary(world, photographs).round(3).to_string())
    cut = world[world["fit"] != "square"]
    for columns in (["format", "place"], ["ground"]):
        table = cut.pivot_table(index="fit", columns=columns, values="right", sort=False)
        print(table.round(2).to_string())
    bar = cut[(cut["format"] == "1:2") & (cut["place"] == "end") & (cut["ground"] == "#ffffff")]
    print("64 x 128, person at the bottom, on white:")
    print(bar[["fit", "right", "women"]].round(2).to_string(index=False))


if __name__ == "__main__":
    main()
