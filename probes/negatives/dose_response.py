"""What rising doses do to an attribute: shares at every level, changes, and where they turn.

A dose is a number that rises: how many negatives, or guidance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import pandas as pd

from harness.spec.attributes import AttributeSpec
from harness.text import slug
from probes.attributes.metrics import CORRECTED_SHARE, MEAN_SHARE
from probes.attributes.outcomes import Errors, counts_of, measured_errors, reported_classes
from probes.contracts import Figure, Finding, MetricSpec, Reference
from probes.statistics.corrected_shares import corrected_shares
from probes.statistics.intervals import mean_share_over_prompts, paired_difference_of_sorted

PROBE = "negatives"
EFFECT = MetricSpec("effect of negatives")
SHARE_CHANGE = MetricSpec("difference of share", "shift", "share", span=1.0)
DOSE = "dose"
SETTING = ("checkpoint", "adapters", "sampler", "steps", "guidance", "width", "height")


def responses(
    frame: pd.DataFrame,
    factor: str,
    attribute: AttributeSpec,
    instrument: str,
    errors: pd.DataFrame | None,
) -> tuple[list[Finding], list[Figure]]:
    """Shares of every class at every level of a dose, and changes from the lowest one.

    Only prompts and seeds that have all levels count. Changes are paired by seed, as counted.

    Args:
        frame: Rows with prompt, seed, outcome, the settings and the factor.
        factor: 'dose' or 'guidance', rising numbers.
        attribute: Its classes; of two the second says all.
        instrument: What read the outcomes.
        errors: Measured errors, as `measured_errors` takes them: shares corrected for those of
            the level are told too, and drawn.
    """
    findings: list[Finding] = []
    held = [s for s in SETTING if s != factor]
    held += ["negative"] if factor == "guidance" else []
    for _, part in frame.dropna(subset=["outcome", factor]).groupby(held, sort=False):
        outcomes = part.drop_duplicates(["prompt", "seed", factor])
        outcomes = outcomes.pivot(index=["prompt", "seed"], columns=factor, values="outcome")
        outcomes = outcomes.dropna()
        if outcomes.shape[1] < 2 or not len(outcomes):
            continue
        first = part.iloc[0]
        subject = {"checkpoint": str(first["checkpoint"]), "attribute": attribute.name}
        subject |= setting_of(frame, first, held[1:])
        for level, cells in part.groupby(factor):
            known = None
            if errors is not None:
                known = measured_errors(errors, attribute, instrument, cells)
            if known is not None:
                about = subject | {factor: f"{level:g}"}
                findings += _corrected(outcomes[level], factor, attribute, about, instrument, known)
        for each in reported_classes(attribute):
            about = subject | {"class": each}
            wide = (outcomes == each).astype(float)
            findings += _counted(wide, factor, about, instrument)
            findings += changes(wide, factor, about, instrument, SHARE_CHANGE)
            findings.append(_turn(wide, factor, about, instrument))
    best = [f for f in findings if f.metric == CORRECTED_SHARE]
    best = best or [f for f in findings if f.metric == MEAN_SHARE]
    return findings, _lines(best, factor, instrument)


def setting_of(frame: pd.DataFrame, row: pd.Series, names: Iterable[str]) -> dict[str, str]:
    """The settings that vary in a frame, as this row has them."""
    return {name: str(row[name]) for name in names if frame[name].nunique() > 1}


def changes(
    wide: pd.DataFrame,
    factor: str,
    subject: dict[str, str],
    instrument: str,
    metric: MetricSpec,
) -> list[Finding]:
    """The change from the lowest level to each other one, paired by prompt and seed.

    Args:
        wide: One row a prompt and seed (the index, prompt by prompt), one column a level.
        factor: 'dose' or 'guidance'.
        subject: Model, setting and class.
        instrument: What measured the numbers.
        metric: What changes; its span is that of one difference, infinite where there is none.
    """
    levels = list(wide.columns)
    findings = []
    for level in levels[1:]:
        value, low, high, p = _paired(wide, level, levels[0], metric.span)
        about = subject | {factor: f"{level:g}", "baseline": f"{factor} {levels[0]:g}"}
        findings.append(
            replace(
                blank(f"{factor}/{instrument}", about),
                metric=metric,
                value=value,
                low=low,
                high=high,
                p=p,
                headline=True,
                family=f"{PROBE}/{factor}/{place_of(subject)}/{instrument}",
                reference=Reference(0.0, 0.0),
                n=len(wide),
                n_clusters=_prompts(wide),
                estimator="paired by prompt and seed, t",
                instrument=instrument,
            )
        )
    return findings


def blank(key: str, about: dict[str, str]) -> Finding:
    """A finding of the probe without its numbers."""
    place = "/".join(slug(v) for k, v in about.items() if k not in ("attribute", "baseline") and v)
    return Finding(
        id=f"{PROBE}/{key}/{place}".rstrip("/"),
        probe=PROBE,
        metric=EFFECT,
        subject=about,
    )


def place_of(about: dict[str, str]) -> str:
    """Model, setting and attribute of a subject: what its tests share."""
    return " ".join(v for k, v in about.items() if k not in ("class", "baseline") and v)


def _counted(
    wide: pd.DataFrame, factor: str, subject: dict[str, str], instrument: str
) -> list[Finding]:
    findings = []
    for level in wide.columns:
        by_prompt = wide[level].groupby(level="prompt")
        counts, totals = by_prompt.sum().to_numpy(), by_prompt.count().to_numpy()
        value, low, high = mean_share_over_prompts(counts, totals, "this suite")
        findings.append(
            replace(
                blank(f"share/{factor}/{instrument}", subject | {factor: f"{level:g}"}),
                metric=MEAN_SHARE,
                reading="as counted",
                value=value,
                low=low,
                high=high,
                n=len(wide),
                n_clusters=len(counts),
                estimator="mean of the prompts' shares, Wilson at the effective sample size",
                instrument=instrument,
            )
        )
    return findings


def _corrected(
    outcomes: pd.Series,
    factor: str,
    attribute: AttributeSpec,
    subject: dict[str, str],
    instrument: str,
    errors: Errors,
) -> list[Finding]:
    """Shares of all images of a level, corrected for the instrument's confusion matrix."""
    names = attribute.class_names
    fixed = corrected_shares(counts_of(outcomes, errors.table.outcomes), errors.table)
    findings = []
    for each in reported_classes(attribute):
        k = names.index(each)
        about = {"class": each} | subject
        findings.append(
            replace(
                blank(f"corrected-share/{factor}/{instrument}", about),
                metric=CORRECTED_SHARE,
                reading="corrected",
                value=float(fixed.value[k]),
                low=float(fixed.low[k]),
                high=float(fixed.high[k]),
                n=len(outcomes),
                n_clusters=_prompts(outcomes),
                estimator="all prompts together, corrected for the instrument's confusion matrix",
                instrument=instrument,
                note="supposes that the error table holds for these images",
            )
        )
    return findings


