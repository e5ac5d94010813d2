"""What paired columns say of 'worse than a margin': one-sided p and the most it can be.

Everything here takes arrays of any leading shape, so that a simulation of thousands of gates runs
the code of one. Two questions are asked of the same data, each with its own error. FAIL asks
whether the difference is larger than the margin (p), PASS whether it is smaller (`bound`).

A share that moves 'away from the target' has two parts: the difference d from the baseline, and
the candidate's own gap e from the target. The candidate is worse by more than a margin m exactly
where d and e lie beyond m on the same side: a move that crosses the target counts from the target,
one that starts beyond it counts from the baseline. The baseline's own gap, known only with an
error of its own, then does not enter, and no side has to be guessed.
"""

from __future__ import annotations

from math import nan
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from probes.statistics.intervals import FEWEST_PROMPTS, LEVEL, Estimand

Floats = NDArray[np.float64]
Bad = Literal["rise", "drop", "away from the target"]

ALPHA = 1 - LEVEL
TAIL = ALPHA / 2
EITHER_TAIL = 0.02
"""Of each of two bounds of which the smaller is taken: together at most 4 %, which leaves room for
what normal approximations of counts get wrong."""
INTRA_PROMPT = 0.1
"""Intra-prompt correlation that is supposed where no difference was seen, so that the data cannot
tell: cells of one prompt then count as S / (1 + 0.1 (S - 1)) independent ones."""


class Evidence(NamedTuple):
    """A difference over prompts and what is needed to hold it against a margin; arrays (...).

    Attributes:
        value: mean over prompts of candidate minus baseline.
        error: its standard error, 0 where nothing varies, NaN where none can be had.
        df: degrees of freedom of `error`; NaN where nothing varies.
        size: how many independent cells the data are worth at the least.
        jump: the size of a cell's difference where there is one, sum d² / sum |d|: 1 for outcomes
            of 0 and 1. Where no cell differs, the most by which one could.
        same: whether no cell differs at all.
        span: the most by which a cell can differ.
        share: the candidate's mean, where its gap from the target matters.
        share_error: its standard error.
        target: of that mean.
    """

    value: Floats
    error: Floats
    df: Floats
    size: Floats
    jump: Floats
    same: NDArray[np.bool_]
    span: float
    share: Floats | float = nan
    share_error: Floats | float = nan
    target: float = nan

    def error_at(self, margin: float) -> Floats:
        """Standard error of the difference, no smaller than it would be on the margin.

        A mean difference of m that is made of jumps of size j has at least the variance
        m (j - m) a cell. Where few cells differ the sample variance falls short of it, most of all
        where the difference comes out small, and a bound from it would pass too often (for shares
        this is the score interval's argument). NaN where there is no error at all to be had.
        """
        variance = np.maximum(margin * (self.jump - margin), 0)
        found: Floats = np.maximum(self.error, np.sqrt(variance / self.size))
        return np.where(found > 0, found, nan)

    def half(self, margin: float, tail: float = TAIL) -> Floats:
        """Half the width of the 95 % interval, or of one with another tail on either side.

        Where no cell differs it goes by their number: if more than 1 - 0.025^(1 / size) of all
        cells differed, at least one would have been seen in 97.5 % of cases.
        """
        unseen = self.span * (1 - tail ** (1 / self.size))
        seen = scipy.stats.t.isf(tail, self._df()) * self.error_at(margin)
        return np.where(self.same, unseen, seen)

    def bound(self, bad: Bad, margin: float) -> Floats:
        """The most by which the candidate can be worse: at most 5 % of such bounds are too low.

        'Away from the target' takes the smaller of two bounds on either side, on d and on e; by
        Bonferroni both hold together in 96 % (`EITHER_TAIL`).
        """
        half = self.half(margin, EITHER_TAIL if bad == "away from the target" else TAIL)
        if bad != "away from the target":
            return (self.value if bad == "rise" else -self.value) + half
        up, down = (self._gap_error(margin, side) for side in (1, -1))
        quantile, gap = scipy.stats.t.isf(EITHER_TAIL, self._df()), self.share - self.target
        above = np.fmin(self.value + half, gap + quantile * up)
        below = np.fmin(-self.value + half, -gap + quantile * down)
        found: Floats = np.where(np.isnan(half), nan, np.maximum(above, below))
        return found

    def p(self, bad: Bad, margin: float) -> Floats:
        """One-sided p of 'worse by at most the margin'; NaN where it cannot be told.

        For 'away from the target' the larger of the p of d and of e, both of 'at most the margin
        on either side' (Hodges and Lehmann 1954), and 1 where they lie on different sides.
        """
        error, df = self.error_at(margin), self._df()
        if bad != "away from the target":
            worse = self.value if bad == "rise" else -self.value
            one: Floats = scipy.stats.t.sf((worse - margin) / error, df)
            return one
        gap = self.share - self.target
        gap_error = self._gap_error(margin, np.where(gap >= 0, 1, -1))
        both = [
            scipy.stats.t.sf((np.abs(x) - margin) / s, df)
            + scipy.stats.t.sf((np.abs(x) + margin) / s, df)
            for x, s in ((self.value, error), (gap, gap_error))
        ]
        apart = np.where(self.value * gap > 0, np.maximum(*both), 1.0)
        found: Floats = np.where(np.isnan(error), nan, np.minimum(apart, 1.0))
        return found

    def _df(self) -> Floats:
        return np.where(np.isnan(self.df), np.maximum(self.size - 1, 1), self.df)

    def _gap_error(self, margin: float, side: ArrayLike) -> Floats:
        """Standard error of the candidate's mean if it lay on the margin (Wilson's way)."""
        there = np.clip(self.target + np.asarray(side) * margin, 1e-9, 1 - 1e-9)
        here = np.asarray(self.share, float) * (1 - np.asarray(self.share, float))
        with np.errstate(divide="ignore", invalid="ignore"):
            cells = np.where(
                (here > 1e-9) & (np.asarray(self.share_error) > 0),
                here / np.asarray(self.share_error) ** 2,
                self.size,
            )
        found: Floats = np.sqrt(there * (1 - there) / cells)
        return found


