"""Intervals, distances from a target and their nulls, means over prompts, paired differences.

Two questions must not be mixed up, so every mean here is told which one it answers. 'this suite'
keeps the prompts fixed and lets the seeds vary: what would the same prompts give with new seeds?
'prompts like these' takes the prompts as a sample: what would other prompts of the kind give?
Numbers that the data cannot give are NaN ('cannot tell'); no interval here has zero width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isnan, nan
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from probes.statistics.total_variation import is_degenerate, null_distances, tail

Floats = NDArray[np.float64]
Estimand = Literal["this suite", "prompts like these", "images like these"]

LEVEL = 0.95
FEWEST_PROMPTS = 20
"""Fewer prompts than this say nothing about 'prompts like these'."""
FEWEST_CARRIERS = 5
"""Fewer prompts than this that carry a class leave its share for other prompts unsure."""
SAME = 1e-9
"""Distances closer than this are ties: they differ by rounding only."""


class Interval(NamedTuple):
    """A value with the bounds of its 95 % interval; NaN where not measured."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean with its 95 % interval and the two-sided p of 'it is zero'; NaN: cannot tell."""

    value: float
    low: float
    high: float
    p: float


class Null(NamedTuple):
    """What a model that meets the target scores at this n, and how far out the observed one is."""

    mean: float
    q95: float
    p: float


@lru_cache(maxsize=4096)
def share_interval(count: float, n: float) -> Interval:
    """The share of one class among n images, with its Wilson interval.

    Args:
        count: images of the class, 0 to n; may be fractional (an effective count).
        n: images counted. With n = 0 there is no share: all is NaN.
    """
    # Loaded where it counts: statsmodels brings all of scipy.stats, half of a command's start.
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= count <= n:
        raise ValueError(f"count {count!r} is not between 0 and n = {n!r}")
    if n == 0:
        return Interval(nan, nan, nan)
    value = count / n
    low, high = proportion_confint(count, n, alpha=1 - LEVEL, method="wilson")
    # At 0 and at n rounding can leave a bound 1e-19 on the wrong side of the value.
    return Interval(value, min(float(low), value), max(float(high), value))


