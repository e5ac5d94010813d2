"""From two arms to the gate's metrics: what must be the same, which cells pair, which columns.

Cells pair by prompt and seed: the same starting noise in both arms. What was planned by one arm
only is not paired; what both planned and one lacks is attrition.
"""

from __future__ import annotations

import warnings
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from audit.gate.baseline import Side
from audit.gate.evidence import Bad
from audit.gate.metric import Metric
from audit.pipeline.margins import KINDS, MOVED, asked_for, margin_of
from harness.errors import AuditError
from harness.json_types import JsonObject
from harness.spec.attributes import AttributeSpec
from harness.spec.sections import GateSpec
from harness.text import slug
from probes.attributes.guards import LEAST_APART
from probes.attributes.outcomes import readings, reported_classes

Floats = NDArray[np.float64]
LEAST_TO_PAIR = 3
"""Cells a prompt needs for a mean over pairs of seeds with a variance."""
SPAN_OF_PAIRS = 4.0
"""The most by which moving a part q of all cells moves a mean over pairs, over q: for the squared
distance at an even target of two classes, 4 (2p - 1) q + …; for 1 - cosine, 2 q times 2."""


class Attrition(NamedTuple):
    """How the cells of two arms meet."""

    baseline_planned: int
    candidate_planned: int
    planned_by_both: int
    made_by_both: int
    baseline_lacks: int
    """Planned by both, not made by the baseline."""
    candidate_lacks: int

    @property
    def share(self) -> float:
        """Of the cells planned by both, the part that both made."""
        return self.made_by_both / self.planned_by_both if self.planned_by_both else 0.0


class Paired(NamedTuple):
    """The cells planned by both: columns prompt, seed, then a_… (baseline) and b_… (candidate)."""

    rows: pd.DataFrame
    attrition: Attrition