def evidence(
    baseline: Floats,
    candidate: Floats,
    estimand: Estimand,
    least: int = 2,
    span: float = nan,
    target: float = nan,
) -> Evidence:
    """What two paired columns say.

    Args:
        baseline: (..., P, S) values by prompt and seed; NaN where a cell is missing.
        candidate: (..., P, S), the same cells.
        estimand: Which question: 'this suite' or 'prompts like these'.
        least: Pairs that a prompt needs to be counted.
        span: The most by which one cell can differ; NaN: no limit.
        target: Of the mean, 0 to 1; NaN where only the difference matters.
    """
    d, both, n = paired(baseline, candidate, estimand, least)
    value, error, df = mean_error(*by_prompt(d, both, n), n, estimand)
    total, squared = np.abs(d).sum(axis=(-2, -1)), (d**2).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        jump = np.where(total > 0, squared / total, span)
    found = Evidence(value, error, df, size_of(n, estimand), jump, total == 0, span)
    if np.isnan(target):
        return found
    own = np.where(both, np.nan_to_num(candidate), 0.0)
    share, share_error, _ = mean_error(*by_prompt(own, both, n), n, estimand)
    return found._replace(share=share, share_error=share_error, target=target)


def paired(
    baseline: Floats, candidate: Floats, estimand: Estimand, least: int
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int_]]:
    """Differences (0 where there is no pair), where pairs are, and how many each prompt has.

    A prompt with fewer pairs than it needs has none; 'prompts like these' needs one.
    """
    both = ~np.isnan(baseline + candidate)
    n = both.sum(axis=-1)
    n = np.where(n >= (least if estimand == "this suite" else 1), n, 0)
    both &= n[..., None] > 0
    return np.where(both, np.nan_to_num(candidate - baseline), 0.0), both, n


def by_prompt(
    values: Floats, there: NDArray[np.bool_], n: NDArray[np.int_]
) -> tuple[Floats, Floats]:
    """Each prompt's mean and variance (n - 1) of the values that are there."""
    means = values.sum(axis=-1) / np.maximum(n, 1)
    off = np.where(there, values - means[..., None], 0)
    return means, (off**2).sum(axis=-1) / np.maximum(n - 1, 1)


def mean_error(means: Floats, variances: Floats, n: NDArray[np.int_], estimand: Estimand) -> Any:
    """The mean over prompts, its standard error and degrees of freedom, as in `intervals`.

    Args:
        means: (..., P) mean of each prompt.
        variances: (..., P) variance of its cells, with n - 1.
        n: (..., P) its cells; prompts with 0 are left out.
        estimand: 'this suite': the prompts' s²/n with Satterthwaite's degrees of freedom;
            'prompts like these': the variance of the prompts' means.

    Returns:
        value, error and df, each (...). Where nothing varies the error is 0 and df is NaN; without
        prompts, or with fewer than 20 for 'prompts like these', the error is NaN.
    """
    kept = n > 0
    prompts = kept.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(kept, means, 0).sum(axis=-1) / prompts
        if estimand == "this suite":
            part = np.where(kept, variances / n, 0)
            squared = part.sum(axis=-1)
            df = squared**2 / np.where(n > 1, part**2 / (n - 1), 0).sum(axis=-1)
            error = np.sqrt(squared) / prompts
        else:
            off = np.where(kept, means - value[..., None], 0)
            error = np.sqrt((off**2).sum(axis=-1) / (prompts - 1) / prompts)
            error = np.where(prompts >= FEWEST_PROMPTS, error, nan)
            df = prompts - 1.0
    varies = error > 1e-12
    df = np.where(varies, df, nan)
    return value, np.where(np.isnan(error), nan, np.where(varies, error, 0.0)), df


def size_of(n: NDArray[np.int_], estimand: Estimand) -> Floats:
    """How many independent cells the data are worth; NaN where they say nothing.

    'this suite' fixes the prompts, so every cell counts (as many as the prompt with the fewest has,
    times the prompts). For 'prompts like these' cells of one prompt are alike: `INTRA_PROMPT`.
    """
    prompts = (n > 0).sum(axis=-1)
    seeds = np.where(n > 0, n, np.iinfo(n.dtype).max).min(axis=-1)
    least = 1 if estimand == "this suite" else FEWEST_PROMPTS
    each = seeds / (1.0 if estimand == "this suite" else design_effect(seeds))
    return np.where(prompts >= least, prompts * each, nan)


def design_effect(seeds: Floats | float) -> Floats | float:
    """By how much cells of one prompt count for less than independent ones (Kish 1965)."""
    return 1 + INTRA_PROMPT * (seeds - 1)
