"""Which component carries a difference between two checkpoints: Shapley values of a full swap.

Text encoder, denoiser and VAE are exchanged in all eight combinations on the same prompts and
seeds. The value of a combination is the mean over prompts of w · (share - share of A), where w
says which way the prompt's stereotype points. A component's Shapley value is the mean, over the
orders in which the three can be exchanged, of what its exchange adds: the three sum to the
whole difference. It is linear in the images' outcomes, so every cell has its own and the
interval is that of a mean over prompts, paired by seed.

Where no direction is declared, the sign comes from one half of the seeds and the effect from
the other, both ways round: |shift| alone would make noise look like an effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from math import nan

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from harness.text import slug
from probes.contracts import Finding, MetricSpec, Reference
from probes.statistics.intervals import Estimand, mean_over_prompts, paired_difference, varies

PROBE = "components"
COMPONENTS = ("text encoder", "denoiser", "VAE")
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")
Floats = NDArray[np.float64]
CARRIED = {
    c: MetricSpec(f"difference carried by the {c}", "shift", "share", span=2.0) for c in COMPONENTS
}
WHOLE = MetricSpec("difference of the whole", "shift", "share", span=2.0)
LEFT_OVER = WHOLE._replace(name="difference left over by one exchange at a time")
PART = {c: MetricSpec(f"part carried by the {c}", unit="of the whole") for c in COMPONENTS}
ESTIMATED = "directions are estimated, each from the other half of the seeds"


def combinations() -> list[tuple[bool, bool, bool]]:
    """The eight combinations; True: the component is B's. The first is A, the last B."""
    return [(bool(i & 4), bool(i & 2), bool(i & 1)) for i in range(8)]


def shapley(values: Floats) -> Floats:
    """Shapley values of three players.

    Args:
        values: (…, 8), the values of `combinations()`.

    Returns:
        (…, 3), for the text encoder, the denoiser and the VAE; they sum to the last value minus
        the first. (Shapley 1953.)
    """
    order = {c: i for i, c in enumerate(combinations())}
    out = np.zeros((*values.shape[:-1], 3))
    ways = list(permutations(range(3)))
    for way in ways:
        held = [False, False, False]
        for player in way:
            before = order[(held[0], held[1], held[2])]
            held[player] = True
            after = order[(held[0], held[1], held[2])]
            out[..., player] += (values[..., after] - values[..., before]) / len(ways)
    return out


def directions(frame: pd.DataFrame, declared: Mapping[str, int]) -> Floats:
    """Which way each cell's prompt is weighed: +1, -1, or 0 where nothing tells.

    Args:
        frame: Columns prompt, seed, and the outcomes of A and B, `a` and `b`, 0 or 1.
        declared: +1 or -1 by prompt; others take the sign of the other half of their seeds.
    """
    weights = np.zeros(len(frame))
    for prompt, part in frame.groupby("prompt", sort=False):
        at = frame.index.get_indexer(part.index)
        if str(prompt) in declared:
            weights[at] = declared[str(prompt)]
            continue
        rank = part["seed"].rank(method="first").to_numpy()
        half = rank % 2 == 0
        shift = (part["b"] - part["a"]).to_numpy(float)
        for own in (half, ~half):
            weights[at[own]] = np.sign(shift[~own].sum())
    return weights


