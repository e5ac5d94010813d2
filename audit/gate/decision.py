"""The gate's rules: from paired columns, one value a cell, to a verdict. Pure.

A metric is two arrays of values by prompt and seed: the same cells in the baseline and in the
candidate. t intervals on their differences need values that are additive over cells. A share is
the mean of zeros and ones. Squared distance from a target and diversity are means over pairs of
seeds instead (so that they are right on average at any n, where a plug-in distance is too large at
small n); `audit.gate.metrics.cell_values` shares such a mean out to its cells.

One rule for every metric. FAIL: worse than the margin, by a one-sided test of 'worse by at most
the margin', its p adjusted over all metrics and the guard of single prompts by Holm's method, at
5 %. PASS: the most by which it can be worse (`evidence.bound`) lies inside the margin; since all
metrics must pass, this needs no adjustment. Otherwise INCONCLUSIVE. ERROR: no pair of cells. Data
that cannot vary never passes.
"""

from __future__ import annotations

from math import isnan, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from audit.gate.evidence import ALPHA, Bad, Evidence, Floats, evidence, paired
from audit.gate.metric import Metric, Result, Word
from audit.gate.needs import needs, no_interval, nothing_seen, too_few_cells
from audit.gate.prompt_guard import p_of_prompts, unseen
from audit.gate.rates import DRAWS, Rates, false_fail_rates
from probes.statistics.intervals import Estimand

EXIT_CODES: dict[Word, int] = {"PASS": 0, "FAIL": 1, "ERROR": 2, "INCONCLUSIVE": 3}


class Guarded(NamedTuple):
    """The prompt that moved most, by the smallest p of all prompts and guarded metrics.

    Attributes:
        result: of this prompt; PASS or FAIL, never INCONCLUSIVE.
        metric: which of the metrics it moved on.
        prompt: its row.
        unseen: the largest move of a share of one prompt that the guard would miss in more than
            one of ten runs; NaN where no share is guarded.
        seeds: fewest pairs of a prompt, which `unseen` is for.
    """

    result: Result
    metric: int
    prompt: int
    unseen: float
    seeds: int


class Judged(NamedTuple):
    """All metrics under one estimand, and how often this very data would fail by chance."""

    verdict: Word
    estimand: Estimand
    results: list[Result]
    guard: Guarded | None
    rates: Rates


def judge(metrics: list[Metric], estimand: Estimand, common: float, draws: int = DRAWS) -> Judged:
    """The verdict on all metrics together.

    Args:
        metrics: At least one; the same prompts and seeds in all.
        estimand: Which question the intervals answer.
        common: The share of prompts that must be left, each with enough pairs, for a PASS.
        draws: Of the false-fail rates.
    """
    found = [evidence(m.baseline, m.candidate, estimand, m.least, m.span, m.aim) for m in metrics]
    own = [float(f.p(m.bad, m.margin)) for m, f in zip(metrics, found, strict=True)]
    guard = most_moved(metrics)
    adjusted = holm([*own, guard.result.p if guard else nan])
    family = int(np.isfinite(adjusted).sum())
    results = [
        _result(m, f, p, float(q), estimand, common, family)
        for m, f, p, q in zip(metrics, found, own, adjusted, strict=False)
    ]
    if guard:
        guard = _decided(guard, metrics, float(adjusted[-1]), family)
    words = [r.verdict for r in results] + ([guard.result.verdict] if guard else [])
    rates = false_fail_rates(metrics, estimand, draws)
    return Judged(overall(words), estimand, results, guard, rates)


def overall(verdicts: list[Word]) -> Word:
    """The worst of several verdicts: what was found to be worse stays found."""
    order: tuple[Word, ...] = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")
    return next((word for word in order if word in verdicts), "ERROR")


def holm(p: ArrayLike) -> Floats:
    """P values adjusted by Holm (1979): at most 5 % of gates fail any metric wrongly.

    NaN stays NaN and is no member of the family: a test that was not made.
    """
    # Not by statsmodels: see `probes.statistics.intervals.benjamini_hochberg`.
    adjusted = np.array(p, float)
    order = np.argsort(adjusted)[: int((~np.isnan(adjusted)).sum())]
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


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


def most_moved(metrics: list[Metric]) -> Guarded | None:
    """The prompt with the smallest p of 'no worse than its margin', over all guarded metrics.

    Its p is Bonferroni's over prompts and metrics; None where nothing can be tested.
    """
    tests: list[tuple[float, float, int, int]] = []
    for i, m in enumerate(metrics):
        if not m.guarded:
            continue
        both = ~np.isnan(m.baseline + m.candidate)
        p = p_of_prompts(m.baseline, m.candidate, m.bad, m.prompt_margin, m.targets(), m.counts)
        base, other = (_means(np.where(both, x, nan)) for x in (m.baseline, m.candidate))
        with np.errstate(divide="ignore", invalid="ignore"):  # a baseline without any diversity
            worse = worse_by(other - base, m.bad, base - m.targets()) / m.prompt_margin
        tests += [(float(p[k]), -float(worse[k]), i, k) for k in range(len(p)) if not isnan(p[k])]
    if not tests:
        return None
    # Where no p says anything after adjustment, the largest move in units of its margin.
    p_least, _, i, k = min((min(1.0, p * len(tests)), w, i, k) for p, w, i, k in tests)
    m = metrics[i]
    kept = ~np.isnan(m.baseline[k] + m.candidate[k])
    mine, theirs = (float(x[k][kept].mean()) for x in (m.baseline, m.candidate))
    target = float(m.targets()[k])
    result = Result(
        id=f"prompt/{m.id}",
        verdict="PASS",
        unit=m.unit,
        bad=m.bad,
        margin=m.prompt_margin,
        baseline=mine,
        candidate=theirs,
        value=theirs - mine,
        low=nan,
        high=nan,
        p=p_least,
        p_adjusted=nan,
        worse=float(worse_by(theirs - mine, m.bad, mine - target)),
        worse_high=nan,
        pairs=int(kept.sum()),
        prompts=1,
        needs="",
        note="",
        target=target,
    )
    return Guarded(result, i, k, nan, len(tests))


