"""The gate's rules: from paired columns, one value a cell, to a verdict. Pure.

A metric is two arrays of values by prompt and seed: the same cells in the baseline and in the
candidate. Their differences go to `audit.stats.paired_difference`, whose t intervals need values
that are additive over cells. A share is the mean of zeros and ones. Squared distance from a
target and diversity are means over pairs of seeds instead (so that they are right on average at
any n, where a plug-in distance is too large at small n); `audit.gate.pairs.cell_values` shares
such a mean out to its cells.

One rule for every metric. FAIL: the p adjusted over the family is at most .05 and the estimate
lies beyond the margin on the bad side. PASS: the bad side's bound of the interval lies inside the
margin. Otherwise INCONCLUSIVE. ERROR: no pair of cells. Data that cannot vary never passes.
"""

from __future__ import annotations

from math import ceil, isnan, nan
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from audit.stats import (
    FEWEST_PROMPTS,
    LEVEL,
    Difference,
    Estimand,
    benjamini_hochberg,
    mean_over_prompts,
    paired_difference,
)

Floats = NDArray[np.float64]
Word = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR"]
Bad = Literal["rise", "drop", "away from the target"]

EXIT_CODES: dict[Word, int] = {"PASS": 0, "FAIL": 1, "ERROR": 2, "INCONCLUSIVE": 3}
ALPHA = 1 - LEVEL
DRAWS = 2000
MOST = 100_000
"""A number of seeds or prompts above this is not worth naming."""


class Metric(NamedTuple):
    """One thing that may get worse, by prompt (rows) and seed (columns).

    Attributes:
        id: kind/instrument, or kind/instrument/class.
        baseline: (P, S), NaN where a cell is missing in either arm.
        candidate: (P, S), NaN in the same places.
        bad: which way is worse.
        margin: how much worse is accepted, in `unit`; more than 0.
        target: of the mean, where bad is 'away from the target'.
        span: the most by which one cell can move the mean of as many cells as there are,
            times that number; see `paired_difference`.
        least: pairs that a prompt needs to be counted.
        varies: False where the instrument says the same of every picture of both arms.
        unit: of the values.
    """

    id: str
    baseline: Floats
    candidate: Floats
    bad: Bad
    margin: float
    target: float = 0.0
    span: float = nan
    least: int = 2
    varies: bool = True
    unit: str = ""


class Result(NamedTuple):
    """What one metric says. Differences are candidate minus baseline, with 95 % intervals.

    `worse` and `worse_high` are the difference and its bound on the bad side, with the sign
    turned so that more is worse: what the margin is held against.
    """

    id: str
    verdict: Word
    unit: str
    bad: Bad
    margin: float
    baseline: float
    candidate: float
    value: float
    low: float
    high: float
    p: float
    p_adjusted: float
    worse: float
    worse_high: float
    pairs: int
    prompts: int
    needs: str
    note: str
    target: float
    """What 'away from the target' is away from."""


class Judged(NamedTuple):
    """All metrics under one estimand, and how often this very data would fail by chance."""

    verdict: Word
    estimand: Estimand
    results: list[Result]
    false_fail_rate: float


def judge(metrics: list[Metric], estimand: Estimand, common: float, draws: int = DRAWS) -> Judged:
    """The verdict on all metrics together.

    Args:
        metrics: At least one; the same prompts and seeds in all.
        estimand: Which question the intervals answer.
        common: The share of prompts that must be left, each with enough pairs, for a PASS.
        draws: Of the false-fail rate.
    """
    found = [estimate(m, estimand) for m in metrics]
    adjusted = benjamini_hochberg([f.p for f in found])
    results = [
        _result(m, f, float(p), estimand, common, len(metrics))
        for m, f, p in zip(metrics, found, adjusted, strict=True)
    ]
    rate = false_fail_rate(metrics, estimand, draws)
    return Judged(overall([r.verdict for r in results]), estimand, results, rate)


def overall(verdicts: list[Word]) -> Word:
    """The worst of several verdicts: what was found to be worse stays found."""
    order: tuple[Word, ...] = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")
    return next((word for word in order if word in verdicts), "ERROR")


def pairs_by_prompt(metric: Metric, estimand: Estimand) -> tuple[list[Floats], list[Floats]]:
    """Baseline and candidate values of each prompt with enough pairs."""
    least = metric.least if estimand == "this suite" else 1
    kept = [~np.isnan(b) & ~np.isnan(c) for b, c in zip(metric[1], metric[2], strict=True)]
    rows = [i for i, k in enumerate(kept) if k.sum() >= least]
    return (
        [metric.baseline[i][kept[i]] for i in rows],
        [metric.candidate[i][kept[i]] for i in rows],
    )


