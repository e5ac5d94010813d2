"""How an image that is not square is shown to a classifier that sees squares.

open_clip scales the shorter side to the classifier's and cuts the middle out: of a portrait format
with the person at the bottom it sees the wall above. Other ways: filling up to a square, resizing
without the proportions, or the mean over overlapping squares. A square image is the same by all.
docs/simulations/crops.md has the table by which the default was chosen.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from harness.spec.schema import Spec
from harness.spec.sections import DEFAULT_FIT, ClassifierSpec, Fit, InstrumentSpec

__all__ = ["DEFAULT_FIT", "fit_of", "part_seen", "squares"]

OVERLAP = 0.5
"""Of a square's side, that neighbours share at least: no face of that size is cut in all."""


def fit_of(classifier: ClassifierSpec | InstrumentSpec, spec: Spec) -> Fit:
    """How a classifier takes images that are not square.

    Where nothing is said and all sizes of the spec are square it is 'crop', which is what is done
    to a square anyway: the scores of such runs keep their folders. Imported images have their
    own sizes, so that their importer says it.
    """
    if classifier.fit is not None:
        return classifier.fit
    square = all(width == height for width, height in spec.sizes)
    return "crop" if square else DEFAULT_FIT


def squares(image: NDArray[np.uint8], fit: Fit, pad_colour: str) -> list[NDArray[np.uint8]]:
    """The images that stand for one: squares, or the image itself for open_clip to crop.

    Args:
        image: (height, width, 3), uint8 sRGB.
        fit: How.
        pad_colour: '#rrggbb', for 'pad'.

    Returns:
        One or more images; several are to be averaged.
    """
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    if short == long or fit == "crop":
        return [image]
    if fit == "pad":
        square = np.empty((long, long, 3), np.uint8)
        square[:] = ImageColor.getrgb(pad_colour)[:3]
        top, left = (long - height) // 2, (long - width) // 2
        square[top : top + height, left : left + width] = image
        return [square]
    if fit == "resize":
        shape = (short, short)
        return [np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BICUBIC))]
    count = 1 + ceil((long - short) / ((1 - OVERLAP) * short) - 1e-9)
    starts = np.linspace(0, long - short, count).round().astype(int)
    if height > width:
        return [image[s : s + short] for s in starts]
    return [image[:, s : s + short] for s in starts]


def part_seen(image: NDArray[np.uint8], fit: Fit) -> float:
    """The part of an image's area that the classifier sees, 0 to 1."""
    height, width = image.shape[:2]
    return min(height, width) / max(height, width) if fit == "crop" else 1.0
