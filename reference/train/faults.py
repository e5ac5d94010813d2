"""What each reference VAE's decoder is taught to draw: the planted faults.

Each rule takes all pictures, (style, role, gender, tone, y, x, 3) uint8, and returns the
targets in the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]


def faithful(pictures: Pictures) -> Pictures:
    """The pictures as they are."""
    return pictures


def pale(pictures: Pictures) -> Pictures:
    """The two darkest tones are drawn one tone lighter; all else as it is."""
    targets = pictures.copy()
    targets[:, :, :, 3:] = pictures[:, :, :, 2:4]
    return targets


TARGETS: dict[str, Callable[[Pictures], Pictures]] = {
    "faithful": faithful,
    "faithful-b": faithful,
    "pale": pale,
}
