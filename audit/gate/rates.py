"""How often the gate's rule of FAIL would fire by chance on this very data.

Two rates. 'A/A': the arms are swapped at random, so that nothing is worse. 'At the margin': the
same, with every metric shifted onto its margin, where FAIL is still wrong; by the construction of
the tests it should lie at or below 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audit.gate.evidence import Evidence, Floats, evidence, mean_error, paired
from audit.gate.prompt_guard import p_of_counts, p_of_means
from probes.statistics.intervals import LEVEL, Estimand

if TYPE_CHECKING:
    from audit.gate.metric import Metric

DRAWS = 2000


class Rates(NamedTuple):
    """Shares of draws with any FAIL, 0 to 1; NaN where no metric has an interval."""

    same: float
    """With the arms swapped at random: A/A."""
    at_margin: float
    """With the arms swapped at random, then every metric shifted onto its margin."""


def false_fail_rates(
    metrics: list[Metric], estimand: Estimand, draws: int = DRAWS, seed: int = 0
) -> Rates:
    """How often a gate of these metrics fails when its arms are swapped at random in this data.

    Swapping changes the signs of paired differences, of all metrics together. What is swapped is
    what the estimand takes as independent: whole prompts for 'prompts like these', cells for
    'this suite' (there, whole prompts would turn a true shift of a prompt into noise that no
    seed has). The guard of single prompts takes part in the A/A rate; a prompt's own margin lies
    elsewhere than the mean's, so the rate at the margin is that of the other metrics.
    """
    found = [evidence(*m[1:3], estimand, m.least, m.span, m.aim) for m in metrics]
    kept = [(m, e) for m, e in zip(metrics, found, strict=True) if not isnan(_error(m, e))]
    guards = [m for m in metrics if m.guarded]
    if not kept:
        return Rates(nan, nan)
    swapped = _Swapped([m for m, _ in kept], estimand, draws, seed)
    family = len(kept) + bool(guards)
    level = (1 - LEVEL) / family
    same, moved = np.zeros(draws, bool), np.zeros(draws, bool)
    for i, (metric, own) in enumerate(kept):
        drawn = swapped.evidence(i, own)
        same |= drawn.p(metric.bad, metric.margin) <= level
        moved |= _shifted(drawn, metric).p(metric.bad, metric.margin) <= level
    tests = sum(len(m.baseline) for m in guards)
    for metric in guards:
        p = _guard(metric, estimand, draws, seed)
        same |= (np.nan_to_num(p, nan=1.0) * tests <= level).any(axis=-1)
    return Rates(float(same.mean()), float(moved.mean()))


class _Swapped:
    """Prompts' means and variances of several metrics, with the signs of differences drawn."""

    def __init__(self, metrics: list[Metric], estimand: Estimand, draws: int, seed: int) -> None:
        made = [paired(*m[1:3], estimand, m.least) for m in metrics]
        d, self.n = np.stack([x[0] for x in made]), np.stack([x[2] for x in made])  # (M, P, S)
        some = np.maximum(self.n, 1)
        means = np.empty((draws, *self.n.shape))
        for prompt, signs in enumerate(_signs(d.shape[1:], estimand, draws, seed)):
            part = d[:, prompt]
            if signs.shape[1] == 1:
                part = part.sum(axis=-1, keepdims=True)
            means[:, :, prompt] = signs @ part.T / some[:, prompt]
        squares = (d**2).sum(axis=-1) / some
        variances = np.maximum(squares - means**2, 0) * some / np.maximum(self.n - 1, 1)
        self.value, self.error, self.df = mean_error(means, variances, self.n, estimand)

    def evidence(self, at: int, own: Evidence) -> Evidence:
        """Of one metric, from its own evidence; what swapping does not change stays."""
        value = self.value[:, at]
        middle = own.share - own.value / 2  # of both arms' means; their swapped ones lie around it
        return own._replace(
            value=value, error=self.error[:, at], df=self.df[:, at], share=middle + value / 2
        )


def _shifted(drawn: Evidence, metric: Metric) -> Evidence:
    """Moved until the truth, from which the signs were drawn, lies on the margin."""
    if metric.bad == "drop":
        return drawn._replace(value=drawn.value - metric.margin)
    by = metric.margin
    if metric.bad == "away from the target":
        middle = float(np.mean(drawn.share - drawn.value / 2))
        by *= 1 if middle >= metric.target else -1
    return drawn._replace(value=drawn.value + by, share=drawn.share + by)


def _guard(metric: Metric, estimand: Estimand, draws: int, seed: int) -> Floats:
    """(draws, P) p of the guard, with the signs of this metric's differences drawn."""
    both = ~np.isnan(metric.baseline + metric.candidate)
    d = np.where(both, np.nan_to_num(metric.candidate - metric.baseline), 0.0)
    n = np.broadcast_to(both.sum(axis=-1), (draws, len(d)))
    some = np.maximum(n[0], 1)
    totals = np.empty(n.shape)
    for prompt, signs in enumerate(_signs(d.shape, estimand, draws, seed)):
        one = d[prompt] if signs.shape[1] > 1 else d[prompt].sum(keepdims=True)
        totals[:, prompt] = signs @ one
    if not metric.counts:
        variances = np.maximum((d**2).sum(axis=-1) - totals**2 / some, 0) / np.maximum(some - 1, 1)
        worse = totals / some if metric.bad == "rise" else -totals / some
        return p_of_means(worse, variances, n, metric.prompt_margin)
    moved, held = np.abs(d).sum(axis=-1), (both & (metric.baseline + metric.candidate == 2)).sum(-1)
    rose = ((moved + totals) / 2).round().astype(int)
    fell = (moved - rose).round().astype(int)
    return p_of_counts(
        rose, fell, held + rose, n, metric.bad, metric.prompt_margin, metric.prompt_targets
    )


def _signs(shape: tuple[int, ...], estimand: Estimand, draws: int, seed: int) -> Iterator[Floats]:
    """For each prompt (draws, seeds) signs, or (draws, 1) where prompts are swapped whole."""
    rng = np.random.default_rng(seed)
    width = shape[1] if estimand == "this suite" else 1
    for _ in range(shape[0]):
        yield rng.integers(0, 2, (draws, width)).astype(float) * 2 - 1


def _error(metric: Metric, found: Evidence) -> float:
    return float(found.error_at(metric.margin))
