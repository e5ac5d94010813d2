"""The VAE on trial: what it costs images, and which groups' images it costs more.

The reference of an image is what the first VAE of the spec made of the same latents or, in a
round trip, the original. Errors, colour, skin and attributes are all paired by image, so a
VAE against its own copy gives exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, log10, nan

import pandas as pd

from harness.spec.schema import Spec
from harness.text import slug
from probes.attributes.outcomes import outcome_frame, readings, reported_classes
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
from probes.instruments.skin import Skin
from probes.registry import register
from probes.vae.effects import Measure
from probes.vae.fidelity import Fidelity
from probes.vae.group_disparity import against, describe, disparities, of_groups, with_clusters
from probes.vae.metrics import (
    DECODE_SWAP,
    DELTA_E,
    DETAIL_LOSS,
    FIDELITY,
    LIGHTNESS_SHIFT,
    LPIPS,
    MS_SSIM,
    PSNR,
    SKIN,
    SQUARED_ERROR,
)

PROBE = "vae"
MOST_COMPARED = 60
"""Rows of the table of groups."""


@register
class Vae(Probe[ProbeOptions]):
    """Round trips and decode swaps, paired by image."""

    name = PROBE

    def instruments(self, options: ProbeOptions, spec: Spec) -> Sequence[Instrument]:
        """Fidelity to the reference, and the colour of skin where there are masks."""
        return (Fidelity(), Skin())

    def analyse(self, given: AnalysisInput[ProbeOptions]) -> Result:
        """Errors and shifts by VAE, their disparity between groups, and VAE against VAE."""
        tables, plan, labels, spec, _ = given
        first = next(iter(spec.vaes))
        if plan["vae"].nunique() < 2:
            return Result([_one_vae(first)])
        frame, moves = paired(tables, plan, labels, spec, first)
        groups = groups_of(tables, plan, labels, spec, first)
        measured = [Measure(m) for m in (*FIDELITY, *SKIN) if frame[m.column].notna().any()]
        findings: list[Finding] = []
        for part, measures in ((frame, measured), (frame, moves)):
            findings += describe(part, measures, PROBE, "pixels")
            findings += of_groups(part, groups, measures, PROBE, "pixels")
            findings += disparities(part, groups, measures, PROBE, "pixels")
        others = list(dict.fromkeys(frame["vae"]))
        if len(others) > 1:
            measures = [*measured, *moves]
            apart = against(frame, measures, others[0])
            findings += describe(apart, measures, PROBE, "pixels")
            findings += disparities(apart, groups, measures, PROBE, "pixels")
        findings = [g for f in findings for g in _with_decibels(f)]
        missing = sorted({*FIDELITY, *SKIN} - {m.metric for m in measured})
        findings += [_not_measured(metric) for metric in missing]
        return Result(findings, _figures(findings))


def paired(
    tables: Mapping[str, pd.DataFrame],
    plan: pd.DataFrame,
    labels: pd.DataFrame,
    spec: Spec,
    first: str,
) -> tuple[pd.DataFrame, list[Measure]]:
    """Every image of every VAE but the first, with its numbers against the first's.

    Returns:
        The plan's rows with `arm`, `cluster` and a column a measure, and the measures of
        attributes: 1 where an image moved into a class, -1 where it left it, else 0.
    """
    plan = with_clusters(plan)
    scores = tables["fidelity"].drop_duplicates("cell").set_index("cell")
    for m in FIDELITY:
        plan[m.column] = plan["cell"].map(scores[m.column]) if m.column in scores else nan
    skin = tables["skin"].drop_duplicates("cell").set_index("cell")
    for m, column in zip(SKIN, ("lightness", "ita"), strict=True):
        colour = plan["cell"].map(skin[column]) if column in skin else nan
        plan[m.column] = _minus_first(plan.assign(value=colour), first)
    moves = []
    for attribute, classifier, instrument in readings(spec):
        if instrument not in tables:  # the spec does not name the probe `attributes`
            continue
        told = outcome_frame(tables, plan, labels, attribute, instrument, classifier)
        known = told["outcome"].isin(attribute.class_names)
        for one in reported_classes(attribute):
            hits = (told["outcome"] == one).astype(float).where(known)
            column = f"{instrument}: {one}"
            plan[column] = _minus_first(plan.assign(value=hits), first)
            name = f"change of share, {column}"
            moved = MetricSpec(name, "shift", "share", None, column, 2.0)
            moves.append(Measure(moved, own_reading(instrument)))
    return plan[plan["vae"] != first].reset_index(drop=True), moves


def groups_of(
    tables: Mapping[str, pd.DataFrame],
    plan: pd.DataFrame,
    labels: pd.DataFrame,
    spec: Spec,
    first: str,
) -> pd.DataFrame:
    """Labels by trajectory: people's, the prompts' groups, else what the classifiers tell.

    Classifiers see the first VAE's image, never the one that is judged.
    """
    base = plan[plan["vae"] == first].drop_duplicates("trajectory").set_index("trajectory")
    groups = pd.DataFrame(index=base.index)
    cells = dict(zip(plan["cell"], plan["trajectory"], strict=True))
    of_people = labels.assign(trajectory=labels["cell"].map(cells)).dropna(subset=["trajectory"])
    for name, part in of_people.groupby("attribute", sort=False):
        known = part.drop_duplicates("trajectory").set_index("trajectory")["class"]
        groups[str(name)] = groups.index.map(known)
    if base["group"].nunique() > 1:
        groups["prompt group"] = base["group"]
    for attribute, classifier, instrument in readings(spec):
        if attribute.name in groups or instrument not in tables:
            continue
        told = outcome_frame(
            tables, base.reset_index(), labels, attribute, instrument, classifier
        ).set_index("trajectory")["outcome"]
        groups[own_reading(instrument)] = told.where(told.isin(attribute.class_names))
    return groups


def own_reading(instrument: str) -> str:
    """The label of the groups that an instrument itself reads."""
    return f"{instrument} as told"


def _minus_first(plan: pd.DataFrame, first: str) -> pd.Series:
    base = plan[plan["vae"] == first].drop_duplicates("trajectory")
    known = base.set_index("trajectory")["value"]
    return plan["value"] - plan["trajectory"].map(known)


def _with_decibels(finding: Finding) -> list[Finding]:
    """A mean squared error is told as PSNR too; of equal images there is none."""
    plain = finding.metric == SQUARED_ERROR
    if not plain or finding.status != "measured" or not finding.value > 0:
        return [finding]
    return [
        finding,
        replace(
            finding,
            id=finding.id.replace(slug(SQUARED_ERROR.name), slug(PSNR.name), 1),
            metric=PSNR,
            value=-10 * log10(finding.value),
            low=-10 * log10(finding.high) if finding.high > 0 else nan,
            high=-10 * log10(finding.low) if finding.low > 0 else nan,
            estimator=f"of the mean squared error: {finding.estimator}",
            reference=Reference(),
            p=nan,
            family="",
            headline=True,
        ),
    ]


def _figures(findings: list[Finding]) -> list[Figure]:
    charted = (PSNR, DELTA_E, DETAIL_LOSS, LIGHTNESS_SHIFT)
    rows = [
        (f.subject["arm"], f.value, f.low, f.high, f.metric)
        for f in findings
        if f.metric in charted
        and f.status == "measured"
        and not {"baseline", "group"} & {*f.subject}
    ]
    figures = []
    for metric in charted:
        table = pd.DataFrame(
            [r[:4] for r in rows if r[4] == metric], columns=["label", "value", "low", "high"]
        )
        if len(table):
            figures.append(
                Figure(
                    f"vae/{slug(metric.name)}",
                    "bar",
                    table.assign(group=""),
                    f"{metric.name} by VAE, against the reference image, with 95 % intervals.",
                    f"{metric.name}: a dot with an interval for each VAE.",
                )
            )
    compared = [f for f in findings if "against" in f.subject and f.family and isfinite(f.p)]
    compared.sort(key=lambda f: f.p)
    if compared:
        table = pd.DataFrame(
            [
                {
                    "VAE": f.subject["arm"],
                    "against": f.subject.get("baseline", "the reference"),
                    "metric": f.metric.name,
                    "group": f"{f.subject['group']}: {f.subject['class']}",
                    "extra": f.value,
                    "low": f.low,
                    "high": f.high,
                    "unit": f.metric.unit,
                    "p alone": f.p,
                    "how": f.estimator,
                }
                for f in compared[:MOST_COMPARED]
            ]
        )
        caption = (
            "How much more each group's images shift than all others', those with the least p "
            "first. This p is that of each test alone; the verdicts, after adjustment over all "
            "tests, stand beside the findings."
        )
        figures.append(Figure("vae/who-pays", "table", table, caption, caption))
    return figures


def _one_vae(first: str) -> Finding:
    return Finding(
        id=f"{PROBE}/none",
        probe=PROBE,
        metric=DECODE_SWAP,
        subject={"vae": first},
        status="not-measured",
        note="one VAE alone: name a second one under `vaes` to compare, or take "
        "`audit vae IMAGES` for its round trip",
    )


def _not_measured(metric: MetricSpec) -> Finding:
    notes = {
        LPIPS: "weights missing: LPIPS and its backbone are an extra, and nothing is fetched",
        MS_SSIM: "the images are too small for its scales",
    }
    note = notes.get(metric, "no skin masks are given")
    return Finding(
        id=f"{PROBE}/{slug(metric.name)}",
        probe=PROBE,
        metric=metric,
        status="not-measured",
        note=note,
    )
