"""Dose and response: negatives one by one, guidance, and how much each factor explains.

The first k of an ordered list of negatives on the same prompts and seeds: what each dose does to
an attribute, to likeness to the prompt and to diversity, and from which dose on one more negative
pulls the other way. Guidance is a dose like any other: it sharpens shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf, nan

import numpy as np
import pandas as pd

from harness.hashing import canonical_digest
from harness.plan.cells import Cell
from harness.spec.schema import Spec
from harness.text import slug
from probes.attributes.metrics import DIVERSITY, LIKENESS
from probes.attributes.outcomes import outcome_frame, readings, reported_classes
from probes.contracts import (
    AnalysisInput,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    Reference,
    Result,
)
from probes.negatives.dose_response import (
    DOSE,
    PROBE,
    SETTING,
    blank,
    changes,
    responses,
    setting_of,
)
from probes.negatives.options import NegativesOptions
from probes.registry import register
from probes.statistics.variance import explained_variance

EXPLAINED = MetricSpec("variance explained", unit="of variance", span=1.0)
LIKENESS_CHANGE = LIKENESS.difference()._replace(span=inf)
DIVERSITY_CHANGE = DIVERSITY.difference()._replace(span=inf)
FACTORS = ("prompt", "negative", "vae", "guidance", "seed")


@register
class NegativesProbe(Probe[NegativesOptions]):
    """What negatives and guidance do, dose by dose."""

    name = PROBE
    Options = NegativesOptions

    def instruments(self, options: NegativesOptions, spec: Spec) -> Sequence[Instrument]:
        """None of its own: the classifiers come with the probe `attributes`."""
        return ()

    def extra_cells(
        self, options: NegativesOptions, spec: Spec, plan: pd.DataFrame
    ) -> Iterable[Cell]:
        """Every guided prompt and seed with the first k negatives, by the first VAE."""
        first = (plan["vae"] == next(iter(spec.vaes))) & (plan["guidance"] > 1)
        own = plan[first].drop_duplicates(["prompt", "seed", *SETTING])
        doses = options.doses() if options.negatives else []
        for row in own.itertuples(index=False):
            cell = Cell(*row)
            for k in doses:
                text = ", ".join(options.negatives[:k])
                about = {"from": cell.trajectory, "negative": text}
                trajectory = cell.trajectory
                if text != cell.negative_text:
                    trajectory = canonical_digest(about)
                yield cell._replace(
                    cell=cell.cell
                    if trajectory == cell.trajectory
                    else canonical_digest({"trajectory": trajectory, "vae": cell.vae_file}),
                    trajectory=trajectory,
                    kind=DOSE,
                    requested_by=PROBE,
                    negative=dose_name(k),
                    negative_text=text,
                )

    def analyse(self, given: AnalysisInput[NegativesOptions]) -> Result:
        """Doses of negatives, doses of guidance, variance explained."""
        tables, plan, labels, spec, options = given
        findings: list[Finding] = []
        figures: list[Figure] = []
        if not any(readings(spec)) or "attributes" not in spec.probes:
            note = "no classifier looks at these images: add the probe attributes"
            return Result([blank("effect", {}).not_measured(note)])
        by_text = {", ".join(options.negatives[:k]): float(k) for k in options.doses()}
        doses = plan[plan["kind"] == DOSE]
        doses = doses.assign(dose=doses["negative_text"].map(by_text))
        for attribute, classifier, instrument in readings(spec):
            frame = outcome_frame(tables, plan, labels, attribute, instrument, classifier)
            frame = frame.assign(dose=frame["negative_text"].map(by_text))
            grid = frame[frame["requested_by"] == ""]
            for factor, rows in (
                ("dose", frame[frame["kind"] == DOSE]),
                ("guidance", grid[grid["vae"] == next(iter(spec.vaes))]),
            ):
                found, shown = responses(rows, factor, attribute, instrument, tables.get("errors"))
                findings += found
                figures += shown
            for each in reported_classes(attribute):
                about = {"attribute": attribute.name, "class": each}
                findings += explained(grid, about, instrument)
        for name in spec.classifiers:
            findings += _likeness(tables, doses, slug(name))
        return Result(findings, figures)


def dose_name(k: int) -> str:
    """'no negatives', 'first 3 negatives'."""
    return f"first {k} negatives" if k else "no negatives"


def explained(grid: pd.DataFrame, about: dict[str, str], instrument: str) -> list[Finding]:
    """How much of a class's variance each crossed factor of the grid explains, by checkpoint."""
    findings = []
    for checkpoint, part in grid.dropna(subset=["outcome"]).groupby("checkpoint", sort=False):
        subject = {"checkpoint": str(checkpoint)} | about
        y = (part["outcome"] == about["class"]).astype(float)
        for found in explained_variance(part.assign(y=y), FACTORS):
            findings.append(
                replace(
                    blank(f"variance/{instrument}", subject | {"factor": found.factor}),
                    metric=EXPLAINED,
                    value=found.share,
                    low=found.low,
                    high=found.high,
                    reference=Reference(null=found.chance),
                    n=found.n,
                    n_clusters=found.prompts,
                    estimator="sums of squares of the crossed grid; bootstrap over prompts",
                    instrument=instrument,
                )
            )
    return findings


def _likeness(
    tables: Mapping[str, pd.DataFrame], doses: pd.DataFrame, classifier: str
) -> list[Finding]:
    """Change of likeness to the prompt, and of diversity between a prompt's seeds, by dose."""
    table = tables.get(f"{classifier}.likeness")
    if table is None or not len(table) or not len(doses):
        return []
    own = doses.merge(table.drop_duplicates("cell"), on="cell")
    findings = []
    for _, part in own.groupby(list(SETTING), sort=False):
        part = part.assign(diversity=diversity(part))
        subject = {"checkpoint": str(part["checkpoint"].iloc[0])}
        subject |= setting_of(own, part.iloc[0], SETTING[1:])
        for column, metric in (
            ("likeness", LIKENESS_CHANGE),
            ("diversity", DIVERSITY_CHANGE),
        ):
            wide = part.pivot_table(index=["prompt", "seed"], columns="dose", values=column)
            wide = wide.dropna()
            if wide.shape[1] > 1 and len(wide):
                name = f"{classifier}.{column}"
                findings += changes(wide, "dose", subject, name, metric)
    return findings


def diversity(part: pd.DataFrame) -> pd.Series:
    """Each image's mean 1 − cosine with the others of its prompt and dose; NaN if alone."""
    out = pd.Series(nan, index=part.index)
    for _, own in part.groupby(["prompt", "dose"]):
        if len(own) > 1:
            shown = np.stack(list(own["embedding"])).astype(float)
            shown /= np.linalg.norm(shown, axis=1, keepdims=True)
            apart = 1 - shown @ shown.T
            out[own.index] = apart.sum(axis=1) / (len(own) - 1)
    return out
