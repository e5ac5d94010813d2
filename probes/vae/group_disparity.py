"""What one VAE makes of the same images as another: shifts, their disparity between groups.

Every image is its own control: the numbers are those of one arm, against its reference, and
compared between arms image by image. A group pays more where its images shift more than
those of the others. Who is compared with whom: images that agree in all other labels, or in
the prompt, where at least ten such matches exist; otherwise all with all.

A number can be claimed only beyond its resolution: what rounding to 8 bits alone could do. That
is what it is tested against. Groups may come from people's labels, from the prompts or from an
instrument; but images that a classifier reads as X can, by that classifier, only lose X, so its own
readings before and after, by groups of its own reading, are described and never tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.plan.cells import arm_labels
from harness.text import slug
from probes.contracts import Finding, Reference
from probes.vae.effects import Effect, Measure, estimand_of, matched, mean_effect, unmatched
from probes.vae.metrics import extra

OWN_READING = (
    "the groups are this instrument's own reading, and what it reads as a class can only leave it: "
    "described, not tested"
)


def with_clusters(plan: pd.DataFrame) -> pd.DataFrame:
    """The plan with `arm`, and `cluster`: the prompt, or the image where it was given."""
    given = plan["kind"] != "made"
    return plan.assign(
        arm=arm_labels(plan), cluster=plan["trajectory"].where(given, plan["prompt"])
    )


def describe(
    rows: pd.DataFrame, measures: Iterable[Measure], probe: str, instrument: str
) -> list[Finding]:
    """The mean of every measure by arm, over all images.

    Args:
        rows: one row an image and arm: trajectory, arm, checkpoint, vae, cluster, and the
            measures' columns (NaN: not measured).
        measures: which columns.
        probe: name of the probe.
        instrument: name of what measured.
    """
    findings = []
    measures = list(measures)
    for _, part in rows.groupby("arm", sort=False):
        subject, lean = _subject(part), _lean(part, measures)
        for m in measures:
            effect = mean_effect(lean, m)
            blank = _finding(subject, m, probe, instrument)
            finding = replace(
                _filled(blank, effect),
                headline=True,
                estimand=estimand_of(lean),
                n_clusters=effect.clusters,
            )
            tested = not m.level or "against" in part
            family = _family(probe, subject)
            findings.append(_tested(finding, m, family) if tested else _described(finding))
    return findings


def of_groups(
    rows: pd.DataFrame,
    groups: pd.DataFrame,
    measures: Sequence[Measure],
    probe: str,
    instrument: str,
) -> list[Finding]:
    """The mean of every measure in each class of each label, by arm; arguments as below."""
    findings = []
    for _, part in rows.groupby("arm", sort=False):
        held, subject = part.join(groups, on="trajectory"), _subject(part)
        lean, estimand = _lean(held, measures), estimand_of(part)
        for label in groups.columns:
            told = held[label].astype(str).to_numpy(object)
            for name in sorted({str(v) for v in groups[label].dropna().unique()} - {""}):
                own = lean[told == name]
                for m in measures:
                    blank = _finding(subject, m, probe, instrument)
                    blank = replace(
                        blank,
                        id=f"{blank.id}/{slug(label)}/{slug(name)}/own",
                        subject=blank.subject | {"group": label, "class": name},
                        estimand=estimand,
                    )
                    effect = mean_effect(own, m)
                    found = _described(_filled(blank, effect))
                    found = replace(found, n_clusters=effect.clusters)
                    findings.append(_of_own_reading(found) if label == m.own_group else found)
    return findings


def disparities(
    rows: pd.DataFrame,
    groups: pd.DataFrame,
    measures: Sequence[Measure],
    probe: str,
    instrument: str,
) -> list[Finding]:
    """How much more each group's images shift than the others', by arm.

    Args:
        rows: as in `describe`.
        groups: labels by trajectory (index), one column a label; empty strings and NaN are
            images without that label.
        measures: which columns.
        probe: name of the probe.
        instrument: name of what measured.

    Returns:
        A finding for every arm, measure and class of every label. Those of an arm and a label
        are a family of tests; a measure by groups of its own instrument's reading is no test.
    """
    findings = []
    for _, part in rows.groupby("arm", sort=False):
        held, subject = part.join(groups, on="trajectory"), _subject(part)
        labels = list(groups.columns)
        lean = _lean(held, measures)
        for label in labels:
            lean[label] = held[label].map(str, na_action="ignore").astype("category")
        for label in labels:
            told = lean[lean[label].notna() & (lean[label] != "")]
            others = [c for c in labels if c != label]
            family = _family(probe, subject, label)
            for name in classes_of(groups[label]):
                inside = (told[label] == name).to_numpy()
                for m in measures:
                    blank = _finding(subject, m, probe, instrument)
                    found = _disparity(told, inside, others, label, name, m, blank)
                    if label == m.own_group:
                        found = _of_own_reading(_described(found))
                    else:
                        found = _tested(found, m, family)
                    findings.append(found)
    return findings


def against(rows: pd.DataFrame, measures: Iterable[Measure], base: str) -> pd.DataFrame:
    """Every other VAE's numbers minus those of the VAE `base` on the same image."""
    columns = [m.metric.column for m in measures]
    own = rows[rows["vae"] == base].drop_duplicates("trajectory").set_index("trajectory")[columns]
    others = rows[rows["vae"] != base].assign(against=base)
    others[columns] = others[columns].to_numpy(float) - own.reindex(others["trajectory"]).to_numpy(
        float
    )
    return others


