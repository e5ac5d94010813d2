"""Faces in an image, by a detector that ships its own weights, so nothing is downloaded.

'lbp' is the cascade of scikit-image (Zhang et al. 2007, as trained for OpenCV): an old detector of
frontal faces, which misses turned and covered ones and finds some where there are none. 'dlib' is
dlib's histogram of oriented gradients with five views (King 2009), with the extra [faces]: turned
heads are found, sideways and upside-down ones are not. Both miss more of some groups than of
others; what is missed is counted as 'nobody', never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import AuditError
from harness.spec.sections import Faces

MARGIN = 0.4
"""Of the face's side, added on each side: hair and chin belong to what is seen."""
SMALLEST = 24
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; right and bottom are the first beyond."""


class Face(NamedTuple):
    """One face with its surroundings.

    Attributes:
        pixels: (height, width, 3), uint8 sRGB.
        box: where that is in the image.
    """

    pixels: NDArray[np.uint8]
    box: Box


def largest_face(image: NDArray[np.uint8], detector: Faces) -> Face | None:
    """The largest face of an image with a margin around it; None where none is found.

    Args:
        image: (height, width, 3), uint8 sRGB.
        detector: 'lbp' or 'dlib'; True stands for 'lbp'.

    Raises:
        AuditError: 'dlib' is not installed.
    """
    found = boxes(image, detector)
    if not found:
        return None
    left, top, right, bottom = found[0]
    grow = int(MARGIN * (right - left))
    left, top = max(left - grow, 0), max(top - grow, 0)
    right, bottom = min(right + grow, image.shape[1]), min(bottom + grow, image.shape[0])
    return Face(image[top:bottom, left:right], (left, top, right, bottom))


class Seen(NamedTuple):
    """What stands for some images where faces are looked for.

    Attributes:
        images: the largest face of each, or the image itself where none is found.
        found: whether there is a face.
        boxes: where it is; None where none is found.
    """

    images: list[NDArray[np.uint8]]
    found: list[bool]
    boxes: list[Box | None]


def faces_of(images: Sequence[NDArray[np.uint8]], detector: Faces) -> Seen:
    """The largest face of each image; all images as they are where `detector` is False."""
    if not detector:
        return Seen(list(images), [True] * len(images), [None] * len(images))
    held = [largest_face(image, detector) for image in images]
    return Seen(
        [face.pixels if face else i for face, i in zip(held, images, strict=True)],
        [face is not None for face in held],
        [face.box if face else None for face in held],
    )


def boxes(image: NDArray[np.uint8], detector: Faces) -> list[Box]:
    """Where faces are, without a margin, the widest first; arguments as `largest_face`."""
    if min(image.shape[:2]) < SMALLEST:
        return []
    found = _by_dlib(image) if detector == "dlib" else _by_cascade(image)
    return sorted(found, key=lambda box: box[0] - box[2])


def _by_cascade(image: NDArray[np.uint8]) -> list[Box]:
    side = min(image.shape[:2])
    found = _cascade().detect_multi_scale(
        img=image,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(max(SMALLEST, side // 12),) * 2,
        max_size=(side, side),
    )
    return [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found]


def _by_dlib(image: NDArray[np.uint8]) -> list[Box]:
    found = _hog()(np.ascontiguousarray(image), 0)
    # A face can lie partly outside the image.
    return [(max(f.left(), 0), max(f.top(), 0), f.right() + 1, f.bottom() + 1) for f in found]


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())


@cache
def _hog() -> Any:
    try:
        import dlib
    except ImportError:
        raise AuditError(
            "faces: dlib is not installed: pip install 'diffusion-audit[faces]'"
        ) from None
    return dlib.get_frontal_face_detector()
