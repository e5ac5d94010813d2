"""Means of one measure and differences of groups, with intervals and minimal-effect tests."""

from __future__ import annotations

import warnings
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from probes.contracts import MetricSpec
from probes.statistics.intervals import FEWEST_PROMPTS, Estimand, mean_of_sorted, varies

FEWEST_MATCHES = 10


class Measure(NamedTuple):
    """One number an image: a column of the table that is analysed.

    Attributes:
        metric: what it is, its column in the table and its resolution. A level (an error, a
            likeness, a slope) has no zero to be held against; a shift has.
        own_group: label of the groups that the measure's own instrument reads, '' where there are
            none: differences between those are regression to the mean, and are not tested.
    """

    metric: MetricSpec
    own_group: str = ""

    @property
    def level(self) -> bool:
        """Whether there is no zero to be held against."""
        return self.metric.kind == "level"


class Effect(NamedTuple):
    """A mean with its 95 % interval and the p of 'no larger than the resolution'."""

    value: float
    low: float
    high: float
    p: float
    n: int
    clusters: int
    estimator: str
    note: str = ""


def mean_effect(part: pd.DataFrame, m: Measure) -> Effect:
    """Mean of one measure over the clusters (prompts, or images where each is its own)."""
    column = part[m.metric.column].to_numpy(float)
    seen = ~np.isnan(column)
    codes = pd.factorize(part["cluster"].to_numpy()[seen])[0]
    flat, sizes = column[seen][np.argsort(codes, kind="stable")], np.bincount(codes)
    if not len(flat):
        return Effect(nan, nan, nan, nan, 0, 0, "", "no image could be measured")
    if (flat == flat[0]).all() and np.isfinite(flat[0]):
        note = f"the same in every one of {len(flat)} images"
        return Effect(float(flat[0]), nan, nan, nan, len(flat), len(sizes), "mean", note)
    alone = estimand_of(part) == "images like these"
    claimed = not m.level or "against" in part
    if not alone and sizes.min() < 2 <= len(sizes):
        # Seeds of a prompt with one image have no variance; prompts have, which is more.
        means = np.add.reduceat(flat, np.cumsum(sizes) - sizes) / sizes
        known_by = "mean over prompts, t over prompts (some have one image)"
        effect = _t(means, len(flat), m, known_by)
        return effect if claimed else effect._replace(p=nan)
    found = mean_of_sorted(flat, sizes, "prompts like these" if alone else "this suite")
    few = alone and len(sizes) < FEWEST_PROMPTS
    note = f"{len(sizes)} images; {FEWEST_PROMPTS} are needed for an interval" if few else ""
    estimator = "mean over images, t" if alone else "mean over prompts, t"
    se = (found.high - found.low) / 2 / scipy.stats.norm.ppf(0.975)
    p = _minimal_p(found.value, se, len(flat) - 1, m.metric.resolution) if claimed else nan
    return Effect(found.value, found.low, found.high, p, len(flat), len(sizes), estimator, note)


def matched(
    x: NDArray[np.float64],
    inside: NDArray[np.bool_],
    alike: NDArray[np.integer],
    what: str,
    m: Measure,
) -> Effect | None:
    """Of images that are alike (one number a kind), those inside minus those outside."""
    most = int(alike.max()) + 1
    counts = [np.bincount(alike[who], minlength=most) for who in (inside, ~inside)]
    sums = [np.bincount(alike[who], x[who], minlength=most) for who in (inside, ~inside)]
    both = (counts[0] > 0) & (counts[1] > 0)
    if both.sum() < FEWEST_MATCHES:
        return None
    difference = sums[0][both] / counts[0][both] - sums[1][both] / counts[1][both]
    return _t(difference, len(x), m, f"matched by {what}: {both.sum()} matches, t")


def unmatched(a: NDArray[np.float64], b: NDArray[np.float64], m: Measure) -> Effect:
    """Of images that nothing matches: the difference of two means, Welch's t."""
    n = len(a) + len(b)
    value = float(a.mean() - b.mean())
    if not varies(a) and not varies(b):
        note = "no image of a group differs from another of it"
        return Effect(value, nan, nan, nan, n, n, "difference of means", note)
    with warnings.catch_warnings():
        # SciPy warns of a group that hardly varies; then the other's variance makes the interval.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = scipy.stats.ttest_ind(a, b, equal_var=False)
    bounds = test.confidence_interval(0.95)
    se = (bounds.high - bounds.low) / 2 / scipy.stats.t.ppf(0.975, test.df)
    p = _minimal_p(value, se, float(test.df), m.metric.resolution)
    return Effect(
        value,
        float(bounds.low),
        float(bounds.high),
        p,
        n,
        n,
        "difference of means, not matched, Welch's t",
    )


def _t(difference: np.ndarray, n: int, m: Measure, estimator: str) -> Effect:
    value, matches = float(difference.mean()), len(difference)
    if not varies(difference):
        note = f"the same in all {matches} matches"
        return Effect(value, nan, nan, nan, n, matches, estimator, note)
    se = float(scipy.stats.sem(difference))
    low, high = scipy.stats.t.interval(0.95, matches - 1, value, se)
    p = _minimal_p(value, se, matches - 1, m.metric.resolution)
    return Effect(value, float(low), float(high), p, n, matches, estimator)


def _minimal_p(value: float, se: float, df: float, resolution: float) -> float:
    """Two-sided p of 'the effect is at most the resolution' (minimal-effect test)."""
    if not np.isfinite(se) or se <= 0:
        return nan
    beyond = (abs(value) - resolution) / se
    return float(min(1.0, 2 * scipy.stats.t.sf(beyond, df)))


def estimand_of(part: pd.DataFrame) -> Estimand:
    """Images that are each their own cluster are a sample; prompts with seeds are a suite."""
    alone = part["cluster"].nunique() == part["trajectory"].nunique()
    return "images like these" if alone else "this suite"
