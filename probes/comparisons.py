"""Arms against each other, attrition, intersections, disagreement, and the quality guards.

Arms are paired by prompt and seed: the same starting noise. Every difference is the later
arm minus the first one (or the spec's baseline).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd
from scipy import stats
from scipy.stats.contingency import association

from audit.attributes import OUTCOMES, AttributeSpec
from audit.plan import arm_labels
from audit.prompts import slug
from audit.spec import Spec
from audit.stats import (
    Estimand,
    mean_over_prompts,
    mean_share_over_prompts,
    paired_difference_of_sorted,
)
from probes import Exhibit, Finding
from probes.outcomes import reported_classes, subject_of

PROBE = "attributes"
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")


def baseline_arm(frame: pd.DataFrame, spec: Spec) -> str:
    """The arm that the others are compared with: the first of the baseline checkpoint."""
    if spec.baseline is None:
        return str(frame["arm"].iloc[0])
    return str(frame.loc[frame["checkpoint"] == spec.baseline, "arm"].iloc[0])


def paired_rows(frame: pd.DataFrame, value: str, arm: str, base: str) -> pd.DataFrame:
    """Rows of prompt, seed, a (of `arm`), b (of `base`) that both arms have."""
    keys = ["prompt", "seed"]
    left = frame[frame["arm"] == arm].dropna(subset=[value]).set_index(keys)[value]
    right = frame[frame["arm"] == base].dropna(subset=[value]).set_index(keys)[value]
    return pd.concat({"a": left, "b": right}, axis=1, join="inner").reset_index()


def compare_arms(
    frame: pd.DataFrame, attribute: AttributeSpec, instrument: str, spec: Spec
) -> list[Finding]:
    """How far each arm's shares are from the baseline's, paired by prompt and seed."""
    base = baseline_arm(frame, spec)
    told = frame.assign(told=frame["outcome"].where(frame["outcome"].isin(attribute.class_names)))
    findings = []
    for arm in dict.fromkeys(frame["arm"]):
        if arm == base:
            continue
        pairs = paired_rows(told, "told", arm, base)
        for name in reported_classes(attribute):
            hits = pairs.assign(a=(pairs["a"] == name) * 1.0, b=(pairs["b"] == name) * 1.0)
            findings += _difference(
                hits,
                f"share-difference/{instrument}/{arm}/{name}",
                "share difference",
                subject_of(frame[frame["arm"] == arm], attribute.name)
                | {"class": name, "baseline": base},
                instrument,
                "share",
                1.0,
            )
    return findings


def attrition(frame: pd.DataFrame, attribute: AttributeSpec, instrument: str) -> list[Finding]:
    """Share of the planned pictures that were told no class, by arm and by what they were."""
    findings = []
    for arm, part in frame.groupby("arm", sort=False):
        subject = subject_of(part, attribute.name)
        lost = ~part["outcome"].isin(attribute.class_names)
        by_prompt = lost.groupby(part["prompt"])
        share = mean_share_over_prompts(
            by_prompt.sum().tolist(), by_prompt.count().tolist(), "this suite"
        )
        kinds = {o: int((part["outcome"] == o).sum()) for o in OUTCOMES}
        kinds["no picture"] = int(part["outcome"].isna().sum())
        findings.append(
            Finding(
                id=f"{PROBE}/not-counted/{instrument}/{arm}",
                probe=PROBE,
                metric="not counted",
                subject=subject,
                value=share.value,
                low=share.low,
                high=share.high,
                estimator="mean of the prompts' shares, Wilson at the effective sample size",
                n=len(part),
                n_clusters=part["prompt"].nunique(),
                null=0.0,
                unit="share",
                higher_is_better=False,
                instrument=instrument,
                note=", ".join(f"{k} {v}" for k, v in kinds.items() if v)
                or "every picture counted",
            )
        )
    return findings


def intersections(
    frames: Mapping[str, pd.DataFrame], spec: Spec, classifier: str
) -> tuple[list[Finding], list[Exhibit]]:
    """For each two attributes: how pictures fall on their combinations, by arm."""
    named = {a.name: a for a in spec.attributes}
    findings, exhibits = [], []
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
                    share = table.loc[a, b] / n if n else nan
                    rows.append((arm, a, b, int(table.loc[a, b]), share))
            findings.append(_association(table, part, one, two, classifier, n))
        exhibits.append(
            Exhibit(
                f"intersection/{classifier}/{one}/{two}",
                "table",
                pd.DataFrame(rows, columns=["arm", one, two, "pictures", "share"]),
                f"{named[one].title or one} by {named[two].title or two}: pictures of each "
                "combination, as counted.",
                f"Counts of pictures by {one} and {two}.",
            )
        )
    return findings, exhibits


def _association(
    table: pd.DataFrame, part: pd.DataFrame, one: str, two: str, classifier: str, n: int
) -> Finding:
    kept = table.loc[table.sum(axis=1) > 0, table.sum(axis=0) > 0].to_numpy()
    base = Finding(
        id=f"{PROBE}/association/{classifier}/{one}/{two}/{part['arm'].iloc[0]}",
        probe=PROBE,
        metric="association (Cramér's V)",
        subject=subject_of(part, f"{one} by {two}"),
        value=nan,
        n=n,
        n_clusters=part["prompt"].nunique(),
        instrument=classifier,
        higher_is_better=None,
    )
    if min(kept.shape, default=0) < 2:
        return base._replace(status="not-measured", note="all pictures are of one class")
    rows, columns = kept.shape
    expected = np.sqrt((rows - 1) * (columns - 1) / (n * (min(rows, columns) - 1)))
    return base._replace(
        value=float(association(kept, method="cramer")),
        null=float(expected),
        p=float(stats.chi2_contingency(kept).pvalue),
        estimator="Cramér's V; p of chi-squared, which takes pictures as independent",
        note="mixes prompts: two attributes that both depend on the prompt are associated",
    )


def disagreement(
    frames: Mapping[str, Mapping[str, pd.DataFrame]],
) -> tuple[list[Finding], list[Exhibit]]:
    """How often two classifiers count the same picture differently.

    Args:
        frames: Outcomes by classifier and attribute, of the same pictures in the same order.
    """
    findings, rows = [], []
    for one, two in combinations(frames, 2):
        for attribute, first in frames[one].items():
            second = frames[two][attribute]
            both = first["outcome"].notna() & second["outcome"].notna()
            for arm, part in first[both].groupby("arm", sort=False):
                other = second.loc[part.index, "outcome"]
                differ = (part["outcome"] != other).groupby(part["prompt"])
                share = mean_share_over_prompts(
                    differ.sum().tolist(), differ.count().tolist(), "this suite"
                )
                findings.append(
                    Finding(
                        id=f"{PROBE}/disagreement/{attribute}/{one}/{two}/{arm}",
                        probe=PROBE,
                        metric="disagreement",
                        subject=subject_of(part, attribute),
                        value=share.value,
                        low=share.low,
                        high=share.high,
                        n=len(part),
                        n_clusters=part["prompt"].nunique(),
                        unit="share",
                        instrument=f"{one} and {two}",
                        note="no classifier is the truth: label the pictures they disagree on",
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
    table = pd.DataFrame(
        rows, columns=["attribute", "arm", "first says", "second says", "pictures"]
    )
    caption = "What two classifiers say of the same pictures."
    return findings, [Exhibit("disagreement", "table", table, caption, caption)]


def guards(
    tables: Mapping[str, pd.DataFrame], plan: pd.DataFrame, spec: Spec, classifier: str
) -> list[Finding]:
    """Likeness to the prompt and diversity over seeds: a fair but broken model shows here."""
    scores = tables[f"{classifier}.likeness"]
    if scores.empty:
        return []
    scores = scores.drop_duplicates("cell").set_index("cell")
    frame = plan.assign(arm=arm_labels(plan), likeness=plan["cell"].map(scores["likeness"]))
    base, findings = baseline_arm(frame, spec), []
    for arm in dict.fromkeys(frame["arm"]):
        part = frame[frame["arm"] == arm]
        subject = subject_of(part, "")
        subject.pop("attribute")
        known = part.dropna(subset=["likeness"])
        values = [g["likeness"].to_numpy() for _, g in known.groupby("prompt", sort=False)]
        spread = diversity(part, scores["embedding"])
        blank = Finding(
            id="",
            probe=PROBE,
            metric="likeness to the prompt",
            subject=subject,
            value=nan,
            n=len(known),
            unit="cosine",
            higher_is_better=True,
            instrument=f"{classifier}.likeness",
        )
        if values:
            mean = mean_over_prompts(values, "this suite")
            findings.append(
                blank._replace(
                    id=f"{PROBE}/likeness/{classifier}/{arm}",
                    value=mean.value,
                    low=mean.low,
                    high=mean.high,
                    estimator="mean over prompts of the cosine of picture and prompt",
                    n_clusters=len(values),
                )
            )
        if len(spread):
            mean = mean_over_prompts([np.array([v]) for v in spread], "prompts like these")
            findings.append(
                blank._replace(
                    id=f"{PROBE}/diversity/{classifier}/{arm}",
                    metric="diversity",
                    value=mean.value,
                    low=mean.low,
                    high=mean.high,
                    estimand="prompts like these",
                    estimator="mean over prompts of the mean 1 - cosine of two seeds' pictures",
                    n_clusters=len(spread),
                    unit="1 - cosine",
                )
            )
        if arm != base:
            findings += _difference(
                paired_rows(frame, "likeness", arm, base),
                f"likeness-difference/{classifier}/{arm}",
                "likeness difference",
                subject | {"baseline": base},
                f"{classifier}.likeness",
                "cosine",
                2.0,
            )
    return findings


def diversity(part: pd.DataFrame, embeddings: pd.Series) -> np.ndarray:
    """Mean 1 - cosine over all pairs of seeds, one number a prompt with two or more pictures."""
    spread = []
    for _, own in part.groupby("prompt", sort=False):
        held = [embeddings[c] for c in own["cell"] if c in embeddings.index]
        if len(held) > 1:
            unit = np.stack(held).astype(float)
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
            spread.append(1 - cosines.mean())
    return np.array(spread)


def _difference(
    pairs: pd.DataFrame,
    key: str,
    metric: str,
    subject: dict[str, str],
    instrument: str,
    unit: str,
    span: float,
) -> list[Finding]:
    codes = pd.factorize(pairs["prompt"])[0]
    order, n = np.argsort(codes, kind="stable"), np.bincount(codes)
    a, b = (pairs[arm].to_numpy(float)[order] for arm in ("a", "b"))
    findings = []
    for estimand in ESTIMANDS:
        found = paired_difference_of_sorted(a, b, n, estimand, span)
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
                estimator="mean over prompts of paired differences, t",
                headline=estimand == "this suite",
                n=len(pairs),
                n_clusters=len(n),
                null=0.0,
                p=found.p,
                unit=unit,
                instrument=instrument,
                status="measured" if len(n) else "not-measured",
                note="" if len(n) else "no prompt and seed that both arms have",
            )
        )
    return findings
