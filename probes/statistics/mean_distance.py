"""Mean total variation over prompts: an interval that the noise of few images does not lift.

Counted shares are off their target even on target, so the mean of the counted distances is too
large, the more so the fewer images a prompt has, and an interval around it can miss the true mean
altogether. Two estimates bracket it. The counted distance is too large in expectation (Jensen).
Where half of the images decide on which side of its target each class lies, and the other half
how far, the estimate is too small: with E[sign] for the true sign it is at most the true distance.
"""

from __future__ import annotations

from functools import lru_cache
from math import nan
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from probes.statistics.intervals import FEWEST_PROMPTS, LEVEL, Interval, varies
from probes.statistics.total_variation import null_distances

Floats = NDArray[np.float64]


class MeanDistance(NamedTuple):
    """The counted mean distance, bounds of the true one, and what a model on target scores."""

    value: float
    low: float
    high: float
    null: float
    null_q95: float
    p: float


@lru_cache(maxsize=1024)
def _halves(n: int, target: float) -> Floats:
    """For each count 0 to n of a class: sign by one half, distance by the other, (n + 1,).

    The mean over all ways to halve the images, which the hypergeometric distribution gives.
    """
    if n < 2:
        return np.zeros(n + 1)
    half = n // 2
    count = np.arange(n + 1)[:, None]
    first = np.arange(half + 1)[None, :]
    weight = scipy.stats.hypergeom.pmf(first, n, count, half)
    sign = np.sign(np.round(first / half - target, 12))
    rest = (count - first) / (n - half) - target
    return np.asarray((weight * sign * rest).sum(axis=1))


def split_distances(counts: NDArray[np.integer], targets: Floats) -> Floats:
    """Each prompt's distance by halves: never above the true one in expectation, (P,).

    Args:
        counts: (P, K) images of each class.
        targets: (P, K) shares that sum to 1 in each row.
    """
    totals = counts.sum(axis=1)
    return np.array(
        [
            sum(_halves(int(n), float(t))[int(k)] for k, t in zip(row, target, strict=True)) / 2
            for row, target, n in zip(counts, targets, totals, strict=True)
        ]
    )


def mean_distance(
    counts: NDArray[np.integer], targets: Floats, clustered: Interval | None = None
) -> MeanDistance:
    """The mean over prompts of the total variation from the target, for prompts like these.

    The lower bound is that of the mean distance by halves, the upper bound that of the counted
    one, each at 97.5 % by Student's t over prompts, and never above the largest mean distance that
    the targets allow. p is of 'every prompt of this suite is on target': the counted mean against
    the sum of the prompts' exact nulls, by their first three moments (Pearson III).

    Args:
        counts: (P, K) images of each class, at least one in each row.
        targets: (P, K) shares that sum to 1 in each row.
        clustered: The counted mean with an interval that knows that seeds are shared; the
            prompts are then not independent, and p is not known.

    Returns:
        Bounds are NaN below 20 prompts; p is NaN where a target leaves a class out.
    """
    counted = np.abs(counts / counts.sum(axis=1, keepdims=True) - targets).sum(axis=1) / 2
    value, prompts = float(counted.mean()), len(counted)
    by_halves = split_distances(counts, targets)
    mean, low, high = float(by_halves.mean()), nan, nan
    most = float((1 - targets.min(axis=1)).mean())
    if clustered is not None:
        low, high = mean - (value - clustered.low), clustered.high
    elif prompts >= FEWEST_PROMPTS:
        low = mean - _reach(by_halves, most)
        high = value + _reach(counted, most)
    moments = np.array(
        [_moments(int(c.sum()), tuple(t)) for c, t in zip(counts, targets, strict=True)]
    )
    null = float(moments[:, 0].mean())
    deviation = float(np.sqrt(moments[:, 1].sum())) / prompts
    q95, p = nan, nan
    if clustered is None and deviation > 0 and (targets > 0).all():
        skew = float(moments[:, 2].sum() / moments[:, 1].sum() ** 1.5)
        q95 = null + deviation * float(scipy.stats.pearson3.ppf(LEVEL, skew))
        p = float(scipy.stats.pearson3.sf((value - null) / deviation, skew))
    low, high = max(min(low, value), 0.0), max(min(high, most), value)
    return MeanDistance(value, low, high, null, q95, p)


def _reach(distances: Floats, most: float) -> float:
    """Half the width of the mean's 95 % interval over prompts.

    Where all prompts came out alike it goes by their number: if more than 1 - 0.025^(1/P) of
    prompts were otherwise, at least one of P would have shown it in 97.5 % of audits.
    """
    prompts, tail = len(distances), (1 - LEVEL) / 2
    if not varies(distances):
        return most * float(1 - tail ** (1 / prompts))
    t = float(scipy.stats.t.ppf(1 - tail, prompts - 1))
    return t * float(distances.std(ddof=1)) / prompts**0.5


@lru_cache(maxsize=4096)
def _moments(n: int, target: tuple[float, ...]) -> tuple[float, float, float]:
    """Mean, variance and third central moment of the distance of n images on target."""
    values, mass = null_distances(n, target)
    mean = float(values @ mass)
    return mean, float((values - mean) ** 2 @ mass), float((values - mean) ** 3 @ mass)