def attribute_share(
    outcomes: pd.DataFrame, subject: dict[str, str], instrument: str, declared: Mapping[str, int]
) -> list[Finding]:
    """Findings of one class of one attribute.

    Args:
        outcomes: Columns prompt, seed, and 0 to 7: whether the image of each of
            `combinations()` is of the class (1 or 0; NaN: not counted). Cells that lack one of
            the eight are left out and counted.
        subject: Of what: attribute, class, and the two checkpoints.
        instrument: What measured.
        declared: Direction by prompt, see `directions`.
    """
    whole = outcomes.dropna(subset=list(range(8))).reset_index(drop=True)
    lost = len(outcomes) - len(whole)
    blank = Finding(
        id=f"{PROBE}/{instrument}/{slug(subject['class'])}",
        probe=PROBE,
        metric=WHOLE,
        subject=subject,
        n=len(whole),
        n_clusters=int(whole["prompt"].nunique()),
        reference=Reference(0.0, 0.0),
        instrument=instrument,
        estimator="Shapley value of the full swap, mean over prompts, paired, t",
        note=f"{lost} cells lack one of the eight images" if lost else "",
    )
    estimated = not set(whole["prompt"]) <= set(declared)
    if estimated:
        blank = replace(blank, note="; ".join(filter(None, [ESTIMATED, blank.note])))
    if not len(whole):
        return [replace(blank, id=f"{blank.id}/total").not_measured("no cell has all eight images")]
    held = whole.assign(a=whole[0], b=whole[7])
    weights = directions(held, declared)
    values = whole[list(range(8))].to_numpy(float) * weights[:, None]
    total = values[:, 7] - values[:, 0]
    alone = sum(values[:, i] - values[:, 0] for i in (4, 2, 1))
    parts = {name: shapley(values)[:, i] for i, name in enumerate(COMPONENTS)}
    findings = []
    for estimand in ESTIMANDS:
        for metric, column in (
            *((CARRIED[c], parts[c]) for c in COMPONENTS),
            (WHOLE, total),
            (LEFT_OVER, total - alone),
        ):
            findings.append(_finding(blank, metric, whole, column, estimand, estimated))
        whole_shift = findings[-2]
        if whole_shift.low > 0 or whole_shift.high < 0:
            findings += [_ratio(blank, c, whole, parts[c], total, estimand) for c in COMPONENTS]
    return findings


def _by_prompt(frame: pd.DataFrame, column: Floats) -> list[Floats]:
    values = pd.Series(column, index=frame.index)
    return [part.to_numpy(float) for _, part in values.groupby(frame["prompt"], sort=False)]


def _finding(
    blank: Finding,
    metric: MetricSpec,
    frame: pd.DataFrame,
    column: Floats,
    estimand: Estimand,
    estimated: bool,
) -> Finding:
    rows = _by_prompt(frame, column)
    found = paired_difference(rows, [np.zeros(len(r)) for r in rows], estimand, span=1.0)
    means = np.array([r.mean() for r in rows])
    if estimated and estimand == "this suite" and varies(means):
        # The two halves lend each other their signs, so cells of a prompt are not independent:
        # only prompts are. Their spread makes the interval wider than seeds alone would.
        test = scipy.stats.ttest_1samp(means, 0)
        bounds = test.confidence_interval(0.95)
        found = found._replace(low=float(bounds.low), high=float(bounds.high), p=float(test.pvalue))
    suite = estimand == "this suite"
    attribute = blank.subject.get("attribute", "")
    family = f"{PROBE}/{attribute}/{blank.instrument}"
    return replace(
        blank,
        id=f"{blank.id}/{slug(metric.name)}/{slug(estimand)}",
        metric=metric,
        value=found.value,
        low=found.low,
        high=found.high,
        # One question is tested once: of these prompts. The other estimand has its interval.
        p=found.p if suite else nan,
        family=family if suite else "",
        estimand=estimand,
        headline=suite,
    )


def _ratio(
    blank: Finding,
    component: str,
    frame: pd.DataFrame,
    part: Floats,
    total: Floats,
    estimand: Estimand,
) -> Finding:
    """A component's share of the whole, by the delta method."""
    top = mean_over_prompts(_by_prompt(frame, part), estimand).value
    bottom = mean_over_prompts(_by_prompt(frame, total), estimand).value
    ratio = top / bottom
    found = mean_over_prompts(_by_prompt(frame, (part - ratio * total) / bottom), estimand)
    half = (found.high - found.low) / 2
    return replace(
        blank,
        id=f"{blank.id}/part-{slug(component)}/{slug(estimand)}",
        metric=PART[component],
        value=ratio,
        low=ratio - half,
        high=ratio + half,
        estimand=estimand,
        reference=Reference(),
        estimator="ratio of means, delta method",
    )
