"""The gate on populations whose truth is known: false verdicts at the margin, power, guard, losses.

A cell shows the class where its latent normal lies below the quantile of its prompt's share, and
the latents of the two arms correlate within a cell (the shared seed). Lost cells are drawn
beta-binomially: all cells of a prompt share its own rate. All by the gate's own code
(`audit.gate.evidence`, `prompt_guard`), for thousands of gates at once.

    python -m validation.simulations.gate      # 4,000 trials; docs/simulations/gate.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from audit.gate.evidence import Bad, Evidence, evidence
from audit.gate.metrics import SPAN_OF_PAIRS, distance_values
from audit.gate.prompt_guard import p_of_prompts, unseen
from probes.statistics.intervals import Estimand

Floats = NDArray[np.float64]
TRIALS, CHUNK = 4_000, 500
ALPHA, MARGIN, DISTANCE_MARGIN, PROMPT_MARGIN = 0.05, 0.05, 0.1, 0.15
FAMILY = 6
"""Tests of a gate of one classifier and one attribute of two classes: distance, share, not
counted, CLIP score, diversity, and the guard."""
GUARDED = 4
"""Metrics of such a gate that the guard watches: all but the distance."""
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")
AWAY: Bad = "away from the target"


class Rates(NamedTuple):
    """Shares of trials, 0 to 1."""

    passed: float
    failed_alone: float
    """By a gate of this metric alone."""
    failed: float
    """As one metric of a gate of `FAMILY` tests."""


def draw(
    rng: np.random.Generator,
    base: ArrayLike,
    other: ArrayLike,
    seeds: int,
    correlation: float,
    trials: int,
) -> tuple[Floats, Floats]:
    """Two arms of zeros and ones.

    Args:
        rng: Source of the latents.
        base: (P,) or (trials, P) the prompts' shares in the baseline.
        other: The same in the candidate.
        seeds: A prompt.
        correlation: Of the two arms' latents, 0 to 1.
        trials: Number of gates.

    Returns:
        Baseline and candidate, each (trials, P, S).
    """
    p, q = (np.clip(np.atleast_2d(np.asarray(x, float)), 0, 1) for x in (base, other))
    z = rng.standard_normal((trials, p.shape[1], seeds), dtype=np.float32)
    w = rng.standard_normal(z.shape, dtype=np.float32)
    w = np.float32(correlation) * z + np.float32(np.sqrt(1 - correlation**2)) * w
    one, two = (
        (latent < stats.norm.ppf(s).astype(np.float32)[..., None]) * 1.0
        for s, latent in ((p, z), (q, w))
    )
    return one, two


def lost(
    rng: np.random.Generator,
    rate: float,
    correlation: float,
    prompts: int,
    seeds: int,
    trials: int,
) -> Floats:
    """(trials, P, S): 1 where a cell is lost, at a mean rate and an intra-prompt correlation."""
    own = np.full((trials, prompts), rate)
    if correlation > 0 and 0 < rate < 1:
        size = 1 / correlation - 1
        own = rng.beta(rate * size, (1 - rate) * size, (trials, prompts))
    return np.where(rng.random((trials, prompts, seeds)) < own[..., None], 1.0, 0.0)


def decided(found: Evidence, bad: Bad, margin: float) -> Rates:
    """What the gate's rules say of a metric, over the trials."""
    p = np.nan_to_num(found.p(bad, margin), nan=1.0)
    return Rates(
        float((found.bound(bad, margin) < margin).mean()),
        float((p <= ALPHA).mean()),
        float((p <= ALPHA / FAMILY).mean()),
    )


def share(
    base: ArrayLike,
    other: ArrayLike,
    seeds: int,
    correlation: float,
    estimand: Estimand = "this suite",
    target: float = 0.5,
    trials: int = TRIALS,
    seed: int = 0,
) -> Rates:
    """The share metric. 'Prompts like these' are drawn anew from these shares for each gate."""
    found = []
    for chunk, size in _chunks(trials):
        arms = _arms([seed, chunk], base, other, seeds, correlation, estimand, size)
        found.append(decided(evidence(*arms, estimand, 2, 1.0, target), AWAY, MARGIN))
    return _mean(found)


def distance(
    base: ArrayLike,
    other: ArrayLike,
    seeds: int,
    correlation: float,
    estimand: Estimand = "this suite",
    trials: int = TRIALS,
    seed: int = 0,
) -> Rates:
    """The distance metric, of an even target of two classes; otherwise as `share`."""
    found = []
    for chunk, size in _chunks(trials):
        arms = _arms([seed, chunk], base, other, seeds, correlation, estimand, size)
        values = [distance_values(np.stack([x, 1 - x], -1), (0.5, 0.5)) for x in arms]
        made = evidence(values[0], values[1], estimand, 3, SPAN_OF_PAIRS)
        found.append(decided(made, "rise", DISTANCE_MARGIN))
    return _mean(found)