def cell_values(row_sums: ArrayLike, axis: int = -1) -> Floats:
    """A mean over pairs of cells, shared out to the cells.

    A cell's value is twice its mean over the pairs it is in, less the mean over all pairs: Sen's
    (1960) estimate of Hoeffding's projection, whose variance over n is that of the U-statistic.

    Args:
        row_sums: for each cell the sum of the kernel over its pairs with all other cells; NaN
            for a missing cell.
        axis: the cells' axis.

    Returns:
        As `row_sums`; the mean over the cells is the mean over the pairs. All NaN below 3 cells.
    """
    rows = np.asarray(row_sums, float)
    n = (~np.isnan(rows)).sum(axis=axis, keepdims=True)
    total = np.nansum(rows, axis=axis, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (2 * rows - total / n) / (n - 1)
    return np.where(n >= 3, values, nan)


def distance_values(shown: ArrayLike, target: ArrayLike) -> Floats:
    """Values of cells whose mean is a prompt's squared distance from its target, at most 1.

    The sum over classes of (share - target)², over what a model of one class only can score at
    most. With two classes and an even target: (2 share - 1)².

    Args:
        shown: (..., S, K): 1 for the class that a cell shows, else 0; NaN for a missing cell.
        target: (..., K): shares that sum to 1.
    """
    wanted = np.asarray(target, float)[..., None, :]
    off = np.asarray(shown, float) - wanted
    scale = 1 - 2 * wanted.min(axis=-1) + (wanted**2).sum(axis=-1)
    all_cells = np.nansum(off, axis=-2, keepdims=True)
    return cell_values((off * all_cells - off**2).sum(axis=-1) / scale)


def diversity_values(cosines: ArrayLike) -> Floats:
    """Values of cells whose mean is the mean 1 - cosine over pairs of seeds.

    Args:
        cosines: (..., S, S); rows and columns of missing cells are NaN, the diagonal is not read.
    """
    apart = 1 - np.asarray(cosines, float)
    own = np.eye(apart.shape[-1], dtype=bool)
    missing = np.isnan(np.where(own, nan, apart)).all(axis=-1)
    return cell_values(np.where(missing, nan, np.nansum(np.where(own, 0, apart), axis=-1)))


def pair(baseline: Side, candidate: Side) -> Paired:
    """Join two arms on prompt and seed."""
    a, b = (_numbered(side.cells) for side in (baseline, candidate))
    keys = ["prompt", "seed"]
    rows = a.merge(b, on=keys, how="inner", suffixes=("", "_b"), validate="one_to_one")
    both = rows["made"].astype(bool) & rows["made_b"].astype(bool)
    return Paired(
        rows.assign(both=both),
        Attrition(
            baseline_planned=len(a),
            candidate_planned=len(b),
            planned_by_both=len(rows),
            made_by_both=int(both.sum()),
            baseline_lacks=int((~rows["made"].astype(bool)).sum()),
            candidate_lacks=int((~rows["made_b"].astype(bool)).sum()),
        ),
    )


def metrics(baseline: Side, paired: Paired, gate: GateSpec) -> list[Metric]:
    """Every metric of the gate, on one grid of prompts and seeds.

    Raises:
        AuditError: A margin names a metric that is not there.
    """
    rows = paired.rows
    grid = Grid(rows)
    made: list[Metric] = []
    for reading in readings(baseline.spec):
        column = f"outcome:{reading.instrument}"
        if column in rows:
            targets = _targets(baseline, grid.prompts, reading.attribute)
            made += _of_attribute(grid, column, reading.attribute, targets, gate)
    for name in map(slug, baseline.spec.classifiers):
        if f"likeness:{name}" in rows:
            made += _of_likeness(grid, name, gate)
            made += _of_change(grid, name, gate) if asked_for(gate, MOVED) else []
    ids = [m.id for m in made] + list(baseline.measured)
    ids += [f"prompt/{m.id}" for m in made if m.guarded]
    for name in gate.margins:
        if name not in ids and name not in KINDS:
            known = ", ".join([*KINDS, *ids])
            raise AuditError(f"gate.margins: no metric {name!r}; available: {known}")
    for key, about in baseline.measured.items():
        made += _of_measured(grid, key, about)
    return made


class Grid:
    """Prompts (rows) by seeds (columns), and where each paired cell lies.

    Args:
        rows: `Paired.rows`.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self.prompts = list(dict.fromkeys(rows["prompt"]))
        self.seeds = sorted(set(rows["seed"]))
        row = {p: i for i, p in enumerate(self.prompts)}
        column = {s: i for i, s in enumerate(self.seeds)}
        self.at = (
            rows["prompt"].map(row).to_numpy(int),
            rows["seed"].map(column).to_numpy(int),
        )
        self.shape = (len(self.prompts), len(self.seeds))
        self.both = self.lay(rows["both"].to_numpy(float)) == 1

    def lay(self, values: ArrayLike) -> Floats:
        """One value a row, laid out; NaN where nothing is."""
        laid = np.full(self.shape, np.nan)
        laid[self.at] = np.asarray(values, float)
        return laid

    def cell(self, prompt: int, seed: int) -> JsonObject:
        """A position's prompt, seed and cells."""
        here = (self.at[0] == prompt) & (self.at[1] == seed)
        found = self.rows[here].iloc[0]
        return {
            "prompt": str(found["prompt"]),
            "seed": int(found["seed"]),
            "baseline": str(found["cell"]),
            "candidate": str(found["cell_b"]),
        }


def _of_attribute(
    grid: Grid, column: str, attribute: AttributeSpec, targets: Floats, gate: GateSpec
) -> list[Metric]:
    """Distance from the target, share of each reported class, share not counted."""
    names, instrument = attribute.class_names, column.removeprefix("outcome:")
    shown, told = [], grid.both
    for one in (column, f"{column}_b"):
        said = grid.rows[one].to_numpy(object)
        shown.append(np.stack([grid.lay(said == c) for c in names], axis=-1))
        told = told & (shown[-1].sum(axis=-1) == 1)
    kept = [np.where(told[..., None], s, np.nan) for s in shown]
    seen = np.nansum(kept[0] + kept[1], axis=(0, 1))
    varies = bool((seen > 0).sum() > 1)
    key = f"distance/{instrument}"
    made = [
        Metric(
            key,
            distance_values(kept[0], targets),
            distance_values(kept[1], targets),
            bad="rise",
            margin=margin_of(gate, key),
            span=SPAN_OF_PAIRS,
            least=LEAST_TO_PAIR,
            varies=varies,
            unit="squared distance from the target, 1 where one class is all",
        )
    ]
    for name in reported_classes(attribute):
        k = names.index(name)
        key = f"share/{instrument}/{name}"
        made.append(
            Metric(
                key,
                kept[0][..., k],
                kept[1][..., k],
                bad="away from the target",
                margin=margin_of(gate, key),
                target=float(targets[told.any(axis=1), k].mean()) if told.any() else 0.0,
                span=1.0,
                varies=varies,
                unit="share",
                prompt_margin=margin_of(gate, f"prompt/{key}"),
                prompt_targets=targets[:, k],
                counts=True,
            )
        )
    key = f"not-counted/{instrument}"
    lost = [np.where(grid.both, 1 - s.sum(axis=-1), np.nan) for s in shown]
    made.append(
        Metric(
            key,
            lost[0],
            lost[1],
            bad="rise",
            margin=margin_of(gate, key),
            span=1.0,
            unit="share",
            prompt_margin=margin_of(gate, f"prompt/{key}"),
            counts=True,
        )
    )
    return made


def _of_likeness(grid: Grid, classifier: str, gate: GateSpec) -> list[Metric]:
    """Likeness to the prompt and diversity over seeds; margins are parts of the baseline's mean."""
    likeness = [grid.lay(grid.rows[f"likeness:{classifier}{s}"]) for s in ("", "_b")]
    known = grid.both & ~np.isnan(likeness[0]) & ~np.isnan(likeness[1])
    likeness = [np.where(known, x, np.nan) for x in likeness]
    cosines = [_cosines(grid, f"cosines:{classifier}", s) for s in ("", "_b")]
    spread = [diversity_values(c) for c in cosines]
    made = []
    for kind, columns, span, least, varies, unit in (
        ("likeness", likeness, 2.0, 2, _varies(likeness), "cosine"),
        ("diversity", spread, SPAN_OF_PAIRS, LEAST_TO_PAIR, _varies(cosines), "1 - cosine"),
    ):
        key = f"{kind}/{classifier}"
        mean = float(np.nanmean(columns[0])) if np.isfinite(columns[0]).any() else 0.0
        made.append(
            Metric(
                key,
                columns[0],
                columns[1],
                bad="drop",
                margin=margin_of(gate, key) * abs(mean),
                span=span,
                least=least,
                varies=varies,
                unit=unit,
                prompt_margin=margin_of(gate, f"prompt/{key}") * abs(mean),
            )
        )
    return made


def _of_change(grid: Grid, classifier: str, gate: GateSpec) -> list[Metric]:
    """How far images of the same seed moved, as a part of how far the baseline's seeds lie apart.

    0: the same images; 1: as far as another seed. What lies between two seeds is taken over all
    prompts, so that a prompt whose images are all alike does not decide. The most that an image
    which nobody saw move can move is the distance of the two seeds that lie farthest apart.
    """
    cosines = _cosines(grid, f"cosines:{classifier}", "")
    cosines[:, np.arange(grid.shape[1]), np.arange(grid.shape[1])] = nan
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a prompt without images has no mean
        apart = float(np.nanmean(1 - np.nanmean(cosines, axis=(1, 2))))
    if not apart > LEAST_APART:
        return []
    moved = np.full(grid.shape, nan)
    columns = (grid.rows[f"embedding:{classifier}{suffix}"] for suffix in ("", "_b"))
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(*columns, strict=True)]
    moved[grid.at] = [
        1 - float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) if len(a) and len(b) else nan
        for a, b in pairs
    ]
    moved = np.where(grid.both, np.maximum(moved, 0.0) / apart, nan)
    key = f"{MOVED}/{classifier}"
    return [
        Metric(
            key,
            np.where(np.isnan(moved), nan, 0.0),
            moved,
            bad="rise",
            margin=margin_of(gate, key),
            span=float(np.nanmax(1 - cosines)) / apart,
            unit="of the distance between seeds",
        )
    ]