def _as_shares(counts: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    """Both as shares over the declared classes, checked."""
    observed, wanted = np.asarray(counts, float), np.asarray(target, float)
    if observed.ndim != 1 or observed.shape != wanted.shape:
        raise ValueError(
            f"{observed.tolist()!r} and target {wanted.tolist()!r}: one number for each declared "
            "class is needed in both, 0 for a class that was not seen"
        )
    if not (wanted >= 0).all() or abs(wanted.sum() - 1) > SAME:
        raise ValueError(f"target {wanted.tolist()!r}: shares of 0 or more that sum to 1 needed")
    if not (observed >= 0).all():
        raise ValueError(f"{observed.tolist()!r}: counts must be 0 or more")
    if observed.sum() == 0:
        raise ValueError(
            f"{observed.tolist()!r}: nothing was counted, so there is no distance; "
            "say 'not measured' instead"
        )
    return observed / observed.sum(), wanted / wanted.sum()


def total_variation(shares: ArrayLike, target: ArrayLike) -> float:
    """Half the sum of |share - target| over the declared classes: 0 to 1.

    With two classes and an even target this is |share - 1/2|, 1/2 where all are of one class.

    Args:
        shares: (K,) counts or shares, one for each declared class; only their proportions matter.
        target: (K,) shares that sum to 1.

    Raises:
        ValueError: nothing counted, a class missing, or a target that is no distribution.
    """
    observed, wanted = _as_shares(shares, target)
    return float(np.abs(observed - wanted).sum() / 2)


def l2_distance(shares: ArrayLike, target: ArrayLike) -> float:
    """Euclidean distance of shares from target; arguments as in `total_variation`."""
    observed, wanted = _as_shares(shares, target)
    return float(np.linalg.norm(observed - wanted))


def kl_divergence(shares: ArrayLike, target: ArrayLike) -> float:
    """KL(shares || target) in nats; infinite where a class with target 0 was seen.

    Arguments as in `total_variation`.
    """
    observed, wanted = _as_shares(shares, target)
    return float(scipy.special.rel_entr(observed, wanted).sum())


def total_variation_null(counts: ArrayLike, target: ArrayLike) -> Null:
    """Total variation that a model which meets the target has at this n: mean, 95 % point, p.

    Exact for any number of classes (see `probes.statistics.total_variation.null_distances`), so p
    has no floor; at target (1/2, 1/2) it is that of `scipy.stats.binomtest`. Where the target
    leaves a class out, p is NaN: one misclassified image would be proof, whatever the model does.

    Args:
        counts: (K,) whole numbers, one for each declared class.
        target: (K,) shares that sum to 1.

    Raises:
        ValueError: as `total_variation`, and for counts that are not whole.
    """
    whole = np.asarray(counts, float)
    if (whole != whole.round()).any():
        raise ValueError(f"{whole.tolist()!r}: a null needs whole counts, not shares")
    observed = total_variation(whole, target)
    key, n = tuple(_as_shares(whole, target)[1].tolist()), int(whole.sum())
    distance, mass = null_distances(n, key)
    at = min(int(np.searchsorted(mass.cumsum(), LEVEL - 1e-12)), len(distance) - 1)
    p = nan if is_degenerate(key) else tail(n, key, observed)
    return Null(float(distance @ mass), float(distance[at]), p)


def _joined(
    by_prompt: Sequence[ArrayLike], estimand: Estimand
) -> tuple[Floats, NDArray[np.integer]]:
    """All prompts' cells one after another, and how many each has; checked."""
    if estimand not in ("this suite", "prompts like these"):
        raise ValueError(
            f"estimand {estimand!r} is neither 'this suite' nor 'prompts like these'; where each "
            "image is a sample of its own, it is its own prompt"
        )
    values = [np.asarray(v, float) for v in by_prompt]
    for i, v in enumerate(values):
        if v.ndim != 1 or v.size == 0 or np.isnan(v).any():
            raise ValueError(
                f"prompt {i}: {v.tolist()!r} is not a row of numbers; "
                "leave missing cells, and prompts without cells, out and report them"
            )
    return np.concatenate([np.empty(0), *values]), np.array([len(v) for v in values], int)


def varies(x: Floats) -> bool:
    """Whether x holds more than one number, rounding aside."""
    return bool(np.ptp(x) > 1e-12 * np.abs(x).max())


def mean_of_sorted(x: Floats, n: NDArray[np.integer], estimand: Estimand) -> Difference:
    """As `mean_over_prompts`, with p, of cells that stand prompt by prompt.

    Args:
        x: (N,) the cells of the first prompt, then those of the second, and so on; no NaN.
        n: (P,) how many cells each prompt has, at least 1.
        estimand: as in `mean_over_prompts`.
    """
    if not len(n):
        return Difference(nan, nan, nan, nan)
    starts = np.cumsum(n) - n
    means = np.add.reduceat(x, starts) / n
    mean = float(means.mean())
    cannot_tell = Difference(mean, nan, nan, nan)
    if estimand == "prompts like these":
        if len(means) < FEWEST_PROMPTS or not varies(means):
            return cannot_tell
        test = scipy.stats.ttest_1samp(means, 0)
        bounds = test.confidence_interval(LEVEL)
        return Difference(mean, float(bounds.low), float(bounds.high), float(test.pvalue))
    if n.min() < 2:
        return cannot_tell
    least, most = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    moves = most - least > 1e-12 * np.maximum(np.abs(least), np.abs(most))
    variance = np.add.reduceat((x - np.repeat(means, n)) ** 2, starts) / (n - 1)
    part = np.where(moves, variance / n, 0.0)
    if not part.any():
        return cannot_tell
    df = part.sum() ** 2 / (part**2 / (n - 1)).sum()
    se = np.sqrt(part.sum()) / len(n)
    low, high = scipy.stats.t.interval(LEVEL, df, loc=mean, scale=se)
    return Difference(
        mean, float(low), float(high), float(2 * scipy.stats.t.sf(abs(mean) / se, df))
    )


def mean_over_prompts(by_prompt: Sequence[ArrayLike], estimand: Estimand) -> Interval:
    """The mean over prompts, all of equal weight, of the means of their cells.

    'this suite': stratified by prompt, the variance is the sum of the prompts' s²/n over P², and
    t has Satterthwaite's degrees of freedom. 'prompts like these': `scipy.stats.ttest_1samp` on
    the prompts' means. For shares use `mean_share_over_prompts`, which is right near 0 and 1 too.

    Args:
        by_prompt: for each prompt its cells' values, any length of at least 1. None: all NaN.
        estimand: which of the two.

    Returns:
        Bounds are NaN where nothing varies, where a prompt has fewer than 2 cells ('this suite')
        and below 20 prompts ('prompts like these').

    Raises:
        ValueError: a prompt without cells, or a cell without a value.
    """
    return Interval(*mean_of_sorted(*_joined(by_prompt, estimand), estimand)[:3])


def carriers(shares: ArrayLike) -> float:
    """How many prompts a class, or what is not of it if that is rarer, effectively comes from.

    Kish's effective number, (sum of shares)² over the sum of their squares: as many prompts with
    equal shares would vary as much. All prompts where no share is above 0.

    Args:
        shares: (P,) share of the class in each prompt, 0 to 1.

    Examples:
        >>> carriers([0.3, 0.3, 0.0, 0.0])
        2.0
    """
    x = np.asarray(shares, float)
    rarer = x if x.mean() <= 0.5 else 1 - x
    squares = float((rarer**2).sum())
    return float(rarer.sum() ** 2 / squares) if squares > 0 else float(len(x))


def mean_share_over_prompts(counts: ArrayLike, totals: ArrayLike, estimand: Estimand) -> Interval:
    """The mean over prompts, all of equal weight, of the share of one class.

    Wilson's interval at the effective sample size of Korn and Graubard (1998): that many images of
    a simple sample would have the variance that `mean_over_prompts` finds. Unlike t it stays in
    [0, 1]. Where no prompt varies at all (nobody of the class anywhere) the effective size is the
    number of prompts, for 'this suite' times the fewest images of one. For 'prompts like these'
    t has the degrees of freedom of the prompts that carry the class (see `carriers`), at least 4.

    In simulations of 20 and 24 prompts that covers 0.91 to 0.98 where prompts differ smoothly
    (Beta(2, 2) to Beta(0.05, 0.95)). It does not where most of a class comes from prompts too
    rare to be among the sampled ones: 0.88 where every tenth prompt has 50 % and the others 2 %,
    0.64 where every twentieth has 90 % and the others 1 %. No interval from the sample can know.

    Args:
        counts: for each prompt its images of the class.
        totals: for each prompt its images, at least 1. No prompts: all is NaN.
        estimand: as in `mean_over_prompts`, with the same NaN bounds for too few cells or prompts.
    """
    k, n = np.asarray(counts, float), np.asarray(totals, float)
    if k.shape != n.shape or not ((k >= 0) & (k <= n) & (n > 0)).all():
        raise ValueError(
            f"counts {k.tolist()!r} of totals {n.tolist()!r}: for each prompt 0 <= count <= total "
            "is needed, and a total of 1 or more; leave prompts without images out and report them"
        )
    _joined([], estimand)
    if not k.size:
        return Interval(nan, nan, nan)
    shares = k / n
    value = float(shares.mean())
    if estimand == "prompts like these":
        enough, size = len(n) >= FEWEST_PROMPTS, float(len(n))
        df = min(max(carriers(shares) - 1, FEWEST_CARRIERS - 1.0), len(n) - 1.0)
        variance = float(shares.var(ddof=1)) / len(n) if len(n) > 1 and varies(shares) else 0.0
    else:
        enough, size, df = bool(n.min() >= 2), float(len(n) * n.min()), float((n - 1).sum())
        variance = float((shares * (1 - shares) / np.maximum(n - 1, 1)).sum()) / len(n) ** 2
    if not enough:
        return Interval(value, nan, nan)
    if variance > 0:
        tail = (1 + LEVEL) / 2
        size = (
            value
            * (1 - value)
            / variance
            * (scipy.stats.norm.ppf(tail) / scipy.stats.t.ppf(tail, df)) ** 2
        )
    low, high = share_interval(value * size, size)[1:]
    return Interval(value, min(low, value), max(high, value))


def paired_difference(
    a_by_prompt: Sequence[ArrayLike],
    b_by_prompt: Sequence[ArrayLike],
    estimand: Estimand,
    span: float = nan,
) -> Difference:
    """Mean over prompts of a - b, cell by cell: the same prompt and seed in both arms.

    As `mean_over_prompts` on the differences. Where every difference is exactly 0, the value is
    exactly 0 and p is 1: a statement about these cells. How far others may differ no variance can
    tell, but their number can: if more than 1 - .025^(1/N) of all cells differed, at least one of
    N would have shown it in 97.5 % of cases. A cell differs by at most `span`, so the mean lies
    within ± span times that share. N is the number of prompts, for 'this suite' times the fewest
    cells of one.

    Args:
        a_by_prompt: for each prompt its cells' values in arm a.
        b_by_prompt: the same cells, in the same order, in arm b.
        estimand: as in `mean_over_prompts`.
        span: the most by which one cell can differ: 1 for outcomes that are 0 or 1; NaN where
            there is no such limit, and then the bounds of an all-zero difference are NaN.

    Raises:
        ValueError: arms that do not hold the same cells, or as `mean_over_prompts`.
    """
    (a, n), (b, of_b) = _joined(a_by_prompt, estimand), _joined(b_by_prompt, estimand)
    if n.tolist() != of_b.tolist():
        raise ValueError(
            f"cells by prompt: {n.tolist()} in one arm, {of_b.tolist()} in the "
            "other; only cells that both arms have can be paired"
        )
    return paired_difference_of_sorted(a, b, n, estimand, span)


def within_span(found: Difference, span: float) -> Difference:
    """The difference with bounds no farther from 0 than one cell can differ; NaN: no limit."""
    low, high = max(found.low, -span), min(found.high, span)
    return found if isnan(span + found.low) else found._replace(low=low, high=high)


def paired_difference_of_sorted(
    a: Floats, b: Floats, n: NDArray[np.integer], estimand: Estimand, span: float = nan
) -> Difference:
    """As `paired_difference`, of cells that stand prompt by prompt, n of each; no NaN."""
    mean = mean_of_sorted(a - b, n, estimand)
    if not len(n) or (a != b).any():
        return within_span(mean, span)
    few = estimand == "prompts like these" and len(n) < FEWEST_PROMPTS
    cells = len(n) * (int(n.min()) if estimand == "this suite" else 1)
    most = nan if few else span * float(1 - ((1 - LEVEL) / 2) ** (1 / cells))
    return Difference(0.0, -most, most, 1.0)
