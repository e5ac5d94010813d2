"""Attribute bias: what share of a prompt's images shows each class, and how sure that is.

Shares come three ways. As counted: of the images whose class the instrument told. Corrected
for the instrument's confusion matrix (`probes.statistics.corrected_shares`). Prediction-powered,
where people labelled some of this run's own images. The distance from the target is total
variation, beside what a model that meets the target scores at this n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from harness.plan.cells import arm_labels
from harness.spec.attributes import AttributeSpec
from harness.spec.schema import Spec
from harness.text import slug
from probes.attributes.arm_comparison import attrition, compare_arms, disagreement, intersections
from probes.attributes.guards import guards
from probes.attributes.human_labels import agreement_figure, with_labels
from probes.attributes.metrics import (
    AREA_SCORED,
    CORRECTED_SHARE,
    MEAN_TOTAL_VARIATION,
    SHARE,
)
from probes.attributes.outcomes import (
    measured_errors,
    monk_frame,
    outcome_frame,
    prompt_targets,
    readings,
    subject_of,
)
from probes.attributes.prompt_shares import by_prompt
from probes.attributes.shares import over_prompts
from probes.contracts import AnalysisInput, Figure, Finding, Instrument, Probe, ProbeOptions, Result
from probes.instruments import kinds
from probes.instruments.clip import ClipAttribute, ClipLikeness, ClipModel
from probes.instruments.crops import fit_of
from probes.instruments.skin import Skin
from probes.registry import register

PROBE = "attributes"
FITTED = {
    "crop": "{cut} images are not square; the classifier saw the square in their middle alone",
    "pad": "images that are not square were filled up to a square",
    "resize": "images that are not square were resized to a square, without their proportions",
    "crops": "of images that are not square the classifier saw the mean over overlapping squares",
}
"""What is said of images that are not square, by the fit."""


@register
class Attributes(Probe[ProbeOptions]):
    """Every attribute of the spec, by every classifier of the spec."""

    name = PROBE

    def instruments(self, options: ProbeOptions, spec: Spec) -> Sequence[Instrument]:
        """One for each classifier and attribute, and one for likeness to the prompt."""
        made: list[Instrument] = []
        for name, classifier in spec.classifiers.items():
            model = ClipModel(name, classifier, fit_of(classifier, spec))
            made.append(ClipLikeness(model))
            made += [ClipAttribute(model, a) for a in spec.attributes if a.by_clip]
        made += kinds.instruments(spec)
        if any(a.by_colour for a in spec.attributes):
            made.append(Skin())
        return tuple(made)

    def analyse(self, given: AnalysisInput[ProbeOptions]) -> Result:
        """Shares, distances, comparisons of arms, attrition, disagreement and guards."""
        tables, plan, labels, spec, _ = given
        plan = plan.assign(arm=arm_labels(plan))
        findings: list[Finding] = []
        figures: list[Figure] = []
        for attribute in spec.attributes:
            if attribute.by_colour:
                frame = monk_frame(tables, plan, labels, attribute)
                if frame["outcome"].isna().all():
                    findings.append(_needs_mask(attribute))
                    continue
                found, shown = analyse_attribute(tables, frame, attribute, Skin.name, spec, labels)
                findings += found
                figures += shown
        frames: dict[str, dict[str, pd.DataFrame]] = {slug(name): {} for name in spec.classifiers}
        for attribute, classifier, instrument in readings(spec):
            frame = outcome_frame(tables, plan, labels, attribute, instrument, classifier)
            frames.setdefault(instrument.partition(".")[0], {})[attribute.name] = frame
            found, shown = analyse_attribute(tables, frame, attribute, instrument, spec, labels)
            findings += found
            figures += shown
        for name, by_attribute in crossed(frames, spec).items():
            found, shown = intersections(by_attribute, spec, name)
            findings += found
            figures += shown
        for name in map(slug, spec.classifiers):
            findings += guards(tables, plan, spec, name)
            findings += images_cut(tables, plan, spec, name)
        for attribute in spec.attributes:
            figures += agreement_figure(labels, attribute)
        found, shown = disagreement(frames, spec.seeds.shared)
        return Result(findings + found, figures + shown)


def crossed(
    frames: Mapping[str, Mapping[str, pd.DataFrame]], spec: Spec
) -> dict[str, dict[str, pd.DataFrame]]:
    """Which outcomes are crossed with each other: a classifier's, and all that instruments read.

    Args:
        frames: Outcomes by classifier or instrument and attribute.
        spec: The spec.
    """
    classifiers = [slug(name) for name in spec.classifiers]
    own: dict[str, pd.DataFrame] = {}
    for name, by_attribute in frames.items():
        if name not in classifiers:
            own |= by_attribute
    if not classifiers:
        return {"instruments": own}
    first = {classifiers[0]: own | dict(frames[classifiers[0]])}
    return first | {name: dict(frames[name]) for name in classifiers[1:]}


def analyse_attribute(
    tables: Mapping[str, pd.DataFrame],
    frame: pd.DataFrame,
    attribute: AttributeSpec,
    instrument: str,
    spec: Spec,
    labels: pd.DataFrame,
) -> tuple[list[Finding], list[Figure]]:
    """All that is said of one attribute by one instrument."""
    targets = prompt_targets(tables, attribute)
    drawn = tables.get(f"drawn.{attribute.name}")
    findings: list[Finding] = []
    known, shared = False, spec.seeds.shared
    for _, part in frame.groupby("arm", sort=False):
        errors = None
        if "errors" in tables:
            errors = measured_errors(tables["errors"], attribute, instrument, part)
        known |= errors is not None
        findings += by_prompt(part, attribute, instrument, targets, errors, shared)
        findings += over_prompts(part, attribute, instrument, targets, shared, errors is None)
        findings += with_labels(part, attribute, instrument, labels, drawn, shared, targets)
    if not known:
        findings.append(
            Finding(
                id=f"{PROBE}/corrected-share/{instrument}",
                probe=PROBE,
                metric=CORRECTED_SHARE,
                subject={"attribute": attribute.name},
                instrument=instrument,
                status="not-measured",
                note="no confusion matrix of this instrument: label some images and name the "
                "table as `confusion_matrix` in the spec; until then shares are as counted",
            )
        )
    findings += compare_arms(frame, attribute, instrument, spec)
    findings += attrition(frame, attribute, instrument, shared)
    chart = pd.DataFrame(
        [
            {"label": f.subject["prompt"], "value": f.value, "low": f.low, "high": f.high}
            | {
                "group": f.subject["arm"],
                "facet": f.subject["class"],
                "target": f.reference.value,
                "n": f.n,
            }
            for f in findings
            if f.metric == SHARE and f.status == "measured"
        ],
        columns=["label", "value", "low", "high", "group", "facet", "target", "n"],
    )
    title = attribute.title or attribute.name
    figures = [
        Figure(
            f"shares/{instrument}",
            "bar",
            chart,
            f"{title}: share of each prompt's images, as counted by {instrument}, with 95 % "
            "intervals; the dashed line is the target.",
            f"{title}: dots with intervals, one for each prompt and model, beside the target.",
            subject={"attribute": attribute.name, "instrument": instrument},
        )
    ]
    ranking = _ranking(findings, instrument, title)
    return findings, figures + ranking


def _ranking(findings: list[Finding], instrument: str, title: str) -> list[Figure]:
    rows = [
        (f.subject["arm"], f.value, f.low, f.high, f.subject["checkpoint"], f.reference.null)
        for f in findings
        if f.metric == MEAN_TOTAL_VARIATION
    ]
    if len(rows) < 2:
        return []
    table = pd.DataFrame(rows, columns=["label", "value", "low", "high", "group", "target"])
    return [
        Figure(
            f"ranking/{instrument}",
            "bar",
            table.sort_values("value", ignore_index=True),
            f"{title}: mean total variation from the target over the prompts, with 95 % intervals "
            "for prompts like these; the dashed line is what models on target would score at "
            "this n.",
            f"{title}: models ranked by their mean distance from the target.",
            subject={"instrument": instrument},
            ranking=True,
        )
    ]


def images_cut(
    tables: Mapping[str, pd.DataFrame], plan: pd.DataFrame, spec: Spec, classifier: str
) -> list[Finding]:
    """By arm, what a classifier saw of images that are not square; nothing where all are."""
    scores = tables[f"{classifier}.likeness"]
    if "seen" not in scores:
        return []
    fits = {slug(name): fit_of(one, spec) for name, one in spec.classifiers.items()}
    seen = plan["cell"].map(scores.drop_duplicates("cell").set_index("cell")["seen"])
    findings = []
    for arm, part in plan.assign(seen=seen).groupby("arm", sort=False):
        known = part["cell"].isin(scores["cell"])
        uneven = part["seen"].notna() & (part["seen"] < 1)
        subject = subject_of(part, "")
        subject.pop("attribute")
        findings.append(
            Finding(
                id=f"{PROBE}/image-area-scored/{classifier}/{arm}",
                probe=PROBE,
                metric=AREA_SCORED,
                subject=subject,
                value=float(part.loc[known, "seen"].fillna(1).mean()),
                estimator="mean over images",
                n=int(known.sum()),
                n_clusters=part["prompt"].nunique(),
                instrument=f"{classifier}.likeness",
                note=FITTED[fits[classifier]].format(cut=int(uneven.sum())),
            )
        )
    return findings


def _needs_mask(attribute: AttributeSpec) -> Finding:
    return Finding(
        id=f"{PROBE}/share/{attribute.name}",
        probe=PROBE,
        metric=SHARE,
        subject={"attribute": attribute.name},
        instrument="colorimetry",
        status="not-measured",
        note="skin colour is measured inside a skin mask only, and no masks are given",
    )
