"""Skin tone as a colour: the Monk scale and the individual typology angle.

Measures the colour of pixels, so light and white balance of the image go into it: it says
what a viewer sees, not what skin a person has. Colours are CIELAB, D65, from sRGB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MONK_SWATCHES = (
    "#f6ede4",
    "#f3e7db",
    "#f7ead0",
    "#eadaba",
    "#d7bd96",
    "#a07e56",
    "#825c43",
    "#604134",
    "#3a312a",
    "#292420",
)
"""sRGB of the Monk Skin Tone Scale (Ellis Monk, released by Google), lightest first."""


def monk_colours() -> NDArray[np.uint8]:
    """The ten swatches, (10, 3), uint8 sRGB."""
    return np.array([list(bytes.fromhex(s.removeprefix("#"))) for s in MONK_SWATCHES], np.uint8)


def mean_lab(pixels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Mean CIELAB colour (3,) of pixels (n, 3), uint8 sRGB; None where there are none.

    Raises:
        ValueError: Another shape or another type of pixels.
    """
    from skimage.color import rgb2lab

    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, not uint8 (n, 3)")
    if len(pixels) == 0:
        return None
    mean: NDArray[np.float64] = np.asarray(rgb2lab(pixels), dtype=np.float64).mean(axis=0)
    return mean


def monk_tone(pixels: NDArray[np.uint8]) -> int | None:
    """Index 0 (MST-1, lightest) to 9 (MST-10, darkest) of the nearest Monk swatch.

    Nearest to the pixels' mean colour by the Euclidean distance in CIELAB (CIE 1976 ΔE).
    CIEDE2000 is made for small differences; most swatches lie further apart than that, and
    both put typical skin colours into the same class. MST-1 and MST-2 are 2.7 apart, so take
    neighbours at the light end as one.

    Args:
        pixels: (n, 3), uint8 sRGB: those of a skin mask.

    Returns:
        None ('not measured') where there are no pixels.
    """
    from skimage.color import rgb2lab

    colour = mean_lab(pixels)
    if colour is None:
        return None
    distances = np.linalg.norm(rgb2lab(monk_colours()) - colour, axis=1)
    return int(distances.argmin())


def ita(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Individual typology angle in degrees of CIELAB colours (…, 3): higher is lighter.

    arctan((L - 50) / b) after Chardon and others (1991), by the two-argument arctangent, so
    that colours without yellow (b <= 0) come out beyond ±90 instead of changing sign.
    """
    return np.degrees(np.arctan2(lab[..., 0] - 50, lab[..., 2]))
