"""Power spectra: their radial mean, error in dB, share of fine detail, peaks on a grid.

Frequencies are in cycles per pixel (of a latent: per latent pixel). Ratios of power are in dB.
What cannot be said is NaN.
"""

from __future__ import annotations

from math import log10, nan
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 32
"""Bins of the spectra of images."""
HIGH = 0.25
"""Frequencies above this are high: details finer than four pixels."""
ROUNDING = 1 / (12 * 255**2)
"""Power of rounding to 8 bits: what lies below it cannot be told from nothing."""

_TOP = 0.71
"""End of the last bin: just above √½, so that no diagonal frequency lies on an edge."""


class Radial(NamedTuple):
    """A power spectrum averaged over directions; empty bins are NaN with 0 coefficients.

    Attributes:
        frequency: (bins,) mean frequency of a bin's coefficients.
        power: (bins,) their mean power.
        coefficients: (bins,) how many they are.
    """

    frequency: Floats
    power: Floats
    coefficients: NDArray[np.int64]


def power_spectrum(
    array: NDArray[np.floating] | NDArray[np.integer], window: bool = True
) -> Floats:
    """Power of each Fourier coefficient, (height, width), in the order of the FFT.

    The mean is taken off first, so the coefficient at 0 is 0. Scaled so that the mean over all
    coefficients is the array's variance (Parseval): white noise is flat at its variance, whatever
    the size. With the Hann window, which keeps edges from leaking into all frequencies, that is
    the variance as the window weighs it.

    Args:
        array: (height, width), numbers.
        window: Whether to apply the (periodic) Hann window.

    Raises:
        ValueError: Another shape.
    """
    if array.ndim != 2 or not array.size:
        raise ValueError(f"array is {array.shape}, not (height, width)")
    height, width = array.shape
    weights = np.ones(array.shape)
    if window:
        from scipy.signal.windows import hann  # a twentieth of what every command loads

        weights = np.outer(hann(height, sym=False), hann(width, sym=False))
    centred = array - np.average(array, weights=weights)
    if np.abs(centred).max() <= 1e-12 * np.abs(array).max():
        return np.zeros(array.shape)  # what is left of one colour is the mean's rounding
    power: Floats = np.abs(scipy.fft.fft2(centred * weights)) ** 2 / (weights**2).sum()
    power[0, 0] = 0
    return power


def _frequencies(shape: tuple[int, ...]) -> Floats:
    """Distance of each coefficient from 0, in cycles per pixel."""
    radius: Floats = np.hypot(
        scipy.fft.fftfreq(shape[0])[:, None], scipy.fft.fftfreq(shape[1])[None, :]
    )
    return radius


def bin_centres(bins: int = BINS) -> Floats:
    """Middle frequency of each bin of `radial`, the same for every size of image."""
    centres: Floats = (np.arange(bins) + 0.5) * _TOP / bins
    return centres


def radial(power: Floats, bins: int = BINS) -> Radial:
    """A power spectrum averaged over directions, in bins of equal width up to the corners.

    The coefficient at 0 is left out. Power times coefficients sums to the array's variance times
    its number of pixels.

    Args:
        power: (height, width) of `power_spectrum`.
        bins: How many bins; those that a small array leaves empty are NaN.
    """
    radius = _frequencies(power.shape).ravel()[1:]
    which = (radius * (bins / _TOP)).astype(np.int64)
    count = np.bincount(which, minlength=bins)
    number = np.where(count > 0, count, nan)
    return Radial(
        np.bincount(which, weights=radius, minlength=bins) / number,
        np.bincount(which, weights=power.ravel()[1:], minlength=bins) / number,
        count,
    )


def log_spectral_error(image: Radial, reference: Radial, floor: float = 0.0) -> Floats:
    """The image's power over the reference's, (bins,) in dB: 0 equal, negative is lost.

    Args:
        image: Its radial spectrum.
        reference: That of its reference, in the same bins.
        floor: Power below this counts as this much. With 0 a bin without power is NaN.
    """
    a, b = np.maximum(image.power, floor), np.maximum(reference.power, floor)
    known = (a > 0) & (b > 0)
    error: Floats = 10 * np.log10(np.where(known, a, nan) / np.where(known, b, nan))
    return error


def high_frequency_ratio(power: Floats) -> float:
    """The share of the power above `HIGH`, 0 to 1; NaN where there is no power.

    White noise has 1 - π/16 = 0.80, photographs a few hundredths.
    """
    total = power.sum()
    return float(power[_frequencies(power.shape) > HIGH].sum() / total) if total > 0 else nan


def high_frequency_gain(image: Floats, reference: Floats, floor: float = 0.0) -> float:
    """The image's power above `HIGH` over its reference's, in dB; below 0 detail is lost.

    Args:
        image: (height, width) of `power_spectrum`.
        reference: That of the reference, of the same size.
        floor: Mean power below this counts as this much. With 0 no power in either is NaN.

    Raises:
        ValueError: Two sizes.
    """
    if image.shape != reference.shape:
        raise ValueError(f"image is {image.shape}, reference {reference.shape}: one size is needed")
    high = _frequencies(image.shape) > HIGH
    if not high.any():
        return nan
    a, b = (max(float(x[high].mean()), floor) for x in (image, reference))
    return 10 * log10(a / b) if a > 0 and b > 0 else nan


def grid_peak(power: Floats, period: int = 8, floor: float = 0.0) -> float:
    """How far a grid of this period stands out of the spectrum, in dB.

    The power at (i/period, j/period), 0 excluded, over the median of the 7 by 7 coefficients
    around it (without the 3 by 3 in the middle, which a Hann window fills); mean over the grid's
    frequencies. White noise has 10 log10(1/ln 2) = 1.6 dB, for its power is exponential.

    Args:
        power: (height, width) of `power_spectrum`. A side below five periods gives NaN: the
            frequencies would be neighbours of each other.
        period: The decoder's upsampling in pixels, at least 2.
        floor: Power below this counts as this much. With 0 no power around a frequency is NaN.
    """
    if min(power.shape) < 5 * period:
        return nan
    height, width = power.shape
    i, j = (x.ravel()[1:] for x in np.indices((period, period)))
    rows, columns = np.rint(i * height / period), np.rint(j * width / period)
    dy, dx = (x.ravel() for x in np.indices((7, 7)) - 3)
    around = np.maximum(abs(dy), abs(dx)) > 1
    y = (rows[:, None] + dy[around]).astype(int) % height
    x = (columns[:, None] + dx[around]).astype(int) % width
    beside = np.maximum(np.median(power[y, x], axis=1), floor)
    peak = np.maximum(power[rows.astype(int), columns.astype(int)], floor)
    if not (beside > 0).all() or not peak.any():
        return nan
    return 10 * log10(float((peak / beside).mean()))


def log_slope(spectrum: Radial) -> float:
    """Slope of log power against log frequency up to 0.5: 0 white noise, -2 to -3 photographs.

    Least squares over the bins, weighted by coefficients as the variance of a mean's logarithm
    asks for. NaN with fewer than three bins that have power.
    """
    usable = (spectrum.coefficients > 0) & (spectrum.power > 0) & (spectrum.frequency <= 0.5)
    if usable.sum() < 3:
        return nan
    x, y = np.log(spectrum.frequency[usable]), np.log(spectrum.power[usable])
    return float(np.polyfit(x, y, 1, w=np.sqrt(spectrum.coefficients[usable]))[0])
