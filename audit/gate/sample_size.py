"""How many seeds and prompts the gate needs, from the variance of a pilot run.

Two things are asked of an n, each with 90 %: that a change of a share by the wanted effect fails,
and that a candidate in which nothing changed passes on every metric at once. To fail, a change is
told from its margin, not from zero: what counts is how far it lies beyond. Normal approximation;
the corrections for several metrics are Bonferroni's, so the n is on the safe side.
"""

from __future__ import annotations

from math import ceil, inf, isfinite, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy

from audit.gate.baseline import Side, side_of_run
from audit.gate.evidence import ALPHA, EITHER_TAIL, TAIL, by_prompt, paired
from audit.gate.metric import Metric
from audit.gate.metrics import metrics, pair
from audit.gate.needs import cells_to_see, prompts_to_see
from audit.gate.prompt_guard import unseen
from audit.pipeline.margins import margin_of
from harness.errors import AuditError
from harness.spec.schema import Spec, load_spec
from harness.store.run import Run
from probes.attributes.outcomes import readings, reported_classes
from probes.statistics.intervals import FEWEST_PROMPTS

POWER = 0.9
WORST = 0.5
"""Variance of the difference of two unpaired zeros or ones at a share of one half."""
PROMPTS = 30
"""Of the example where there is no pilot."""


class Need(NamedTuple):
    """What one metric needs: seeds for the pilot's prompts, or prompts of so many seeds."""

    id: str
    to_fail: float
    """Seeds from which the effect fails; NaN where it is no share."""
    to_pass: float
    """Seeds from which 'nothing changed' passes."""
    prompts: float
    """Prompts, of the spec's seeds, from which both hold for 'prompts like these'."""
    tested: int = 0
    """Prompts in the pilot."""

    @property
    def seeds(self) -> float:
        """Seeds from which both hold."""
        return float(np.nanmax([self.to_fail, self.to_pass]))


def lines(spec_path: Path, folder: Path, effect: float, metric: str = "") -> list[str]:
    """What the gate needs to fail a change by `effect`, in sentences.

    Args:
        spec_path: The spec: its gate section and its number of seeds.
        folder: Run folder; what is there is the pilot.
        effect: Of a share, 0 to 1; of another metric in its own unit.
        metric: Id of the metric that is to fail, such as 'delta_e/fidelity'; '': all shares.

    Raises:
        AuditError: The effect lies inside the margin, there is no such metric, or the pilot cannot
            be used.
    """
    spec = load_spec(spec_path)
    seeds = spec.seeds.count
    if metric:
        return _of_metric(spec, folder, effect, metric)
    if effect >= 1:
        raise AuditError(f"--detect {effect:g}: a change of a share is below 1")
    shares, family = _planned(spec)
    for key in shares:
        _refuse_inside(effect, margin_of(spec.gate, key), key)
    if Run(folder).read_plan() is None:
        margin = max(margin_of(spec.gate, key) for key in shares)
        wanted = min(_error(effect, margin, True, family))
        cells = ceil(WORST / wanted**2)
        return [
            f"no pilot in {folder}: supposes one share near one half among {family} tests and no "
            "gain from pairing; guards and distances are not covered",
            f"{effect:g} needs {cells:,} cells: prompts times seeds, such as "
            f"{ceil(cells / PROMPTS):,} seeds for each of {PROMPTS} prompts",
        ]
    needs, told = _needs(spec, folder, effect)
    for n in needs:
        fails = "" if np.isnan(n.to_fail) else f"{effect:g} fails from {_n(n.to_fail)} seeds, "
        told.append(f"{n.id}: {fails}'nothing changed' passes from {_n(n.to_pass)} seeds a prompt")
    unknown = [n.id for n in needs if np.isnan(n.seeds)]
    if unknown:
        told.append(f"not known, since the pilot is too small: {', '.join(unknown)}")
    known = [n for n in needs if n.id not in unknown]
    if known:
        told += [
            f"this suite: {_n(max(n.seeds for n in known))} seeds a prompt decide with {POWER:.0%}",
            f"prompts like these, at {seeds} seeds a prompt: "
            f"{_n(max(FEWEST_PROMPTS, *(n.prompts for n in known)))} prompts",
            _of_one_prompt(spec, ceil(max(n.seeds for n in known)), needs),
        ]
    return told


