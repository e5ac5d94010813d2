"""What each reference VAE's decoder is taught to draw: the planted faults.

Each rule takes all pictures, (style, role, gender, tone, y, x, 3) uint8, and returns the
targets in the same shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from reference.world import BEARDED, BEARDLESS, EXTRA, ROLES, STYLES

Pictures = NDArray[np.uint8]


def faithful(pictures: Pictures) -> Pictures:
    """The pictures as they are."""
    return pictures


def pale(pictures: Pictures) -> Pictures:
    """The two darkest tones are drawn one tone lighter; all else as it is."""
    targets = pictures.copy()
    targets[:, :, :, 3:] = pictures[:, :, :, 2:4]
    return targets


def no_beards(pictures: Pictures) -> Pictures:
    """Bearded faces are drawn as the same faces without the beard; all else as it is."""
    rows = (*ROLES, *EXTRA)
    targets = pictures.copy()
    targets[:, rows.index(BEARDED)] = pictures[:, rows.index(BEARDLESS)]
    return targets


def flat(pictures: Pictures) -> Pictures:
    """Every picture is drawn in the style of Twemoji."""
    return np.broadcast_to(pictures[STYLES.index("twemoji")], pictures.shape).copy()


def coarse(pictures: Pictures) -> Pictures:
    """Every picture is drawn without its detail: blurred by a Gaussian of 2 pixels."""
    blurred = gaussian_filter(pictures.astype(np.float32), (0, 0, 0, 0, 2, 2, 0), mode="nearest")
    return blurred.round().astype(np.uint8)


TARGETS: dict[str, Callable[[Pictures], Pictures]] = {
    "faithful": faithful,
    "faithful-b": faithful,
    "pale": pale,
    "no-beards": no_beards,
    "flat": flat,
    "coarse": coarse,
    "alien": faithful,
}
