"""What people prefer in blind pairs of two arms, as findings of the report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from harness.plan.cells import arm_labels
from harness.spec.schema import Spec
from harness.text import slug
from probes.contracts import (
    AnalysisInput,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    ProbeOptions,
    Reference,
    Result,
)
from probes.preference.estimate import HALF, Preference, for_arm, for_left, table
from probes.registry import register

TABLE = "preferences"
"""Key of the judgements among the tables."""
PREFERRED = MetricSpec("preference", "shift", "share", None, span=1.0)
LEFT = MetricSpec("preference for the left image of a control", "shift", "share", span=1.0)


@register
class PreferenceProbe(Probe[ProbeOptions]):
    """Judgements of the dashboard's page 'Prefer'."""

    name = "preference"

    def instruments(self, options: ProbeOptions, spec: Spec) -> Sequence[Instrument]:
        """None: people judge."""
        return ()

    def analyse(self, given: AnalysisInput[ProbeOptions]) -> Result:
        """How far from one half each arm's share of wins is, and the control."""
        plan = given.plan.assign(arm=arm_labels(given.plan))
        judged = given.tables.get(TABLE)
        if judged is None or judged.empty:
            note = "no pair is judged yet: open the page Prefer of `audit dashboard`"
            return Result([Finding(id=f"{self.name}/none", probe=self.name, metric=PREFERRED)
                           .not_measured(note)])  # fmt: skip
        rows = table(judged, plan)
        seen = {frozenset(pair) for pair in zip(rows["left"], rows["right"], strict=True)}
        findings = []
        for other, arm in combinations(dict.fromkeys(plan["arm"]), 2):
            if {arm, other} in seen:
                subject = {"arm": arm, "baseline": other}
                name = f"{self.name}/{slug(arm)}/{slug(other)}"
                findings.append(_finding(name, PREFERRED, subject, for_arm(rows, arm, other)))
        figure = _figure(findings)
        control = for_left(rows)
        if control.n:
            findings.append(_finding(f"{self.name}/control", LEFT, {}, control))
        return Result(findings, figure)


def _figure(findings: Sequence[Finding]) -> list[Figure]:
    rows = [
        (
            f"{f.subject['arm']} over {f.subject['baseline']}",
            *(HALF + x for x in (f.value, f.low, f.high)),
        )
        for f in findings
    ]
    table = pd.DataFrame(rows, columns=["label", "value", "low", "high"])
    caption = (
        "How often people preferred the first arm in blind pairs, with 95 % intervals; a pair "
        "without a winner counts half. The dashed line is one half."
    )
    alt = "A dot with an interval for each pair of arms."
    table = table.assign(group="", target=HALF)
    return [Figure("preference/pairs", "bar", table, caption, alt)] if rows else []


def _finding(name: str, metric: MetricSpec, subject: dict[str, str], found: Preference) -> Finding:
    tested = metric is PREFERRED
    notes = [
        f"{found.raters} raters, {found.prompts} prompts; {found.undecided:.0%} without a winner",
        "for these raters only" if found.these_raters else "",
        f"{found.needed} prompts judged as often as these would decide" if found.needed else "",
    ]
    return Finding(
        id=name,
        probe="preference",
        metric=metric,
        subject=subject,
        value=found.value - HALF,
        low=found.low - HALF,
        high=found.high - HALF,
        p=found.p if tested else float("nan"),
        n=found.n,
        n_clusters=found.prompts,
        estimand="prompts like these",
        estimator="share of wins less one half, clustered by prompt and rater",
        reference=Reference(0.0, 0.0),
        instrument="people",
        headline=tested,
        family="preference" if tested else "",
        note="; ".join(filter(None, notes)),
    )