def estimate(metric: Metric, estimand: Estimand) -> Difference:
    """Candidate minus baseline, by `paired_difference`.

    Where every cell differs by one and the same amount, no variance can be had; then the bounds
    are those of an all-zero difference, moved by the amount, and p is that of a sign test.
    """
    b, c = pairs_by_prompt(metric, estimand)
    found = paired_difference(c, b, estimand, metric.span)
    if not b or not isnan(found.p):
        return found
    if not _constant(b, c):
        return found
    around = paired_difference(b, b, estimand, metric.span)
    if isnan(around.low):
        return found
    units = len(b) * (min(map(len, b)) if estimand == "this suite" else 1)
    value = found.value
    return Difference(value, value + around.low, value + around.high, 2.0 ** (1 - units))


def worse_by(delta: ArrayLike, bad: Bad, gap: ArrayLike) -> Floats:
    """How much worse a difference is: its size on the bad side, negative where it is better.

    Args:
        delta: Candidate minus baseline.
        bad: Which way is worse.
        gap: Baseline minus target, read for 'away from the target' alone. There a move towards
            the target is an improvement, and a lean to its other side counts whole: it is new.
    """
    moved, from_target = np.asarray(delta, float), np.asarray(gap, float)
    if bad == "away from the target":
        ends = from_target + moved
        same_side = ends * from_target > 0
        farther: Floats = np.abs(ends) - np.where(same_side, np.abs(from_target), 0)
        return farther
    return moved if bad == "rise" else -moved


def is_worse(delta: ArrayLike, p_adjusted: ArrayLike, metric: Metric, gap: ArrayLike) -> Any:
    """The rule of FAIL, for one difference or an array of them."""
    beyond = worse_by(delta, metric.bad, gap) > metric.margin
    return (np.nan_to_num(np.asarray(p_adjusted, float), nan=1.0) <= ALPHA) & beyond


