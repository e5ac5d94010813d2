"""How many seeds and prompts the gate needs, from the variance of a pilot run.

Two things are asked of an n, each with 90 %: that a change of a share by the wanted effect fails,
and that a candidate in which nothing changed passes on every metric at once. Normal
approximation; the corrections for several metrics are Bonferroni's, so the n is on the safe side.
"""

from __future__ import annotations

from math import ceil, inf, log, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from audit.errors import AuditError
from audit.gate.baseline import Side, side_of_run
from audit.gate.pairs import metrics, pair
from audit.gate.rules import ALPHA, Metric, pairs_by_prompt
from audit.spec import Spec, load_spec
from audit.stats import FEWEST_PROMPTS
from audit.store import Run

POWER = 0.9
WORST = 0.5
"""Variance of the difference of two unpaired zeros or ones at a share of one half."""


class Need(NamedTuple):
    """What one metric needs: seeds for the pilot's prompts, or prompts of so many seeds."""

    id: str
    to_fail: float
    """Seeds from which the effect fails; NaN where it is no share."""
    to_pass: float
    """Seeds from which 'nothing changed' passes."""
    prompts: float
    """Prompts, of the spec's seeds, from which both hold for 'prompts like these'."""

    @property
    def seeds(self) -> float:
        """Seeds from which both hold."""
        return float(np.nanmax([self.to_fail, self.to_pass]))


def lines(spec_path: Path, folder: Path, effect: float) -> list[str]:
    """What the gate needs to fail a change of a share by `effect`, in sentences.

    Args:
        spec_path: The spec: its gate section and its number of seeds.
        folder: Run folder; what is there is the pilot.
        effect: 0 to 1.

    Raises:
        AuditError: The effect lies inside the margin of a share, or the pilot cannot be used.
    """
    spec = load_spec(spec_path)
    seeds = spec.seeds.count
    if Run(folder).read_plan() is None:
        wanted = min(_error(effect, spec.gate.margin("share"), True, 1, "share"))
        cells = ceil(WORST / wanted**2)
        return [
            f"no pilot in {folder}: supposes one share near one half and no gain from pairing; "
            "guards and distances are not covered",
            f"{effect:g} needs {cells:,} cells: prompts times seeds, such as {ceil(cells / 30):,} "
            "seeds for each of 30 prompts",
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
        ]
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


def need(metric: Metric, effect: float, seeds: int, family: int, alone: bool) -> Need:
    """What one metric needs.

    Args:
        metric: Of the pilot.
        effect: Change of a share to be failed.
        seeds: A prompt, for 'prompts like these'.
        family: Metrics in the gate.
        alone: The pilot is one arm paired with itself: its own variance, doubled, is used.
    """
    share = metric.id.startswith("share/")
    to_fail, to_pass = _error(effect, metric.margin, share, family, metric.id)
    b, c = pairs_by_prompt(metric, "this suite")
    if not b or min(map(len, b)) < 2:
        return Need(metric.id, nan, nan, nan)
    d = b if alone else [y - x for x, y in zip(b, c, strict=True)]
    factor = 2 if alone else 1
    within = factor * float(np.mean([x.var(ddof=1) for x in d]))
    n = len(d)
    noise = factor * float(np.mean([x.var(ddof=1) / len(x) for x in d]))
    between = 0.0 if alone or n < 2 else max(0.0, float(np.var([x.mean() for x in d], ddof=1)))
    between = max(0.0, between - noise)
    # With no variance in the pilot the gate goes by the number of cells; see paired_difference.
    cells = log(ALPHA / 2) / log(1 - min(metric.margin / metric.span, 0.999))
    return Need(
        metric.id,
        within / n / to_fail**2 if share else nan,
        max(metric.least, cells / n, within / n / to_pass**2),
        max(cells, (between + within / seeds) / min(to_fail, to_pass) ** 2),
    )


def _needs(spec: Spec, folder: Path, effect: float) -> tuple[list[Need], list[str]]:
    """What every metric needs, and a line on the pilot."""
    (one, other), said = _pilot(spec, folder)
    pairs = pair(one, other)
    made = metrics(one, pairs, spec.gate)
    needs = [need(m, effect, spec.seeds.count, len(made), one is other) for m in made]
    cells, prompts = pairs.attrition.made_by_both, pairs.rows["prompt"].nunique()
    return needs, [f"pilot: {said}; {cells} cells of {prompts} prompts"]


def _error(effect: float, margin: float, share: bool, family: int, key: str) -> tuple[float, float]:
    """Standard errors small enough to fail the effect and to pass no effect."""
    z = stats.norm.ppf
    sides = 2 if share else 1
    to_pass = margin / (z(1 - ALPHA / 2) + z(1 - (1 - POWER) / family / sides))
    if not share:
        return inf, float(to_pass)
    if effect <= margin:
        raise AuditError(
            f"--detect {effect:g}: lies inside the margin of {key} ({margin:g}), which the gate "
            "accepts; ask for more, or lower gate.margins"
        )
    told = effect / (z(1 - ALPHA / 2 / family) + z(POWER))
    return float(min(told, (effect - margin) / z(POWER))), float(to_pass)


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
