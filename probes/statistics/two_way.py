"""The mean of judgements that share prompts and raters, with both as clusters.

Two judgements of one prompt are alike, and so are two of one rater. Variances clustered by prompt
and by rater are added and that of their crossing taken off (Cameron, Gelbach and Miller 2011,
eq. 2.11), each with its G / (G - 1), and t has Satterthwaite's degrees of freedom. Few raters say
nothing about others: below `FEWEST_RATERS` they are taken as they are and only prompts are sampled.
"""

from __future__ import annotations

from math import nan

import numpy as np
import scipy
from numpy.typing import ArrayLike

from probes.statistics.intervals import LEVEL, Difference, Floats

FEWEST_RATERS = 6
FEWEST_PROMPTS = 5


def two_way_mean(values: ArrayLike, prompts: ArrayLike, raters: ArrayLike) -> Difference:
    """Mean, 95 % interval and p of 'it is zero', clustered by prompt and by rater.

    Args:
        values: One number a judgement, (n,).
        prompts: Prompt of each judgement, (n,).
        raters: Rater of each judgement, (n,).

    Returns:
        Bounds and p are NaN below `FEWEST_PROMPTS` prompts and where nothing varies. With fewer
        than `FEWEST_RATERS` raters the interval is for these raters.

    >>> two_way_mean([1, 0, 1, 1, 0, 1], list("aabbcc"), list("xyxyxy")).value
    0.6666666666666666
    """
    x = np.asarray(values, float)
    if len(x) == 0:
        return Difference(nan, nan, nan, nan)
    mean = float(x.mean())
    of_prompt, of_rater = _codes(prompts), _codes(raters)
    count = int(of_prompt.max()) + 1, int(of_rater.max()) + 1
    if count[0] < FEWEST_PROMPTS:
        return Difference(mean, nan, nan, nan)
    if count[1] < FEWEST_RATERS:
        own = np.bincount(of_rater, x) / np.bincount(of_rater)
        variance, df = _clustered(x - own[of_rater], of_prompt), count[0] - 1.0
    else:
        e = x - mean
        by_prompt, by_rater = _clustered(e, of_prompt), _clustered(e, of_rater)
        both = _clustered(e, _codes(of_prompt * count[1] + of_rater))
        variance = max(by_prompt + by_rater - both, by_prompt, by_rater)
        parts = by_prompt**2 / (count[0] - 1) + max(by_rater - both, 0) ** 2 / (count[1] - 1)
        df = variance**2 / parts if parts > 0 else nan
    se = np.sqrt(variance)
    if not se > 0:
        return Difference(mean, nan, nan, nan)
    low, high = scipy.stats.t.interval(LEVEL, df, loc=mean, scale=se)
    return Difference(
        mean, float(low), float(high), float(2 * scipy.stats.t.sf(abs(mean) / se, df))
    )


def _codes(labels: ArrayLike) -> np.ndarray:
    return np.unique(np.asarray(labels), return_inverse=True)[1]


def _clustered(residuals: Floats, cluster: np.ndarray) -> float:
    """Variance of a mean from sums of residuals by cluster."""
    sums = np.bincount(cluster, residuals)
    g = len(sums)
    return float(g / (g - 1) * (sums**2).sum() / len(residuals) ** 2)