def losses(
    rate: float,
    correlation: float,
    prompts: int = 24,
    seeds: int = 32,
    estimand: Estimand = "prompts like these",
    trials: int = TRIALS,
    seed: int = 0,
) -> Rates:
    """Not counted: the candidate loses cells, the baseline none."""
    found = []
    for chunk, size in _chunks(trials):
        rng = np.random.default_rng([seed, chunk])
        gone = lost(rng, rate, correlation, prompts, seeds, size)
        found.append(
            decided(evidence(np.zeros(gone.shape), gone, estimand, 2, 1.0), "rise", MARGIN)
        )
    return _mean(found)


class GuardRates(NamedTuple):
    """Shares of trials with a FAIL or a PASS, of the share metric and of the guard of prompts."""

    share_passed: float
    guard_failed: float
    passed: float
    """The share passes and the guard does not fail."""


def guard(
    base: ArrayLike,
    other: ArrayLike,
    seeds: int,
    correlation: float,
    targets: ArrayLike | None = None,
    trials: int = TRIALS,
    seed: int = 0,
) -> GuardRates:
    """The guard of single prompts, in a gate of `FAMILY` tests of which it watches `GUARDED`.

    The metrics that are not drawn here count in the adjustment and never fail.
    """
    wanted = np.full(len(np.asarray(base)), 0.5) if targets is None else np.asarray(targets)
    level = ALPHA / FAMILY / GUARDED / len(wanted)
    found = []
    for chunk, size in _chunks(trials):
        arms = draw(np.random.default_rng([seed, chunk]), base, other, seeds, correlation, size)
        mean = evidence(*arms, "this suite", 2, 1.0, float(wanted.mean()))
        passed = mean.bound(AWAY, MARGIN) < MARGIN
        p = p_of_prompts(*arms, AWAY, PROMPT_MARGIN, wanted)
        failed = (p <= level).any(axis=-1)
        found.append(GuardRates(*(float(x.mean()) for x in (passed, failed, passed & ~failed))))
    return GuardRates(*np.mean(found, axis=0).tolist())


def spread(prompts: int, low: float, high: float, mean: float) -> Floats:
    """(P,) shares of a suite: quantiles of Beta(2, 2) between two bounds, with a given mean."""
    middle = stats.beta.ppf((np.arange(prompts) + 0.5) / prompts, 2, 2) * (high - low) + low
    found: Floats = middle - middle.mean() + mean
    return found


def table(trials: int = TRIALS, parts: Iterable[str] = ()) -> Iterator[str]:
    """Lines of some of the tables (names of `TABLES`; none: all), in Markdown."""
    for name in parts or TABLES:
        yield from TABLES[name](trials)


def _at_the_margin(trials: int) -> Iterator[str]:
    yield "\n### Near the margin: 30 prompts, share 0.60, target 0.5, latent correlation 0.3\n"
    yield "| candidate | seeds | estimand | PASS | FAIL alone | FAIL in a family of 6 |"
    yield "|---|---|---|---|---|---|"
    base = spread(30, 0.2, 0.85, 0.6)
    for shift in (0.0, 0.04, 0.05):
        for seeds in (16, 64):
            for estimand in ESTIMANDS:
                found = share(base, base + shift, seeds, 0.3, estimand, trials=trials)
                yield f"| {0.6 + shift:.2f} | {seeds} | {estimand} | {_row(found)} |"