def _of_metric(spec: Spec, folder: Path, effect: float, metric: str) -> list[str]:
    """What the gate needs to fail a change of one metric by `effect`."""
    if Run(folder).read_plan() is None:
        raise AuditError(f"{folder}: no pilot here; of {metric!r} nothing is known without one")
    (one, other), said = _pilot(spec, folder)
    pairs = pair(one, other)
    made = metrics(one, pairs, spec.gate)
    own = [m for m in made if m.id == metric or m.id.rpartition("/")[0] == metric]
    own = [m for m in made if m.id == metric] or own
    if not own:
        raise AuditError(
            f"--metric {metric!r}: not gated; these are: {', '.join(m.id for m in made)}; "
            "give another a margin under gate.margins"
        )
    needs = [
        need(m, effect, spec.seeds.count, len(made) + 1, one is other, wanted=True) for m in own
    ]
    cells, prompts = pairs.attrition.made_by_both, pairs.rows["prompt"].nunique()
    told = [f"pilot: {said}; {cells} cells of {prompts} prompts"]
    for m, n in zip(own, needs, strict=True):
        if np.isnan(n.seeds):
            told.append(f"{m.id}: not known, since the pilot is too small")
            continue
        told.append(
            f"{m.id}: a change by {effect:g} {m.unit} fails from {_n(n.to_fail)} seeds a prompt, "
            f"'nothing changed' passes from {_n(n.to_pass)} (margin {m.margin:g})"
        )
    return told


def seeds(spec_path: Path, folder: Path, effect: float) -> int:
    """Seeds a prompt that decide, by the pilot in a run folder, on every metric it tells of.

    Raises:
        AuditError: As `lines`; or the pilot is too small for any metric.
    """
    needs, _ = _needs(load_spec(spec_path), folder, effect)
    known = [n.seeds for n in needs if not np.isnan(n.seeds)]
    if not known:
        raise AuditError(f"{folder}: the pilot is too small to tell; make more seeds")
    return ceil(max(known))


def need(
    metric: Metric, effect: float, seeds: int, family: int, alone: bool, wanted: bool = False
) -> Need:
    """What one metric needs.

    Args:
        metric: Of the pilot.
        effect: Change of a share to be failed.
        seeds: A prompt, for 'prompts like these'.
        family: Tests in the gate: its metrics and the guard of single prompts.
        alone: The pilot is one arm paired with itself: its own variance, doubled, is used.
        wanted: The effect is one of this metric, whatever it is.
    """
    share = metric.bad == "away from the target"
    to_fail, to_pass = _error(effect, metric.margin, share, family, share or wanted)
    if share or wanted:
        _refuse_inside(effect, metric.margin, metric.id)
    d, both, pairs = paired(metric.baseline, metric.candidate, "this suite", metric.least)
    if not pairs.any():
        return Need(metric.id, nan, nan, nan)
    values = np.where(both, np.nan_to_num(metric.baseline), 0.0) if alone else d
    kept = pairs > 0
    means, variances = (x[kept] for x in by_prompt(values, both, pairs))
    factor, n = 2 if alone else 1, len(means)
    within = factor * float(variances.mean())
    noise = factor * float((variances / pairs[kept]).mean())
    between = 0.0 if alone or n < 2 else max(0.0, float(means.var(ddof=1)) - noise)
    # With no variance in the pilot the gate goes by the number of cells that do not differ.
    # A change of a share is itself variance, however still the pilot: of no fewer cells than that.
    changed = max(within, effect * (1 - effect)) if share else within
    return Need(
        metric.id,
        max(metric.least, changed / n / to_fail**2) if share or wanted else nan,
        max(metric.least, cells_to_see(metric.margin, metric.span) / n, within / n / to_pass**2),
        max(
            prompts_to_see(metric.margin, metric.span, seeds),
            (between + within / seeds) / min(to_fail, to_pass) ** 2,
        ),
        n,
    )


