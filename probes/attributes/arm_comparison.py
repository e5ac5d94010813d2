"""Arms against each other, attrition, intersections, disagreement, and the quality guards.

Arms are paired where something pairs their images (`probes.statistics.pairing`); else all images of
both are compared, prompt by prompt. Every difference is the later arm minus the first one (or the
spec's baseline).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from math import nan

import pandas as pd

from harness.spec.attributes import OUTCOMES, AttributeSpec
from harness.spec.schema import Spec
from harness.text import slug
from probes.attributes.metrics import (
    ASSOCIATION,
    DISAGREEMENT,
    NOT_COUNTED,
    SHARE_DIFFERENCE,
)
from probes.attributes.outcomes import reported_classes, subject_of
from probes.contracts import Figure, Finding, MetricSpec, Reference
from probes.statistics.association import association_interval
from probes.statistics.intervals import Estimand, Interval, mean_share_over_prompts
from probes.statistics.pairing import Compared, compared
from probes.statistics.seed_clusters import mean_share_by_seed, sharing_note

PROBE = "attributes"
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")


def baseline_arm(frame: pd.DataFrame, spec: Spec) -> str:
    """The arm that the others are compared with: the first of the baseline checkpoint."""
    if spec.baseline is None:
        return str(frame["arm"].iloc[0])
    return str(frame.loc[frame["checkpoint"] == spec.baseline, "arm"].iloc[0])


def compare_arms(
    frame: pd.DataFrame, attribute: AttributeSpec, instrument: str, spec: Spec
) -> list[Finding]:
    """How far each arm's shares are from the baseline's."""
    base = baseline_arm(frame, spec)
    names = attribute.class_names
    told = frame.assign(told=frame["outcome"].map({n: float(i) for i, n in enumerate(names)}))
    findings = []
    for arm in dict.fromkeys(frame["arm"]):
        if arm == base:
            continue
        both = compared(told, "told", arm, base, spec.seeds.shared)
        subject = subject_of(frame[frame["arm"] == arm], attribute.name)
        for name in reported_classes(attribute):
            findings += difference_of_arms(
                both.hits(float(names.index(name))),
                f"share-difference/{instrument}/{arm}/{name}",
                SHARE_DIFFERENCE,
                subject | {"class": name, "baseline": base},
                instrument,
                f"{arm} against {base}/{attribute.name}/{instrument}",
            )
    return findings


def attrition(
    frame: pd.DataFrame, attribute: AttributeSpec, instrument: str, shared: bool = False
) -> list[Finding]:
    """Share of the planned images that were told no class, by arm and by what they were."""
    findings = []
    for arm, part in frame.groupby("arm", sort=False):
        subject = subject_of(part, attribute.name)
        lost = ~part["outcome"].isin(attribute.class_names)
        share = mean_share(lost, part, shared)
        kinds = {o: int((part["outcome"] == o).sum()) for o in OUTCOMES}
        kinds["no image"] = int(part["outcome"].isna().sum())
        findings.append(
            Finding(
                id=f"{PROBE}/not-counted/{instrument}/{arm}",
                probe=PROBE,
                metric=NOT_COUNTED,
                subject=subject,
                value=share.value,
                low=share.low,
                high=share.high,
                estimator="mean of the prompts' shares, Wilson at the effective sample size",
                n=len(part),
                n_clusters=part["prompt"].nunique(),
                reference=Reference(null=0.0),
                instrument=instrument,
                note=(", ".join(f"{k} {v}" for k, v in kinds.items() if v) or "every image counted")
                + clustered(part, shared),
            )
        )
    return findings


def mean_share(hits: pd.Series, part: pd.DataFrame, shared: bool) -> Interval:
    """Mean over the prompts of the share of images that are hit, for these prompts.

    Args:
        hits: True or False for each row of `part`.
        part: Rows of the plan.
        shared: Whether all prompts share the same seeds; the interval is then clustered by seed.
    """
    if shared:
        return mean_share_by_seed(hits, part["prompt"], part["seed"], "this suite")
    by_prompt = hits.groupby(part["prompt"])
    return mean_share_over_prompts(
        by_prompt.sum().tolist(), by_prompt.count().tolist(), "this suite"
    )


def clustered(part: pd.DataFrame, shared: bool) -> str:
    """What a note must say of shared seeds; '' where every image has noise of its own."""
    return f"; {sharing_note(part['seed'].nunique())}" if shared else ""


def intersections(
    frames: Mapping[str, pd.DataFrame], spec: Spec, classifier: str
) -> tuple[list[Finding], list[Figure]]:
    """For each two attributes: how images fall on their combinations, by arm."""
    named = {a.name: a for a in spec.attributes}
    findings, figures = [], []
    for one, two in combinations(frames, 2):
        rows = []
        for arm, part in frames[one].groupby("arm", sort=False):
            other = frames[two].loc[part.index, "outcome"]
            table = (
                pd.crosstab(part["outcome"], other)
                .reindex(index=named[one].class_names, columns=named[two].class_names)
                .fillna(0)
                .astype(int)
            )
            n = int(table.to_numpy().sum())
            for a in table.index:
                for b in table.columns:
                    told = part["outcome"].isin(table.index) & other.isin(table.columns)
                    hit = ((part["outcome"] == a) & (other == b))[told]
                    share = mean_share(hit, part[told], spec.seeds.shared)
                    rows.append((arm, a, b, int(table.loc[a, b]), *share))
            findings.append(_association(table, part, one, two, classifier, n))
        figures.append(
            Figure(
                f"intersection/{classifier}/{one}/{two}",
                "table",
                pd.DataFrame(rows, columns=["arm", one, two, "images", "share", "low", "high"]),
                f"{named[one].title or one} by {named[two].title or two}: images of each "
                "combination, as counted, with the mean of the prompts' shares and its 95 % "
                "interval for these prompts.",
                f"Counts of images by {one} and {two}.",
                subject={"attribute": one, "by": two},
            )
        )
    return findings, figures


def _association(
    table: pd.DataFrame, part: pd.DataFrame, one: str, two: str, classifier: str, n: int
) -> Finding:
    kept = table.loc[table.sum(axis=1) > 0, table.sum(axis=0) > 0].to_numpy()
    base = Finding(
        id=f"{PROBE}/association/{classifier}/{one}/{two}/{part['arm'].iloc[0]}",
        probe=PROBE,
        metric=ASSOCIATION,
        subject=subject_of(part, f"{one} by {two}"),
        n=n,
        n_clusters=part["prompt"].nunique(),
        instrument=classifier,
    )
    if min(kept.shape, default=0) < 2:
        return base.not_measured("all images are of one class")
    found = association_interval(kept)
    return replace(
        base,
        value=found.value,
        low=found.low,
        high=found.high,
        reference=Reference(null=found.null),
        estimator="Cramér's V, interval by noncentral chi-squared; images of a prompt taken as "
        "independent",
        note="mixes prompts: two attributes that both depend on the prompt are associated",
    )


def disagreement(
    frames: Mapping[str, Mapping[str, pd.DataFrame]], shared: bool = False
) -> tuple[list[Finding], list[Figure]]:
    """How often two classifiers count the same image differently.

    Args:
        frames: Outcomes by classifier and attribute, of the same images in the same order.
        shared: Whether all prompts share the same seeds.
    """
    findings, rows = [], []
    for one, two in combinations(frames, 2):
        for attribute, first in frames[one].items():
            second = frames[two].get(attribute)
            if second is None:
                continue
            both = first["outcome"].notna() & second["outcome"].notna()
            for arm, part in first[both].groupby("arm", sort=False):
                other = second.loc[part.index, "outcome"]
                share = mean_share(part["outcome"] != other, part, shared)
                findings.append(
                    Finding(
                        id=f"{PROBE}/disagreement/{attribute}/{one}/{two}/{arm}",
                        probe=PROBE,
                        metric=DISAGREEMENT,
                        subject=subject_of(part, attribute),
                        value=share.value,
                        low=share.low,
                        high=share.high,
                        n=len(part),
                        n_clusters=part["prompt"].nunique(),
                        instrument=f"{one} and {two}",
                        note="no classifier is the truth: label the images they disagree on"
                        + clustered(part, shared),
                    )
                )
                crossed = pd.crosstab(part["outcome"], other)
                rows += [
                    (attribute, arm, a, b, int(crossed.loc[a, b]))
                    for a in crossed.index
                    for b in crossed.columns
                ]
    if not rows:
        return findings, []
    table = pd.DataFrame(rows, columns=["attribute", "arm", "first says", "second says", "images"])
    caption = "What two classifiers say of the same images."
    return findings, [Figure("disagreement", "table", table, caption, caption)]


def difference_of_arms(
    both: Compared,
    key: str,
    metric: MetricSpec,
    subject: dict[str, str],
    instrument: str,
    family: str,
) -> list[Finding]:
    """The difference for both estimands; that of this suite is a test of the report."""
    findings = []
    notes = both.notes if len(both.n_a) else ["no prompt has images in both arms", *both.notes]
    for estimand in ESTIMANDS:
        found = both.difference(estimand, metric.span)
        suite = estimand == "this suite"
        findings.append(
            Finding(
                id=f"{PROBE}/{key}/{slug(estimand)}",
                probe=PROBE,
                metric=metric,
                subject=subject,
                value=found.value,
                low=found.low,
                high=found.high,
                estimand=estimand,
                estimator=both.estimator,
                headline=suite,
                n=len(both.a),
                n_clusters=len(both.n_a),
                reference=Reference(0.0, 0.0),
                p=found.p if suite else nan,
                family=family if suite else "",
                instrument=instrument,
                status="measured" if len(both.n_a) else "not-measured",
                note="; ".join(notes),
                planned=both.planned,
                reading="as counted" if metric.unit == "share" else "",
            )
        )
    return findings