def t_intervals(means: Floats, variances: Floats, n: NDArray[np.int_], estimand: Estimand) -> Any:
    """`mean_over_prompts` and its p for many data sets at once; a test holds the two together.

    Args:
        means: (..., P) mean difference of each prompt.
        variances: (..., P) variance of the differences, with n - 1.
        n: (..., P) pairs; prompts with 0 are left out.
        estimand: Which of the two.

    Returns:
        value, half width and p, each (...); NaN where nothing varies or prompts are too few.
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
            df = np.where(prompts >= FEWEST_PROMPTS, prompts - 1.0, nan)
            error = np.sqrt((off**2).sum(axis=-1) / (prompts - 1) / prompts)
        error = np.where(error > 1e-12, error, nan)
        half = stats.t.ppf((1 + LEVEL) / 2, df) * error
        p = 2 * stats.t.sf(np.abs(value) / error, df)
    return value, half, p


def false_fail_rate(
    metrics: list[Metric], estimand: Estimand, draws: int = DRAWS, seed: int = 0
) -> float:
    """How often the rule of FAIL fires when the two arms are swapped at random in this data.

    Swapping changes the signs of paired differences, of all metrics together. What is swapped is
    what the estimand takes as independent: whole prompts for 'prompts like these', cells for
    'this suite' (there, whole prompts would turn a true shift of a prompt into noise that no
    seed has).

    Returns:
        Share of draws with any FAIL, 0 to 1; NaN where no metric has an interval.
    """
    rng = np.random.default_rng(seed)
    usable = [m for m in metrics if not isnan(estimate(m, estimand).p)]
    if not usable:
        return nan
    least = np.array([m.least if estimand == "this suite" else 1 for m in usable])
    d = np.stack([m.candidate - m.baseline for m in usable])  # (M, P, S)
    n = (~np.isnan(d)).sum(axis=-1)
    n = np.where(n >= least[:, None], n, 0)
    d = np.nan_to_num(d)
    some = np.maximum(n, 1)
    means = np.empty((draws, *n.shape))
    for prompt in range(d.shape[1]):
        width = d.shape[2] if estimand == "this suite" else 1
        signs = rng.integers(0, 2, (draws, width)) * 2.0 - 1
        part = d[:, prompt] if width > 1 else d[:, prompt].sum(axis=-1, keepdims=True)
        means[:, :, prompt] = signs @ part.T / some[:, prompt]
    squares = (d**2).sum(axis=-1) / some
    variances = np.maximum(squares - means**2, 0) * some / np.maximum(n - 1, 1)
    value, _, p = t_intervals(means, variances, n, estimand)
    adjusted = stats.false_discovery_control(np.nan_to_num(p, nan=1.0), axis=-1)
    failed = np.zeros(draws, bool)
    for i, metric in enumerate(usable):
        b, c = pairs_by_prompt(metric, estimand)
        middle = _mean(b) / 2 + _mean(c) / 2 - metric.target
        failed |= is_worse(value[:, i], adjusted[:, i], metric, middle - value[:, i] / 2)
    return float(failed.mean())


def worst_pairs(metric: Metric, most: int = 4) -> list[tuple[int, int]]:
    """(prompt, seed) positions of the cells that speak most for 'worse', worst first."""
    delta = metric.candidate - metric.baseline
    if metric.bad == "away from the target":
        gap = np.nanmean(metric.baseline) if np.isfinite(delta).any() else 0.0
        towards = np.sign(gap - metric.target) or np.sign(np.nansum(delta))
        delta = delta * towards
    elif metric.bad == "drop":
        delta = -delta
    flat = np.nan_to_num(delta, nan=-np.inf).ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    width = delta.shape[1]
    return [(int(i) // width, int(i) % width) for i in order if flat[i] > 0]


def _mean(by_prompt: list[Floats]) -> float:
    return mean_over_prompts(by_prompt, "this suite").value


def _result(
    metric: Metric,
    found: Difference,
    p_adjusted: float,
    estimand: Estimand,
    common: float,
    family: int,
) -> Result:
    b, c = pairs_by_prompt(metric, estimand)
    base = _mean(b)
    gap = base - metric.target
    worse = float(worse_by(found.value, metric.bad, gap))
    worse_high = float(worse_by([found.low, found.high], metric.bad, gap).max())
    blank = Result(
        metric.id,
        "INCONCLUSIVE",
        metric.unit,
        metric.bad,
        metric.margin,
        base,
        _mean(c),
        *found,
        p_adjusted,
        worse,
        worse_high,
        sum(map(len, b)),
        len(b),
        "",
        "",
        metric.target,
    )
    any_pair = bool((~np.isnan(metric.baseline + metric.candidate)).any())
    if not any_pair and not _too_few_cells(metric):
        return blank._replace(verdict="ERROR", note="no cell was measured in both arms")
    if is_worse(found.value, p_adjusted, metric, gap):
        return blank._replace(verdict="FAIL")
    if not metric.varies:
        return blank._replace(
            note="nothing varies: every picture of both arms got the same value, so the "
            "instrument cannot tell them apart"
        )
    if isnan(worse_high):
        needs, note = _no_interval(metric, estimand, len(b))
        return blank._replace(needs=needs, note=note)
    if found.value and _constant(b, c):
        return blank._replace(note="every cell differs by the same amount: no variance to go by")
    left_out = 1 - len(b) / len(metric.baseline)
    if left_out > 1 - common:
        return blank._replace(note=f"{left_out:.0%} of the prompts have too few pairs with a value")
    if worse_high < metric.margin:
        return blank._replace(verdict="PASS")
    return blank._replace(needs=_needs(blank, estimand, family))


def _constant(b: list[Floats], c: list[Floats]) -> bool:
    return bool(np.ptp(np.concatenate([y - x for x, y in zip(b, c, strict=True)])) < 1e-12)


def _too_few_cells(metric: Metric) -> bool:
    return metric.baseline.shape[1] < metric.least


def _no_interval(metric: Metric, estimand: Estimand, prompts: int) -> tuple[str, str]:
    if estimand == "prompts like these" and prompts < FEWEST_PROMPTS:
        return f"at least {FEWEST_PROMPTS} prompts", f"{prompts} prompts say nothing about others"
    if _too_few_cells(metric) or not prompts:
        wanted = f"at least {metric.least} seeds a prompt with a value"
        return wanted, "too few seeds for an interval"
    return "", "nothing varies, so there is no interval"


def _needs(result: Result, estimand: Estimand, family: int) -> str:
    """The n at which this estimate would be decided, by the width's 1 / sqrt(n)."""
    room = result.margin - result.worse
    if room > 0:
        factor = ((result.worse_high - result.worse) / room) ** 2
    else:  # beyond the margin, not yet told from 0 in this family
        normal = stats.norm.ppf([1 - ALPHA / 2 / family, 1 - ALPHA / 2])
        wanted = (result.high - result.low) / 2 * normal[0] / normal[1]
        factor = (wanted / abs(result.value)) ** 2 if result.value else np.inf
    per_prompt = estimand == "this suite"
    now = result.pairs / result.prompts if per_prompt else result.prompts
    unit = "seeds a prompt" if per_prompt else "prompts"
    if now * factor > MOST:
        return f"more than {MOST:,} {unit}: the estimate lies on the margin"
    return f"about {max(ceil(now * factor), ceil(now) + 1):,} {unit}"
