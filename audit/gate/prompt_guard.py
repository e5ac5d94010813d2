"""The guard on single prompts: one that gets much worse is seen, though the mean stays.

A share over 24 prompts barely moves where one prompt goes from half to all. So every prompt is
held against a margin of its own (`gate.margins.prompt`), by exact tests, and the smallest p, times
the number of tests, is one more test of the gate's family. The guard can FAIL; it never makes a
run INCONCLUSIVE, since the few seeds of one prompt seldom exclude a large move. What it could not
have seen is computed by `unseen` and printed with every PASS.
"""

from __future__ import annotations

from functools import lru_cache
from math import nan

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from audit.gate.evidence import Bad, by_prompt

Floats = NDArray[np.float64]
TABLE_UP_TO = 100
"""Seeds of a prompt up to which p is looked up in a table of all results."""
NEAR = 0.01
"""With more seeds, a p of the score statistic below this is replaced by the exact one: so far out
the normal approximation can be wrong by a factor of five."""
NUISANCE = 48
"""Values of the unknown share of cells that get better, over which p is maximal."""
DETECTED = 0.9
"""Chance with which a move must be found to count as one that would have been seen."""


def p_of_prompts(
    baseline: Floats,
    candidate: Floats,
    bad: Bad,
    margin: float,
    targets: ArrayLike | None = None,
    counts: bool = True,
) -> Floats:
    """For each prompt p of 'worse by at most the margin'.

    Args:
        baseline: (..., P, S) values by prompt and seed; NaN where a cell is missing.
        candidate: (..., P, S), the same cells.
        bad: Which way is worse.
        margin: How much worse one prompt may get, in the values' unit.
        targets: (P,) of the prompts' shares, where bad is 'away from the target'.
        counts: Whether the values are zeros and ones; others get a t test, see `p_of_means`.

    Returns:
        (..., P); NaN where a prompt has too few pairs.
    """
    both = ~np.isnan(baseline + candidate)
    d = np.where(both, np.nan_to_num(candidate - baseline), 0.0)
    n = both.sum(axis=-1)
    if not counts:
        means, variances = by_prompt(d, both, n)
        return p_of_means(means if bad == "rise" else -means, variances, n, margin)
    shown = np.where(both, np.nan_to_num(candidate), 0.0).sum(axis=-1)
    return p_of_counts(
        (d > 0.5).sum(axis=-1), (d < -0.5).sum(axis=-1), shown, n, bad, margin, targets
    )


def p_of_counts(
    rose: ArrayLike,
    fell: ArrayLike,
    shown: ArrayLike,
    n: ArrayLike,
    bad: Bad,
    margin: float,
    targets: ArrayLike | None = None,
) -> Floats:
    """As `p_of_prompts`, of counts (..., P): cells that rose, that fell, the candidate's, pairs.

    A share that moves away from its target has moved too far where both the difference and the
    candidate's own gap from the target lie beyond the margin on one side: the larger p of the two,
    doubled for the two sides.
    """
    if bad == "rise":
        return p_of_rise(rose, fell, n, margin)
    if bad == "drop":
        return p_of_rise(fell, rose, n, margin)
    size, own = np.asarray(n, int), np.asarray(shown).round().astype(int)
    wanted = np.broadcast_to(np.asarray(targets, float), size.shape)
    above, below = wanted + margin, wanted - margin
    up = np.maximum(
        p_of_rise(rose, fell, size, margin), scipy.stats.binom.sf(own - 1, size, _share(above))
    )
    down = np.maximum(
        p_of_rise(fell, rose, size, margin), scipy.stats.binom.cdf(own, size, _share(below))
    )
    sides = np.minimum(np.where(above < 1, up, 1.0), np.where(below > 0, down, 1.0))
    found: Floats = np.where(size > 0, np.minimum(2 * sides, 1.0), nan)
    return found