def _power(trials: int) -> Iterator[str]:
    yield "\n### Ten points worse, 30 prompts, latent correlation 0.3, 'this suite'\n"
    yield "| metric | from, target | seeds | A/A PASS | FAIL alone | FAIL in a family of 6 |"
    yield "|---|---|---|---|---|---|"
    lean, even = spread(30, 0.3, 0.9, 0.6), spread(30, 0.1, 0.85, 0.5)
    apart = spread(30, 0.0, 1.0, 0.5)
    farther = np.clip(apart + 0.1 * np.sign(apart - 0.5), 0, 1)
    for seeds in (16, 32, 48, 64):
        for word, base in (("0.60, 0.5", lean), ("0.50, 0.5", even)):
            same = share(base, base, seeds, 0.3, trials=trials)
            moved = share(base, base + 0.1, seeds, 0.3, trials=trials)
            yield f"| share | {word} | {seeds} | {_power_row(same, moved)} |"
        same = distance(apart, apart, seeds, 0.3, trials=trials // 4)
        moved = distance(apart, farther, seeds, 0.3, trials=trials // 4)
        yield f"| distance | each prompt 0.1 farther | {seeds} | {_power_row(same, moved)} |"


def _on_target(trials: int) -> Iterator[str]:
    yield "\n### Baseline on target: truly 0.50 to 0.45 (the margin) or 0.4495; 24 prompts\n"
    yield "| seeds | correlation | estimand | shares | PASS at 0.45 | at 0.4495 | A/A PASS |"
    yield "|---|---|---|---|---|---|---|"
    for seeds in (16, 64):
        for correlation in (0.3, 0.95, 0.99):
            for estimand in ESTIMANDS:
                for word, base in (
                    ("all 0.5", np.full(24, 0.5)),
                    ("0.1 to 0.9", spread(24, 0.1, 0.9, 0.5)),
                ):
                    found = [
                        share(base, base - off, seeds, correlation, estimand, trials=trials).passed
                        for off in (0.05, 0.0505, 0.0)
                    ]
                    row = " | ".join(f"{x:.1%}" for x in found)
                    yield f"| {seeds} | {correlation} | {estimand} | {word} | {row} |"


def _guard(trials: int) -> Iterator[str]:
    yield "\n### One of 24 prompts moves from 0.5 to 1, the others stay at 0.5\n"
    yield (
        "| seeds | correlation | A/A: share PASS | A/A: guard FAIL | A/A: both PASS | "
        "moved: share PASS | moved: guard FAIL | largest move unseen |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    base = np.full(24, 0.5)
    moved = np.where(np.arange(24) == 0, 1.0, base)
    level = ALPHA / FAMILY / GUARDED / 24
    for seeds in (8, 16, 32, 64, 80, 128):
        for correlation in (0.0, 0.3, 0.9):
            same = guard(base, base, seeds, correlation, trials=trials // 2)
            other = guard(base, moved, seeds, correlation, trials=trials // 2)
            yield (
                f"| {seeds} | {correlation} | {same.share_passed:.1%} | {same.guard_failed:.2%} | "
                f"{same.passed:.1%} | {other.share_passed:.1%} | {other.guard_failed:.1%} | "
                f"{unseen(seeds, 0.5, PROMPT_MARGIN, level):.2f} |"
            )
    yield "\n### One prompt on the margin of the guard (0.5 to 0.65), FAIL by the guard\n"
    yield "| seeds | correlation | FAIL |"
    yield "|---|---|---|"
    moved = np.where(np.arange(24) == 0, 0.65, base)
    for seeds in (16, 80):
        for correlation in (0.0, 0.9):
            found = guard(base, moved, seeds, correlation, trials=trials // 2)
            yield f"| {seeds} | {correlation} | {found.guard_failed:.2%} |"


def _lost(trials: int) -> Iterator[str]:
    yield "\n### Not counted, 'prompts like these', 24 x 32; the candidate's cells lost\n"
    yield "| lost | intra-prompt correlation | PASS | FAIL alone | FAIL in a family of 6 |"
    yield "|---|---|---|---|---|"
    for rate in (0.0, 0.01, 0.05, 0.1, 0.2):
        for correlation in (0.0, 0.05, 0.1, 0.2, 0.3):
            if rate or not correlation:
                found = losses(rate, correlation, trials=trials)
                yield f"| {rate} | {correlation} | {_row(found)} |"


def _row(found: Rates) -> str:
    return " | ".join(f"{x:.1%}" for x in found)


def _power_row(same: Rates, moved: Rates) -> str:
    return " | ".join(f"{x:.1%}" for x in (same.passed, moved.failed_alone, moved.failed))


def _arms(
    seed: list[int],
    base: ArrayLike,
    other: ArrayLike,
    seeds: int,
    correlation: float,
    estimand: Estimand,
    trials: int,
) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    p, q = np.asarray(base, float), np.asarray(other, float)
    if estimand == "prompts like these":
        chosen = rng.integers(0, len(p), (trials, len(p)))
        p, q = p[chosen], q[chosen]
    return draw(rng, p, q, seeds, correlation, trials)


def _chunks(trials: int) -> Iterator[tuple[int, int]]:
    for start in range(0, trials, CHUNK):
        yield start // CHUNK, min(CHUNK, trials - start)


def _mean(found: list[Rates]) -> Rates:
    return Rates(*np.mean(found, axis=0).tolist())


TABLES = {
    "margin": _at_the_margin,
    "power": _power,
    "target": _on_target,
    "guard": _guard,
    "lost": _lost,
}

if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else TRIALS, sys.argv[2:]):
        print(line, flush=True)