def _lines(shares: list[Finding], factor: str, instrument: str) -> list[Figure]:
    """One line figure a class: its share by level, a facet for every model and setting."""
    what = "the first so many negatives" if factor == "dose" else "guidance"
    told = (
        ", corrected for its confusion matrix"
        if shares[:1] and (shares[0].metric == CORRECTED_SHARE)
        else ""
    )
    figures = []
    for each in dict.fromkeys(f.subject["class"] for f in shares):
        rows = [
            (
                float(f.subject[factor]),
                f.value,
                f.low,
                f.high,
                each,
                " · ".join(v for k, v in f.subject.items() if k not in ("class", factor)),
            )
            for f in shares
            if f.subject["class"] == each
        ]
        caption = (
            f"Share of images that {instrument} reads as {each}{told}, by {what}; the same "
            "prompts and starting noise throughout, 95 % intervals for these prompts."
        )
        columns = ["x", "value", "low", "high", "group", "facet"]
        shown = pd.DataFrame(rows, columns=columns)
        name = f"{PROBE}/{factor}/{instrument}/{slug(each)}"
        alt = f"A line: share of {each} by {what}."
        figures.append(
            Figure(name, "line", shown, caption, alt, subject={"instrument": instrument})
        )
    return figures


def _paired(wide: pd.DataFrame, one: float, two: float, span: float) -> Sequence[float]:
    n = wide.groupby(level="prompt", sort=False).size().to_numpy()
    a, b = wide[one].to_numpy(float), wide[two].to_numpy(float)
    return paired_difference_of_sorted(a, b, n, "this suite", span)


def _turn(wide: pd.DataFrame, factor: str, subject: dict[str, str], instrument: str) -> Finding:
    """The first level at which one more dose pulls against the effect so far, beyond chance.

    Both the effect up to the level before and the last step must have intervals without zero.
    """
    levels = list(wide.columns)
    unturned = replace(
        blank(f"turn/{factor}/{instrument}", subject),
        metric=MetricSpec(f"{factor} where the effect turns", unit=factor),
        instrument=instrument,
        n=len(wide),
    )
    for before, level in pairwise(levels[1:]):
        so_far = _paired(wide, before, levels[0], 1.0)
        step = _paired(wide, level, before, 1.0)
        sure = all(x[1] > 0 or x[2] < 0 for x in (so_far, step))
        if sure and so_far[0] * step[0] < 0:
            found = float(level)
            note = "one look at every level; not corrected for that"
            return replace(unturned, value=found, low=found, high=found, note=note)
    return unturned.not_measured("no step pulls against the effect before it beyond chance")


def _prompts(wide: pd.DataFrame | pd.Series) -> int:
    return int(wide.index.get_level_values("prompt").nunique())