def _decided(guard: Guarded, metrics: list[Metric], p_adjusted: float, family: int) -> Guarded:
    """The guard's verdict, and what it could not have seen. `seeds` comes in as its tests."""
    shares = [m for m in metrics if m.guarded and m.bad == "away from the target"]
    alpha = ALPHA / family / guard.seeds
    seeds, missed = 0, nan
    pairs = [(~np.isnan(m.baseline + m.candidate)).sum(axis=1) for m in shares]
    counted = [n[n > 0] for n in pairs if (n > 0).any()]
    if counted:
        seeds = min(int(n.min()) for n in counted)
        missed = max(
            unseen(seeds, target, m.prompt_margin, alpha)
            for m in shares
            for target in sorted(set(m.targets().round(2).tolist()))
        )
    word: Word = "FAIL" if p_adjusted <= ALPHA else "PASS"
    result = guard.result._replace(verdict=word, p_adjusted=p_adjusted)
    return guard._replace(result=result, unseen=missed, seeds=seeds)


def worst_pairs(metric: Metric, most: int = 4, prompt: int | None = None) -> list[tuple[int, int]]:
    """(prompt, seed) positions of the cells that speak most for 'worse', worst first.

    Args:
        metric: Any metric.
        most: Pairs at most.
        prompt: Row whose pairs alone are meant.
    """
    delta = metric.candidate - metric.baseline
    if prompt is not None:
        delta = np.where(np.arange(len(delta))[:, None] == prompt, delta, nan)
    if metric.bad == "away from the target":
        known = np.isfinite(delta)
        gap = float(metric.baseline[known].mean()) if known.any() else 0.0
        aim = metric.target if prompt is None else float(metric.targets()[prompt])
        moved = float(np.nansum(delta))
        ends = gap - aim + moved / max(int(known.sum()), 1)
        towards = np.sign(ends) or np.sign(moved)
        delta = delta * towards
    elif metric.bad == "drop":
        delta = -delta
    flat = np.nan_to_num(delta, nan=-np.inf).ravel()
    order = np.argsort(-flat, kind="stable")[:most]
    width = delta.shape[1]
    return [(int(i) // width, int(i) % width) for i in order if flat[i] > 0]


def _result(
    metric: Metric,
    found: Evidence,
    p: float,
    p_adjusted: float,
    estimand: Estimand,
    common: float,
    family: int,
) -> Result:
    _, both, n = paired(metric.baseline, metric.candidate, estimand, metric.least)
    prompts, value = int((n > 0).sum()), float(found.value)
    base, other = (
        float(_means(np.where(both, x, nan))[n > 0].mean()) if prompts else nan
        for x in (metric.baseline, metric.candidate)
    )
    half = float(found.half(metric.margin))
    blank = Result(
        id=metric.id,
        verdict="INCONCLUSIVE",
        unit=metric.unit,
        bad=metric.bad,
        margin=metric.margin,
        baseline=base,
        candidate=other,
        value=value,
        low=max(value - half, -1.0) if metric.counts else value - half,
        high=min(value + half, 1.0) if metric.counts else value + half,
        p=p,
        p_adjusted=p_adjusted,
        worse=float(worse_by(value, metric.bad, base - metric.target)),
        worse_high=float(found.bound(metric.bad, metric.margin)),
        pairs=int(n.sum()),
        prompts=prompts,
        needs="",
        note="",
        target=metric.target,
    )
    any_pair = bool((~np.isnan(metric.baseline + metric.candidate)).any())
    if not any_pair and not too_few_cells(metric):
        return blank._replace(verdict="ERROR", note="no cell was measured in both arms")
    if p_adjusted <= ALPHA:
        return blank._replace(verdict="FAIL")
    if not metric.varies:
        return blank._replace(
            note="nothing varies: every image of both arms got the same value, so the "
            "instrument cannot tell them apart"
        )
    if isnan(blank.worse_high):
        if prompts and value and not found.error:
            return blank._replace(
                note="every cell differs by the same amount: no variance to go by"
            )
        wanted, note = no_interval(metric, estimand, prompts)
        return blank._replace(needs=wanted, note=note)
    left_out = 1 - prompts / len(metric.baseline)
    if left_out > 1 - common:
        return blank._replace(note=f"{left_out:.0%} of the prompts have too few pairs with a value")
    note = nothing_seen(found, n, estimand) if found.same else ""
    if blank.worse_high < metric.margin:
        return blank._replace(verdict="PASS", note=note)
    return blank._replace(note=note, needs=needs(blank, found, estimand, family))


def _means(values: Floats) -> Floats:
    """(P,) means of what is there; NaN for a prompt without anything."""
    there = ~np.isnan(values)
    n = there.sum(axis=-1)
    return np.where(n > 0, np.where(there, values, 0).sum(axis=-1) / np.maximum(n, 1), nan)
