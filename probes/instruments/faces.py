"""Faces in an image: the LBP cascade that scikit-image ships, so nothing is downloaded.

An old detector of frontal faces (Zhang et al. 2007, as trained for OpenCV): it misses turned
and covered ones, and more of some groups than of others. What it misses is counted as 'nobody',
never dropped.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARGIN = 0.4
"""Of the face's side, added on each side: hair and chin belong to what is seen."""
SMALLEST = 24


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


def faces(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Crops around the faces of an image, largest first.

    Args:
        pixels: (height, width, 3), uint8 sRGB.
    """
    side = min(pixels.shape[:2])
    if side < SMALLEST:
        return []
    found = _cascade().detect_multi_scale(
        img=pixels,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(max(SMALLEST, side // 12),) * 2,
        max_size=(side, side),
    )
    found = sorted(found, key=lambda box: -box["width"])
    return [_crop(pixels, box) for box in found]


def _crop(pixels: NDArray[np.uint8], box: dict[str, int]) -> NDArray[np.uint8]:
    grow = int(MARGIN * box["width"])
    top, left = max(box["r"] - grow, 0), max(box["c"] - grow, 0)
    return pixels[top : box["r"] + box["height"] + grow, left : box["c"] + box["width"] + grow]