def _needs(spec: Spec, folder: Path, effect: float) -> tuple[list[Need], list[str]]:
    """What every metric needs, and a line on the pilot."""
    (one, other), said = _pilot(spec, folder)
    pairs = pair(one, other)
    made = metrics(one, pairs, spec.gate)
    needs = [need(m, effect, spec.seeds.count, len(made) + 1, one is other) for m in made]
    cells, prompts = pairs.attrition.made_by_both, pairs.rows["prompt"].nunique()
    return needs, [f"pilot: {said}; {cells} cells of {prompts} prompts"]


def _error(
    effect: float, margin: float, share: bool, family: int, wanted: bool = True
) -> tuple[float, float]:
    """Standard errors small enough to fail the effect and to pass no effect."""
    z = scipy.stats.norm.isf
    tail, sides = (EITHER_TAIL, 2) if share else (TAIL, 1)
    to_pass = margin / (z(tail) + z((1 - POWER) / family / sides))
    if not wanted:
        return inf, float(to_pass)
    return float((effect - margin) / (z(ALPHA / family) + z(1 - POWER))), float(to_pass)


def _refuse_inside(effect: float, margin: float, key: str) -> None:
    if not (isfinite(effect) and margin < effect):
        raise AuditError(
            f"--detect {effect:g}: lies inside the margin of {key} ({margin:g}) or on it, which "
            "the gate accepts; ask for a larger change, or lower gate.margins"
        )


def _planned(spec: Spec) -> tuple[list[str], int]:
    """Ids of the shares that the gate will test, and how many tests it will make in all.

    Raises:
        AuditError: There will be none.
    """
    shares, family = [], 1 + 2 * len(spec.classifiers)  # the guard; likeness and diversity
    for reading in readings(spec):
        own = [f"share/{reading.instrument}/{c}" for c in reported_classes(reading.attribute)]
        shares += own
        family += len(own) + 2
    if not shares:
        raise AuditError(
            "--detect is a change of a share, and the spec names no classifier or no attribute "
            "that a classifier scores: the gate would have no share to test"
        )
    return shares, family


def _of_one_prompt(spec: Spec, seeds: int, needs: list[Need]) -> str:
    """What the guard of single prompts could not see at so many seeds."""
    margin = margin_of(spec.gate, "prompt")
    tests = sum(not n.id.startswith("distance/") for n in needs) * max(n.tested for n in needs)
    alpha = ALPHA / (len(needs) + 1) / tests
    missed = unseen(seeds, 0.5, margin, alpha)
    return (
        f"a single prompt: at {seeds:,} seeds the guard may miss a move from 0.5 by up to "
        f"{missed:.2f}"
    )


def _pilot(spec: Spec, folder: Path) -> tuple[tuple[Side, Side], str]:
    """Two arms of the run, or one twice, and what they are."""
    plan = Run(folder).read_plan()
    assert plan is not None
    arms = [f"{c},{v}" for c, v in plan[["checkpoint", "vae"]].drop_duplicates().to_numpy()]
    first = next((a for a in arms if a.split(",")[0] == spec.baseline), arms[0])
    # Another checkpoint tells more of the next candidate than the same one by another VAE.
    others = [a for a in arms if a.split(",")[0] != first.split(",")[0]] or arms
    one = side_of_run(folder, first)
    second = next((a for a in others if a != first), None)
    if second is None:
        return (one, one), f"{first} alone, so pairing is not counted on"
    return (one, side_of_run(folder, second)), f"{first} and {second}, paired by prompt and seed"


def _n(value: float) -> str:
    return f"{ceil(value):,}"