def p_of_means(worse: Floats, variances: Floats, n: ArrayLike, margin: float) -> Floats:
    """As `p_of_prompts`, of means (..., P) where more is worse: one-sided t tests.

    No p is smaller than a sign test's smallest, 2^-n: so few seeds do not say more.
    """
    size = np.asarray(n, int)
    error = np.sqrt(variances / np.maximum(size, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = scipy.stats.t.sf((worse - margin) / error, np.maximum(size - 1, 1))
    p = np.where(error > 0, p, np.where(worse > margin, 0.0, 1.0))
    found: Floats = np.where(size >= 2, np.maximum(p, 2.0**-size), nan)
    return found


def p_of_rise(rose: ArrayLike, fell: ArrayLike, n: ArrayLike, margin: float) -> Floats:
    """P of 'the share rose by at most the margin', of paired zeros and ones.

    Exact and unconditional, in the manner of Barnard (1947): the largest probability, over all
    shares of cells that fall, of a result at least as extreme by Tango's (1998) score statistic.

    Args:
        rose: Cells that went from 0 to 1; whole numbers of any shape.
        fell: Cells that went from 1 to 0.
        n: Pairs; with 0, p is NaN.
        margin: More than 0, less than 1.
    """
    a, c, size = np.broadcast_arrays(*(np.asarray(x, int) for x in (rose, fell, n)))
    found = np.full(a.shape, nan)
    for one in np.unique(size):
        here = size == one
        if one > TABLE_UP_TO:
            found[here] = _of_many(a[here], c[here], int(one), margin)
        elif one > 0:
            found[here] = _exact(int(one), margin)[a[here], c[here]]
    return found


def _of_many(rose: NDArray[np.int_], fell: NDArray[np.int_], n: int, margin: float) -> Floats:
    """P of results with more pairs than a table is made for."""
    p: Floats = scipy.stats.norm.sf(score(rose, fell, n, margin))
    for a, c in np.unique(np.stack([rose, fell], axis=-1)[p < NEAR], axis=0):
        p[(rose == a) & (fell == c)] = _exact_one(int(a), int(c), n, margin)
    return p


@lru_cache(maxsize=4096)
def _exact_one(rose: int, fell: int, n: int, margin: float) -> float:
    """As `_exact`, of one result: for each number of rises the most falls that are as extreme."""
    limit = float(score(rose, fell, n, margin)) - 1e-9
    a = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - a  # extreme at `low`, or -1; bisected, since falls lower it
    while (low < high).any():
        middle = (low + high + 1) // 2
        extreme = score(a, np.maximum(middle, 0), n, margin) >= limit
        low, high = np.where(extreme, middle, low), np.where(extreme, high, middle - 1)
    falls = np.linspace(0, (1 - margin) / 2, NUISANCE)[:, None]
    rises = margin + falls
    tails = scipy.stats.binom.cdf(low, n - a, np.minimum(falls / (1 - rises), 1.0))
    return float(min((scipy.stats.binom.pmf(a, n, rises) * tails).sum(axis=1).max(), 1.0))


def score(rose: ArrayLike, fell: ArrayLike, n: int, margin: float) -> Floats:
    """Tango's (1998) score statistic of 'the paired difference of shares is the margin'."""
    a, c = np.asarray(rose, float), np.asarray(fell, float)
    # Share of cells that fall, most likely among those where the difference is the margin.
    b = -a - c + (2 * n - a + c) * margin
    root = np.sqrt(np.maximum(b**2 - 8 * n * (-c * margin * (1 - margin)), 0))
    falling = (root - b) / (4 * n)
    variance = n * (2 * falling + margin * (1 - margin))
    found: Floats = (a - c - n * margin) / np.sqrt(np.maximum(variance, 1e-12))
    return found


def unseen(n: int, target: float, margin: float, alpha: float) -> float:
    """The largest move of one prompt that the guard misses in more than one of ten runs.

    Of a prompt that starts on its target, moves away on the side with more room, and whose seeds
    gain nothing from pairing.

    Args:
        n: Pairs of the prompt.
        target: Of its share.
        margin: Of the guard.
        alpha: The p below which the guard fails, before adjustment.

    Returns:
        A change of a share, to 0.01.
    """
    start = min(target, 1 - target)
    moves = np.arange(1, round((1 - start) * 100) + 1) / 100
    end = np.minimum(start + moves, 1.0)
    half = alpha / 2
    limit = _share(np.array(start + margin))
    fewest = scipy.stats.binom.isf(half, n, limit) + 1
    missed = scipy.stats.binom.cdf(fewest - 1, n, end)
    rise, fall = end * (1 - start), start * (1 - end)
    if n <= TABLE_UP_TO:
        a, c = np.nonzero(_exact(n, margin) <= half)
        mass = _trinomial(n, a[:, None], c[:, None], rise, fall)
        missed = missed + 1 - mass.sum(axis=0)
    else:
        spread = np.sqrt(np.maximum(rise + fall - moves**2, 1e-12) / n)
        null = (moves - margin) / np.where(moves == margin, 1, score(rise * n, fall * n, n, margin))
        needed = margin + scipy.stats.norm.isf(half) * np.abs(null)
        missed = missed + scipy.stats.norm.cdf((needed - moves) / spread)
    lost = np.flatnonzero(missed > 1 - DETECTED)
    return float(moves[lost[-1]]) if len(lost) else 0.0


@lru_cache(maxsize=256)
def _exact(n: int, margin: float) -> Floats:
    """(n + 1, n + 1) p by how many cells rose and fell; NaN where they are more than n."""
    a, c = np.nonzero(np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n)
    extreme = score(a, c, n, margin).round(9)
    order = np.argsort(-extreme, kind="stable")
    # The last of every run of ties: p counts all results as extreme as this one.
    last = np.searchsorted(-extreme[order], -extreme, side="right") - 1
    largest = np.zeros(len(a))
    for fall in np.linspace(0, (1 - margin) / 2, NUISANCE):
        mass = _trinomial(n, a[order], c[order], np.array(margin + fall), np.array(fall))
        np.maximum(largest, np.cumsum(mass)[last], out=largest)
    table = np.full((n + 1, n + 1), nan)
    table[a, c] = np.minimum(largest, 1.0)
    return table


def _trinomial(n: int, a: ArrayLike, c: ArrayLike, rise: Floats, fall: Floats) -> Floats:
    """Probability of a rises and c falls among n."""
    falls = np.divide(fall, 1 - rise, out=np.zeros(np.shape(rise)), where=np.asarray(rise) < 1)
    found: Floats = scipy.stats.binom.pmf(a, n, rise) * scipy.stats.binom.pmf(
        c, n - np.asarray(a), np.minimum(falls, 1.0)
    )
    return found


def _share(share: Floats) -> Floats:
    return np.clip(share, 0.0, 1.0)
