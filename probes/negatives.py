"""Dose and response: negatives one by one, guidance, and how much each factor explains.

The first k of an ordered list of negatives on the same prompts and seeds: what each dose does to
an attribute, to likeness to the prompt and to diversity, and from which dose on one more negative
pulls the other way. Guidance is a dose like any other: it sharpens shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import nan

import numpy as np
import pandas as pd

from audit.plan import Cell
from audit.prompts import slug
from audit.spec import Spec, canonical_digest
from audit.stats import mean_share_over_prompts, paired_difference
from probes import Exhibit, Finding, Instrument, register
from probes.outcomes import clip_readings, outcome_frame, reported_classes
from probes.variance import explained_variance

PROBE = "negatives"
DOSE = "dose"
SETTING = ("checkpoint", "adapters", "sampler", "steps", "guidance", "width", "height")
FACTORS = ("prompt", "negative", "vae", "guidance", "seed")


@register
class NegativesProbe:
    """What negatives and guidance do, dose by dose."""

    name = PROBE

    def instruments(self, spec: Spec) -> tuple[Instrument, ...]:
        """None of its own: the classifiers come with the probe `attributes`."""
        return ()

    def cells(self, spec: Spec, plan: pd.DataFrame) -> Iterable[Cell]:
        """Every guided prompt and seed with the first k negatives, by the first VAE."""
        first = (plan["vae"] == next(iter(spec.vaes))) & (plan["guidance"] > 1)
        own = plan[first].drop_duplicates(["prompt", "seed", *SETTING])
        doses = spec.doses.doses() if spec.doses.negatives else []
        for row in own.itertuples(index=False):
            cell = Cell(*row)
            for k in doses:
                text = ", ".join(spec.doses.negatives[:k])
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
                    asked=PROBE,
                    negative=dose_name(k),
                    negative_text=text,
                )

    def analyse(
        self,
        tables: Mapping[str, pd.DataFrame],
        plan: pd.DataFrame,
        failures: pd.DataFrame,
        labels: pd.DataFrame,
        spec: Spec,
    ) -> tuple[list[Finding], list[Exhibit]]:
        """Doses of negatives, doses of guidance, variance explained."""
        findings: list[Finding] = []
        exhibits: list[Exhibit] = []
        if not spec.classifiers or "attributes" not in spec.probes:
            note = "no classifier looks at these pictures: add the probe attributes"
            return [_blank("effect", {})._replace(status="not-measured", note=note)], []
        for attribute, classifier, instrument in clip_readings(spec):
            frame = outcome_frame(tables, plan, labels, attribute, instrument, classifier)
            frame = frame.assign(dose=frame["negative"].map(dose_of))
            grid = frame[frame["asked"] == ""]
            for each in reported_classes(attribute):
                about = {"attribute": attribute.name, "class": each}
                for factor, rows in (
                    ("dose", frame[frame["kind"] == DOSE]),
                    ("guidance", grid[grid["vae"] == next(iter(spec.vaes))]),
                ):
                    found, shown = responses(rows, factor, about, instrument)
                    findings += found
                    exhibits += shown
                findings += explained(grid, about, instrument)
        for name in spec.classifiers:
            findings += _likeness(tables, plan[plan["kind"] == DOSE], slug(name))
        return findings, exhibits


def dose_name(k: int) -> str:
    """'no negatives', 'first 3 negatives'."""
    return f"first {k} negatives" if k else "no negatives"


def dose_of(name: str) -> float:
    """The number in a dose's name; NaN for the grid's own negatives."""
    if name == "no negatives":
        return 0.0
    parts = name.split()
    named = len(parts) == 3 and parts[0] == "first" and parts[2] == "negatives"
    return float(parts[1]) if named and parts[1].isdigit() else nan


def responses(
    frame: pd.DataFrame, factor: str, about: dict[str, str], instrument: str
) -> tuple[list[Finding], list[Exhibit]]:
    """Share of a class at every level of a dose, and its change from the lowest, paired by seed.

    Args:
        frame: Rows with prompt, seed, outcome, the settings and the factor.
        factor: 'dose' or 'guidance', rising numbers.
        about: attribute and class.
        instrument: What read the outcomes.
    """
    findings: list[Finding] = []
    rows = []
    held = [s for s in SETTING if s != factor]
    held += ["negative"] if factor == "guidance" else []
    for _, part in frame.dropna(subset=["outcome", factor]).groupby(held, sort=False):
        wide = _wide(part.assign(y=(part["outcome"] == about["class"]).astype(float)), factor)
        if wide.shape[1] < 2 or not len(wide):
            continue
        first = part.iloc[0]
        subject = {"checkpoint": str(first["checkpoint"])} | about
        subject |= _setting(frame, first, held[1:])
        title = " · ".join(v for k, v in subject.items() if k != "class")
        levels = list(wide.columns)
        for level in levels:
            by_prompt = wide[level].groupby(level="prompt")
            counts, totals = by_prompt.sum().to_numpy(), by_prompt.count().to_numpy()
            value, low, high = mean_share_over_prompts(counts, totals, "this suite")
            rows.append((level, value, low, high, about["class"], title))
        findings += _changes(wide, factor, subject, instrument, "difference of share", 1.0)
        findings.append(_turn(wide, factor, subject, instrument))
    if not rows:
        return [], []
    what = "the first so many negatives" if factor == "dose" else "guidance"
    caption = (
        f"Share of pictures that {instrument} reads as {about['class']}, by {what}; the same "
        "prompts and starting noise throughout, 95 % intervals for these prompts."
    )
    columns = ["x", "value", "low", "high", "group", "facet"]
    name = f"negatives/{factor}/{instrument}/{slug(about['class'])}"
    alt = f"A line: share of {about['class']} by {what}."
    return findings, [Exhibit(name, "line", pd.DataFrame(rows, columns=columns), caption, alt)]


def _setting(frame: pd.DataFrame, row: pd.Series, names: Iterable[str]) -> dict[str, str]:
    """The settings that vary in a frame, as this row has them."""
    return {name: str(row[name]) for name in names if frame[name].nunique() > 1}


def _wide(part: pd.DataFrame, factor: str) -> pd.DataFrame:
    """One row a prompt and seed, one column a level; only those that have all levels."""
    return part.pivot_table(index=["prompt", "seed"], columns=factor, values="y").dropna()


def _changes(
    wide: pd.DataFrame,
    factor: str,
    subject: dict[str, str],
    instrument: str,
    metric: str,
    span: float,
) -> list[Finding]:
    """The change from the lowest level to each other one, paired by prompt and seed."""
    levels = list(wide.columns)
    findings = []
    for level in levels[1:]:
        value, low, high, p = _paired(wide, level, levels[0], span)
        about = subject | {factor: f"{level:g}", "baseline": f"{factor} {levels[0]:g}"}
        findings.append(
            _blank(f"{factor}/{instrument}", about)._replace(
                metric=metric,
                value=value,
                low=low,
                high=high,
                p=p,
                n=len(wide),
                n_clusters=wide.index.get_level_values("prompt").nunique(),
                unit="share" if span == 1 else "",
                estimator="paired by prompt and seed, t",
                instrument=instrument,
            )
        )
    return findings


def _paired(wide: pd.DataFrame, one: float, two: float, span: float) -> Sequence[float]:
    groups = [g for _, g in wide.groupby(level="prompt", sort=False)]
    return paired_difference(
        [g[one].to_numpy() for g in groups], [g[two].to_numpy() for g in groups], "this suite", span
    )


def _turn(wide: pd.DataFrame, factor: str, subject: dict[str, str], instrument: str) -> Finding:
    """The first level at which one more dose pulls against the effect so far, beyond chance.

    Both the effect up to the level before and the last step must have intervals without zero.
    """
    levels = list(wide.columns)
    blank = _blank(f"turn/{factor}/{instrument}", subject)._replace(
        metric=f"{factor} where the effect turns", instrument=instrument, n=len(wide), unit=factor
    )
    for before, level in pairwise(levels[1:]):
        so_far = _paired(wide, before, levels[0], 1.0)
        step = _paired(wide, level, before, 1.0)
        sure = all(x[1] > 0 or x[2] < 0 for x in (so_far, step))
        if sure and so_far[0] * step[0] < 0:
            found = float(level)
            note = "one look at every level; not corrected for that"
            return blank._replace(value=found, low=found, high=found, note=note)
    note = "no step pulls against the effect before it beyond chance"
    return blank._replace(status="not-measured", note=note)


def explained(grid: pd.DataFrame, about: dict[str, str], instrument: str) -> list[Finding]:
    """How much of a class's variance each crossed factor of the grid explains, by checkpoint."""
    findings = []
    for checkpoint, part in grid.dropna(subset=["outcome"]).groupby("checkpoint", sort=False):
        subject = {"checkpoint": str(checkpoint)} | about
        y = (part["outcome"] == about["class"]).astype(float)
        for found in explained_variance(part.assign(y=y), FACTORS):
            findings.append(
                _blank(f"variance/{instrument}", subject | {"factor": found.factor})._replace(
                    metric="variance explained",
                    value=found.share,
                    low=found.low,
                    high=found.high,
                    null=found.chance,
                    n=found.n,
                    n_clusters=found.prompts,
                    unit="of variance",
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
    own = doses.assign(dose=doses["negative"].map(dose_of))
    own = own.merge(table.drop_duplicates("cell"), on="cell")
    findings = []
    for _, part in own.groupby(list(SETTING), sort=False):
        part = part.assign(diversity=diversity(part))
        subject = {"checkpoint": str(part["checkpoint"].iloc[0])}
        subject |= _setting(own, part.iloc[0], SETTING[1:])
        for column, metric in (
            ("likeness", "difference of likeness to the prompt"),
            ("diversity", "difference of diversity"),
        ):
            wide = _wide(part.assign(y=part[column]), "dose")
            if wide.shape[1] > 1 and len(wide):
                name = f"{classifier}.{column}"
                findings += _changes(wide, "dose", subject, name, metric, nan)
    return findings


def diversity(part: pd.DataFrame) -> pd.Series:
    """Each picture's mean 1 − cosine with the others of its prompt and dose; NaN if alone."""
    out = pd.Series(nan, index=part.index)
    for _, own in part.groupby(["prompt", "dose"]):
        if len(own) > 1:
            shown = np.stack(list(own["embedding"])).astype(float)
            shown /= np.linalg.norm(shown, axis=1, keepdims=True)
            apart = 1 - shown @ shown.T
            out[own.index] = apart.sum(axis=1) / (len(own) - 1)
    return out


def _blank(key: str, about: dict[str, str]) -> Finding:
    place = "/".join(slug(v) for k, v in about.items() if k not in ("attribute", "baseline") and v)
    return Finding(
        id=f"{PROBE}/{key}/{place}".rstrip("/"),
        probe=PROBE,
        metric="effect of negatives",
        subject=about,
        value=nan,
    )