def _of_measured(grid: Grid, key: str, about: JsonObject) -> list[Metric]:
    """A metric that an instrument declares: against its direction, or either way where it has none.

    One that has no better direction is two metrics, a rise and a drop: it passes where both do,
    which is to be equivalent within the margin.
    """
    values = [grid.lay(grid.rows[f"value:{key}{s}"]) for s in ("", "_b")]
    known = grid.both & ~np.isnan(values[0]) & ~np.isnan(values[1])
    values = [np.where(known, x, np.nan) for x in values]
    ways: dict[str, dict[str, Bad]] = {"higher": {key: "drop"}, "lower": {key: "rise"}}
    return [
        Metric(
            name,
            values[0],
            values[1],
            bad=bad,
            margin=float(about["margin"]),
            span=nan if about["span"] is None else float(about["span"]),
            varies=_varies(values),
            unit=str(about["unit"]),
        )
        for name, bad in ways.get(
            about["better"], {f"{key}/rise": "rise", f"{key}/drop": "drop"}
        ).items()
    ]


def _cosines(grid: Grid, column: str, suffix: str) -> Floats:
    """(P, S, S) cosines between the seeds of each prompt that both arms made."""
    laid = np.full((*grid.shape, grid.shape[1]), np.nan)
    rows = grid.rows
    held = np.flatnonzero(rows["both"])
    stored = [np.asarray(r, float) for r in rows[f"{column}{suffix}"].iloc[held]]
    place = rows[f"place{suffix}"].to_numpy(int)[held]
    at = (grid.at[0][held], grid.at[1][held])
    for prompt in range(grid.shape[0]):
        own = np.flatnonzero(at[0] == prompt)
        if len(own):
            block = np.stack([stored[i][place[own]] for i in own])
            laid[prompt][np.ix_(at[1][own], at[1][own])] = block
    return laid


def _numbered(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with their place among the cells of their prompt."""
    return cells.assign(place=cells.groupby("prompt", sort=False).cumcount())


def _varies(arms: list[Floats]) -> bool:
    values = np.concatenate([a[np.isfinite(a)] for a in arms])
    return bool(len(values) and np.ptp(values) > 1e-6)


def _targets(side: Side, prompts: list[str], attribute: AttributeSpec) -> Floats:
    """(P, K) target shares: a prompt's own, or the attribute's."""
    rows = []
    for prompt in prompts:
        own = side.targets.get(prompt, {}).get(attribute.name)
        shares = attribute.shares(own)
        rows.append([shares[c] for c in attribute.class_names])
    return np.array(rows, float)
