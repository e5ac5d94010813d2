"""Differences of two arms whose images have nothing in common but their prompts.

Images that two models generated from the same starting noise are paired. Imported ones are not,
unless their table says so: then every image of both arms counts, prompt by prompt.
"""

from __future__ import annotations

from math import nan

import numpy as np
import scipy
from numpy.typing import NDArray

from probes.statistics.intervals import (
    LEVEL,
    Difference,
    Estimand,
    Floats,
    Interval,
    mean_of_sorted,
    mean_share_over_prompts,
    share_interval,
)

Sizes = NDArray[np.integer]


def unpaired_difference(
    a: Floats, n_a: Sizes, b: Floats, n_b: Sizes, estimand: Estimand, shares: bool = False
) -> Difference:
    """Mean over prompts, all of equal weight, of the mean of arm a minus that of arm b.

    'prompts like these': t on the prompts' differences. 'this suite': stratified by prompt. Of
    shares the interval is that of a difference of two Wilson intervals (Newcombe 1998; Donner
    and Zou 2012), each at its arm's effective size, which holds for rare classes too, and p is
    that of the permutation of images within their prompts, by its variance and Student's t. Of
    other numbers both are Welch's, with Satterthwaite's degrees of freedom or, where a prompt has
    one image in an arm, the permutation's.

    Args:
        a: (N,) values of arm a: all of the first prompt, then of the second, and so on; no NaN.
        n_a: (P,) images of each prompt in arm a, at least 1.
        b: (M,) values of arm b, of the same prompts in the same order.
        n_b: (P,) images of each prompt in arm b, at least 1.
        estimand: 'this suite' or 'prompts like these'.
        shares: Whether the values are 0 or 1.

    Returns:
        The difference with its 95 % interval and the two-sided p of 'no difference'; NaN where
        the data cannot tell.
    """
    if not len(n_a):
        return Difference(nan, nan, nan, nan)
    difference = _means(a, n_a) - _means(b, n_b)
    value = float(difference.mean())
    if estimand == "prompts like these":
        return mean_of_sorted(difference, np.ones(len(difference), int), estimand)
    enough = bool(min(n_a.min(), n_b.min()) >= 2)
    parts, df = _permutation(a, n_a, b, n_b)
    if not parts.any():  # not even one image differs from the others of its prompt
        low, high = _bounds_of_shares(a, n_a, b, n_b, value) if shares else (nan, nan)
        return Difference(value, low, high, 1.0)
    if not shares and enough:
        own, freedom = _welch(a, n_a, b, n_b)
        if own.any():
            parts, df = own, freedom
    se = float(np.sqrt(parts.sum())) / len(n_a)
    p = float(2 * scipy.stats.t.sf(abs(value) / se, df))
    low, high = (float(x) for x in scipy.stats.t.interval(LEVEL, df, loc=value, scale=se))
    if shares:
        low, high = _bounds_of_shares(a, n_a, b, n_b, value)
    return Difference(value, low, high, p)


def _means(x: Floats, n: Sizes) -> Floats:
    return np.asarray(np.add.reduceat(x, np.cumsum(n) - n) / n)


def _squares(x: Floats, n: Sizes) -> Floats:
    """Sum of squared deviations from each prompt's mean, (P,)."""
    return np.asarray(np.add.reduceat((x - np.repeat(_means(x, n), n)) ** 2, np.cumsum(n) - n))


def _permutation(a: Floats, n_a: Sizes, b: Floats, n_b: Sizes) -> tuple[Floats, float]:
    """Variance of each prompt's difference if its images were dealt to the arms anew, and df."""
    n = n_a + n_b
    mean = (_means(a, n_a) * n_a + _means(b, n_b) * n_b) / n
    between = n_a * (_means(a, n_a) - mean) ** 2 + n_b * (_means(b, n_b) - mean) ** 2
    squares = _squares(a, n_a) + _squares(b, n_b) + between
    squares = np.where(squares > 1e-20 * np.maximum(1.0, mean**2), squares, 0.0)
    return squares / (n - 1) * (1 / n_a + 1 / n_b), float((n - 1).sum())


def _welch(a: Floats, n_a: Sizes, b: Floats, n_b: Sizes) -> tuple[Floats, float]:
    """Variance of each prompt's difference from each arm's own spread, and Satterthwaite's df."""
    own = [_squares(x, n) / (n - 1) / n for x, n in ((a, n_a), (b, n_b))]
    total = sum(part.sum() for part in own)
    below = sum((part**2 / (n - 1)).sum() for part, n in zip(own, (n_a, n_b), strict=True))
    return own[0] + own[1], float(total**2 / below) if below > 0 else nan


def _bounds_of_shares(
    a: Floats, n_a: Sizes, b: Floats, n_b: Sizes, value: float
) -> tuple[float, float]:
    one, two = _share(a, n_a), _share(b, n_b)
    below = float(np.hypot(one.value - one.low, two.high - two.value))
    above = float(np.hypot(one.high - one.value, two.value - two.low))
    return max(value - below, -1.0), min(value + above, 1.0)


def _share(x: Floats, n: Sizes) -> Interval:
    """One arm's mean share.

    One image tells nothing of how a prompt's images vary. Prompts taken for a simple sample vary
    more than that, so their interval is no narrower.
    """
    means = _means(x, n)
    if n.min() >= 2:
        return mean_share_over_prompts(means * n, n, "this suite")
    return share_interval(min(float(means.sum()), float(len(n))), float(len(n)))
