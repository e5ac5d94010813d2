"""Shares of one arm: prompt by prompt, over all its prompts, and with people's labels."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import numpy as np
import pandas as pd

from audit.attributes import OUTCOMES, AttributeSpec
from audit.correction import CorrectedShares, corrected_shares
from audit.prompts import slug
from audit.stats import (
    Estimand,
    mean_over_prompts,
    mean_share_over_prompts,
    share_interval,
    total_variation,
    total_variation_null,
)
from audit.total_variation import distance_bounds
from probes import Finding
from probes.outcomes import Errors, counts_by_prompt, reported_classes, subject_of

PROBE = "attributes"
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")
Targets = Mapping[str, Mapping[str, float]]


def by_prompt(
    part: pd.DataFrame,
    attribute: AttributeSpec,
    instrument: str,
    targets: Targets,
    errors: Errors | None,
) -> list[Finding]:
    """Distance from the target, shares and corrected shares of every prompt of an arm."""
    distances: list[Finding] = []
    shares: list[Finding] = []
    names = attribute.class_names
    counted = counts_by_prompt(part, names)
    of_classes, of_others = counted.of(names), counted.of(OUTCOMES)
    arm = subject_of(part, attribute.name)
    family = f"{arm['arm']}/{attribute.name}/{instrument}"
    for i, prompt in enumerate(counted.prompts):
        target = targets.get(prompt) or attribute.shares()
        subject = arm | {"prompt": prompt}
        blank = Finding(
            id=f"{instrument}/{subject['arm']}/{prompt}",
            probe=PROBE,
            metric="",
            subject=subject,
            value=nan,
            n=int(of_classes[i].sum()),
            n_clusters=1,
            target=", ".join(f"{c} {target[c]:.3g}" for c in names),
            unit="share",
            instrument=instrument,
            note=_not_counted(of_others[i], int(counted.lost[i])),
        )
        wanted = np.array([target[c] for c in names])
        distances.append(_distance(blank, of_classes[i], wanted, family))
        fixed, n = None, 0
        if errors is not None:
            everything = counted.of(errors.table.outcomes)[i]
            fixed, n = corrected_shares(everything, errors.table), int(everything.sum())
        for name in reported_classes(attribute):
            k = names.index(name)
            of_class = blank._replace(
                subject=subject | {"class": name}, null=target[name], id=f"{blank.id}/{name}"
            )
            shares.append(_counted(of_class, int(of_classes[i, k])))
            if errors is not None and fixed is not None:
                shares.append(_corrected(of_class._replace(n=n), fixed, errors, k))
    return distances + shares


def _distance(blank: Finding, counts: np.ndarray, target: np.ndarray, family: str) -> Finding:
    found = blank._replace(
        id=f"{PROBE}/total-variation/{blank.id}", metric="total variation", higher_is_better=False
    )
    if counts.sum() == 0:
        return found._replace(
            status="not-measured", note=f"no picture was told a class; {blank.note}"
        )
    null = total_variation_null(counts, target)
    low, high = distance_bounds(counts, target)
    return found._replace(
        value=total_variation(counts, target),
        low=low,
        high=high,
        null=null.mean,
        null_q95=null.q95,
        p=null.p,
        tested_against=0.0,
        family=family,
        headline=True,
        reading="as counted",
        estimator="as counted",
    )


def _counted(blank: Finding, count: int) -> Finding:
    interval = share_interval(count, blank.n)
    return blank._replace(
        id=f"{PROBE}/share/{blank.id}",
        metric="share",
        value=interval.value,
        low=interval.low,
        high=interval.high,
        estimator="as counted, Wilson",
        status="measured" if blank.n else "not-measured",
    )


def _corrected(blank: Finding, fixed: CorrectedShares, errors: Errors, k: int) -> Finding:
    note = "supposes that the error table holds for every prompt"
    if errors.worst_prompt:
        note += f"; worst: {errors.worst_prompt!r}, right {errors.worst_accuracy:.0%}"
    return blank._replace(
        id=f"{PROBE}/corrected-share/{blank.id}",
        metric="corrected share",
        value=float(fixed.value[k]),
        low=float(fixed.low[k]),
        high=float(fixed.high[k]),
        estimator="corrected for the instrument's measured errors",
        note=note,
        status="measured" if blank.n else "not-measured",
    )


def _not_counted(others: np.ndarray, lost: int) -> str:
    kinds = [*zip(OUTCOMES, others, strict=True), ("no picture", lost)]
    said = ", ".join(f"{name} {n}" for name, n in kinds if n)
    return f"not counted: {said}" if said else ""


def over_prompts(
    part: pd.DataFrame, attribute: AttributeSpec, instrument: str, targets: Targets
) -> list[Finding]:
    """Over all prompts of an arm: the mean share of each class, and the mean distance."""
    names = attribute.class_names
    counted = counts_by_prompt(part, names)
    told = [(p, c) for p, c in zip(counted.prompts, counted.of(names), strict=True) if c.any()]
    if not told:
        return []
    counts = np.array([c for _, c in told])
    wanted = np.array([[(targets.get(p) or attribute.shares())[c] for c in names] for p, _ in told])
    subject = subject_of(part, attribute.name)
    blank = Finding(
        id=f"{instrument}/{subject['arm']}",
        probe=PROBE,
        metric="mean share",
        subject=subject,
        value=nan,
        n=int(counts.sum()),
        n_clusters=len(told),
        unit="share",
        instrument=instrument,
    )
    findings = []
    for estimand in ESTIMANDS:
        for name in reported_classes(attribute):
            k = names.index(name)
            mean = mean_share_over_prompts(
                counts[:, k].tolist(), counts.sum(axis=1).tolist(), estimand
            )
            findings.append(
                blank._replace(
                    id=f"{PROBE}/mean-share/{blank.id}/{slug(estimand)}/{name}",
                    subject=subject | {"class": name},
                    value=mean.value,
                    low=mean.low,
                    high=mean.high,
                    estimand=estimand,
                    estimator="mean of the prompts' shares, Wilson at the effective sample size",
                    headline=estimand == "this suite",
                    null=float(wanted[:, k].mean()),
                )
            )
    pairs = list(zip(counts, wanted, strict=True))
    distances = [np.array([total_variation(c, w)]) for c, w in pairs]
    mean = mean_over_prompts(distances, "prompts like these")
    findings.append(
        blank._replace(
            id=f"{PROBE}/mean-total-variation/{blank.id}",
            metric="mean total variation",
            value=mean.value,
            low=mean.low,
            high=mean.high,
            estimand="prompts like these",
            estimator="mean over prompts, t",
            headline=True,
            null=float(np.mean([total_variation_null(c, w).mean for c, w in pairs])),
            higher_is_better=False,
            note="to be read beside its null: at a small n even a model on target is off",
        )
    )
    return findings