def classes_of(labels: pd.Series) -> list[str]:
    """The classes that findings name: of two, the second in order says all."""
    known = sorted({str(v) for v in labels.dropna().unique()} - {""})
    return known[1:] if len(known) == 2 else known


def _lean(part: pd.DataFrame, measures: Iterable[Measure]) -> pd.DataFrame:
    """What the arithmetic needs: columns of text are left out, since they are slow to pick from."""
    kept = part[[m.metric.column for m in measures]].astype(float)
    for name in ("cluster", "trajectory"):
        kept[name] = pd.factorize(part[name])[0]
    return kept.assign(against=True) if "against" in part else kept


def _disparity(
    told: pd.DataFrame,
    inside: NDArray[np.bool_],
    others: list[str],
    label: str,
    name: str,
    m: Measure,
    blank: Finding,
) -> Finding:
    """What the images `inside` the class `name` shift more than the rest of `told`."""
    x = told[m.metric.column].to_numpy()
    seen = ~np.isnan(x)
    x, inside, cluster = x[seen], inside[seen], told["cluster"].to_numpy()[seen]
    blank = replace(
        blank,
        id=f"{blank.id}/{slug(label)}/{slug(name)}",
        metric=extra(blank.metric),
        subject=blank.subject | {"group": label, "class": name, "against": "all others"},
        estimand="images like these",
        reference=Reference(null=0.0),
    )
    one = int(inside.sum())
    rest = len(inside) - one
    if min(one, rest) < 2:
        why = f"images of {name!r}: {one}, others: {rest}; at least two of each are needed"
        return replace(blank, n=one).not_measured(why)
    effect = None
    if len(np.unique(cluster)) < len(cluster):
        effect = matched(x, inside, cluster, "prompt", m)
    else:
        known = told.loc[seen, others]
        keys = [c for c in others if known[c].notna().all()]
        if keys:
            alike = known.groupby(keys, sort=False, observed=True).ngroup().to_numpy()
            effect = matched(x, inside, alike, ", ".join(keys), m)
    effect = effect or unmatched(x[inside], x[~inside], m)
    return replace(_filled(blank, effect), n_clusters=effect.clusters)


def _subject(part: pd.DataFrame) -> dict[str, str]:
    """Of which arm, and against which VAE."""
    first = part.iloc[0]
    subject = {k: str(first[k]) for k in ("checkpoint", "vae", "arm")}
    return subject | ({"baseline": str(first["against"])} if "against" in part else {})


def _finding(subject: dict[str, str], m: Measure, probe: str, instrument: str) -> Finding:
    versus = f"/{slug(subject['baseline'])}" if "baseline" in subject else ""
    return Finding(
        id=f"{probe}/{slug(m.metric.name)}/{subject['arm']}{versus}",
        probe=probe,
        metric=m.metric.difference() if versus else m.metric,
        subject=subject,
        reference=Reference(null=nan if m.level and not versus else 0.0),
        instrument=instrument,
    )


def _family(probe: str, subject: dict[str, str], label: str = "") -> str:
    """The family of tests: an arm, what it is held against, and the label of the groups."""
    against = f" against {subject['baseline']}" if "baseline" in subject else ""
    groups = f"/by {label}" if label else ""
    return f"{probe}/{subject['arm']}{against}{groups}"


def _tested(found: Finding, m: Measure, family: str) -> Finding:
    """The finding as a test of the report, of whether it goes beyond the resolution."""
    return replace(
        found,
        headline=True,
        family=family,
        reference=found.reference._replace(value=m.metric.resolution),
    )


def _described(found: Finding) -> Finding:
    """The finding with its interval and without a test."""
    return replace(found, headline=False, p=nan)


def _of_own_reading(found: Finding) -> Finding:
    """Say that zero is not what such groups score without an effect."""
    return replace(
        found, reference=Reference(), note="; ".join(filter(None, [OWN_READING, found.note]))
    )


def _filled(blank: Finding, effect: Effect) -> Finding:
    measured = np.isfinite(effect.value) or effect.value == inf
    return replace(
        blank,
        value=effect.value,
        low=effect.low,
        high=effect.high,
        p=effect.p,
        n=effect.n,
        estimator=effect.estimator,
        note=effect.note,
        status="measured" if measured else "not-measured",
    )
