"""Means and differences where all prompts share the same seeds.

With `seeds.shared` one starting noise makes one image of every prompt, and those images resemble
each other. Images are then no independent sample: seeds are. Every interval here is clustered by
seed; below 8 seeds there is none ('cannot tell').
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray

from probes.statistics.intervals import (
    FEWEST_PROMPTS,
    LEVEL,
    Difference,
    Estimand,
    Interval,
    share_interval,
    within_span,
)

Floats = NDArray[np.float64]

FEWEST_SEEDS = 8
"""Fewer seeds than this give no interval of what they are shared by."""
NOTE = "seeds are shared by all prompts: the interval is clustered by seed"
TOO_FEW = f"seeds are shared by all prompts and fewer than {FEWEST_SEEDS}: no interval"


def sharing_note(seeds: int) -> str:
    """What an interval of that many shared seeds must say."""
    return NOTE if seeds >= FEWEST_SEEDS else TOO_FEW


def mean_by_seed(
    values: ArrayLike, prompts: ArrayLike, seeds: ArrayLike, estimand: Estimand
) -> Difference:
    """Mean over prompts, all of equal weight, of the means of their cells; seeds are shared.

    'this suite': the variance is that between seeds, each seed's values taken together over all
    prompts. 'prompts like these': between prompts and between seeds, less the cells' own, which
    both hold (Cameron, Gelbach and Miller 2011). t has as many degrees of freedom as there are
    seeds (and prompts) less 1.

    Args:
        values: (N,) value of each cell, such as a paired difference; no NaN.
        prompts: (N,) prompt of each cell.
        seeds: (N,) seed index of each cell.
        estimand: Which of the two.

    Returns:
        Bounds and p are NaN below 8 seeds, below 20 prompts ('prompts like these') and where
        nothing varies; all NaN without cells.
    """
    x = np.asarray(values, float)
    if not x.size:
        return Difference(nan, nan, nan, nan)
    mean, variance, df = _variance(x, prompts, seeds, estimand)
    if not variance > 1e-24 * max(float(np.abs(x).max()), 1.0) ** 2:
        return Difference(mean, nan, nan, nan)
    se = np.sqrt(variance)
    low, high = scipy.stats.t.interval(LEVEL, df, loc=mean, scale=se)
    return Difference(
        mean, float(low), float(high), float(2 * scipy.stats.t.sf(abs(mean) / se, df))
    )


def mean_share_by_seed(
    hits: ArrayLike, prompts: ArrayLike, seeds: ArrayLike, estimand: Estimand
) -> Interval:
    """As `mean_by_seed`, of one class's share: Wilson's interval at the effective sample size.

    The effective size is that of so many independent images as would have the variance between
    seeds (Korn and Graubard 1998). Where no image varies it is the number of seeds: as if all
    images of one seed were the same.

    Args:
        hits: (N,) 1 for an image of the class, else 0.
        prompts: (N,) prompt of each image.
        seeds: (N,) seed index of each image.
        estimand: Which of the two.
    """
    x = np.asarray(hits, float)
    if not x.size:
        return Interval(nan, nan, nan)
    value, variance, df = _variance(x, prompts, seeds, estimand)
    if np.isnan(variance):
        return Interval(value, nan, nan)
    size = df + 1.0
    if variance > 0 and 0 < value < 1:
        tail = (1 + LEVEL) / 2
        size = (
            value
            * (1 - value)
            / variance
            * (scipy.stats.norm.ppf(tail) / scipy.stats.t.ppf(tail, df)) ** 2
        )
    low, high = share_interval(min(value * size, size), size)[1:]
    return Interval(value, min(low, value), max(high, value))


def difference_by_seed(
    a: ArrayLike,
    b: ArrayLike,
    prompts: ArrayLike,
    seeds: ArrayLike,
    estimand: Estimand,
    span: float = nan,
) -> Difference:
    """Mean over prompts of a - b, cell by cell, where all prompts share the same seeds.

    As `mean_by_seed` of the differences; where every difference is exactly 0, as
    `probes.statistics.intervals.paired_difference` with the number of seeds (for 'prompts like
    these' of prompts, if they are fewer) in place of that of cells.

    Args:
        a: (N,) values of arm a.
        b: (N,) values of the same cells in arm b.
        prompts: (N,) prompt of each cell.
        seeds: (N,) seed index of each cell.
        estimand: Which of the two.
        span: The most by which one cell can differ; NaN where there is no such limit.
    """
    one, two = np.asarray(a, float), np.asarray(b, float)
    found = mean_by_seed(one - two, prompts, seeds, estimand)
    if not one.size or (one != two).any():
        return within_span(found, span)
    units, many = len(np.unique(np.asarray(seeds))), len(np.unique(np.asarray(prompts)))
    if units < FEWEST_SEEDS or (estimand == "prompts like these" and many < FEWEST_PROMPTS):
        return Difference(0.0, nan, nan, 1.0)
    units = min(units, many) if estimand == "prompts like these" else units
    most = span * float(1 - ((1 - LEVEL) / 2) ** (1 / units))
    return Difference(0.0, -most, most, 1.0)


def mean_distance_by_seed(
    outcomes: ArrayLike,
    prompts: ArrayLike,
    seeds: ArrayLike,
    classes: Sequence[str],
    targets: ArrayLike,
) -> Interval:
    """Mean total variation of the prompts from their targets, for 'prompts like these'.

    The variance is that between prompts and, by the jackknife that leaves one seed out of all
    prompts at a time, that between seeds; their sum is too wide rather than too narrow.

    Args:
        outcomes: (N,) class of each image.
        prompts: (N,) prompt of each image.
        seeds: (N,) seed index of each image.
        classes: The K declared classes.
        targets: (P, K) target of each prompt, in the order in which prompts first appear.
    """
    prompt, known = pd.factorize(np.asarray(prompts))
    seed, units = pd.factorize(np.asarray(seeds))
    column = pd.Categorical(np.asarray(outcomes), categories=list(classes)).codes
    cells = np.zeros((len(units), len(known), len(classes)))
    np.add.at(cells, (seed, prompt, column), 1.0)
    wanted = np.asarray(targets, float)

    def distances(counts: Floats) -> Floats:
        total = counts.sum(axis=-1, keepdims=True)
        shares = np.divide(counts, total, out=np.full(counts.shape, nan), where=total > 0)
        return np.asarray(np.abs(shares - wanted).sum(axis=-1) / 2)

    own = distances(cells.sum(axis=0))
    value = float(own.mean())
    if len(known) < FEWEST_PROMPTS or len(units) < FEWEST_SEEDS:
        return Interval(value, nan, nan)
    left_out = np.nanmean(distances(cells.sum(axis=0) - cells), axis=1)
    variance = (len(units) - 1) * float(left_out.var()) + float(own.var(ddof=1)) / len(known)
    if variance < 1e-24:
        return Interval(value, nan, nan)
    df = min(len(known), len(units)) - 1
    reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(variance))
    return Interval(value, max(value - reach, 0.0), min(value + reach, 1.0))


def design_effect(values: ArrayLike, prompts: ArrayLike, seeds: ArrayLike) -> float:
    """How many times larger sharing seeds makes the variance of the mean over prompts, 1 or more.

    Args:
        values: (N,) value of each cell; no NaN.
        prompts: (N,) prompt of each cell.
        seeds: (N,) seed index of each cell.

    Returns:
        NaN below 8 seeds.
    """
    x = np.asarray(values, float)
    _, shared, _ = _variance(x, prompts, seeds, "this suite")
    _, own, _ = _variance(x, prompts, np.arange(len(x)), "this suite")
    return max(shared / own, 1.0) if own > 0 else (nan if np.isnan(shared) else 1.0)


def _variance(
    x: Floats, prompts: ArrayLike, seeds: ArrayLike, estimand: Estimand
) -> tuple[float, float, float]:
    """Mean over prompts, its variance (NaN: cannot tell) and degrees of freedom."""
    prompt = np.unique(np.asarray(prompts), return_inverse=True)[1].ravel()
    seed = np.unique(np.asarray(seeds), return_inverse=True)[1].ravel()
    n = np.bincount(prompt)
    means = np.bincount(prompt, x) / n
    many, units = len(n), int(seed.max()) + 1
    mean = float(means.mean())
    if units < FEWEST_SEEDS:
        return mean, nan, nan
    # What each cell adds to the mean over prompts, beyond its prompt's own mean.
    part = (x - means[prompt]) / n[prompt] / many
    of_seeds = float((np.bincount(seed, part) ** 2).sum()) * units / (units - 1)
    if estimand == "this suite":
        return mean, of_seeds, units - 1.0
    if many < FEWEST_PROMPTS:
        return mean, nan, nan
    of_prompts = float(means.var(ddof=1)) / many
    of_cells = float((part**2).sum()) * units / (units - 1)
    both = max(of_prompts + of_seeds - of_cells, of_prompts, of_seeds)
    return mean, both, min(many, units) - 1.0
