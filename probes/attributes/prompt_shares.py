"""Shares of one arm, prompt by prompt: the distance from the target, and what each class scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from harness.spec.attributes import OUTCOMES, AttributeSpec
from probes.attributes.metrics import (
    CORRECTED_SHARE,
    CORRECTED_TOTAL_VARIATION,
    SHARE,
    TOTAL_VARIATION,
)
from probes.attributes.outcomes import Errors, counts_by_prompt, reported_classes, subject_of
from probes.attributes.shares import PROBE, Targets, kept_notes
from probes.contracts import Finding, Reference
from probes.statistics.corrected_distance import corrected_distance
from probes.statistics.corrected_shares import CorrectedShares, corrected_shares
from probes.statistics.intervals import (
    share_interval,
    total_variation,
    total_variation_null,
)
from probes.statistics.total_variation import distance_bounds, is_degenerate

CORRECTED = "corrected for the instrument's confusion matrix"

UNTESTED = (
    "a target that leaves a class out is tested only where the instrument's confusion matrix is "
    "known: one misclassified image would be proof"
)

INSIDE = "seeds are shared by all prompts: independent within this prompt, not between prompts"


def by_prompt(
    part: pd.DataFrame,
    attribute: AttributeSpec,
    instrument: str,
    targets: Targets,
    errors: Errors | None,
    shared: bool = False,
) -> list[Finding]:
    """Distance from the target, shares and corrected shares of every prompt of an arm.

    The test of a prompt is that of its distance: of the corrected shares where the instrument's
    confusion matrix is known, else of the counted ones. All else is described, without p. A
    target that leaves a class out has no test without a confusion matrix: a single misclassified
    image would be proof.

    Args:
        part: The arm's rows of `outcome_frame`.
        attribute: The attribute.
        instrument: Name of the instrument.
        targets: Targets by prompt, where prompts have their own.
        errors: The instrument's confusion matrix; None where it is not known.
        shared: Whether all prompts share the same seeds.
    """
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
        notes = [_not_counted(of_others[i], int(counted.lost[i])), INSIDE if shared else ""]
        blank = Finding(
            id=f"{instrument}/{subject['arm']}/{prompt}",
            probe=PROBE,
            metric=TOTAL_VARIATION,
            subject=subject,
            n=int(of_classes[i].sum()),
            n_clusters=1,
            reference=Reference(targets={c: target[c] for c in names}),
            planned=int(of_classes[i].sum() + of_others[i].sum() + counted.lost[i]),
            instrument=instrument,
            note="; ".join(n for n in notes if n),
        )
        wanted = np.array([target[c] for c in names])
        distances.append(_distance(blank, of_classes[i], wanted, "" if errors else family))
        fixed, n = None, 0
        if errors is not None:
            everything = counted.of(errors.table.outcomes)[i]
            # What is seen of a prompt without a class is how often the instrument cannot tell.
            told = everything * bool(of_classes[i].any())
            fixed, n = corrected_shares(told, errors.table), int(everything.sum())
            distances.append(_corrected_distance(blank, everything, wanted, errors, family))
        for name in reported_classes(attribute):
            k = names.index(name)
            of_class = replace(
                blank,
                subject=subject | {"class": name},
                id=f"{blank.id}/{name}",
                reference=blank.reference._replace(value=target[name], null=target[name]),
            )
            shares.append(_counted(of_class, int(of_classes[i, k])))
            if errors is not None and fixed is not None:
                shares.append(_corrected(replace(of_class, n=n), fixed, errors, k))
    return distances + shares


def _distance(blank: Finding, counts: np.ndarray, target: np.ndarray, family: str) -> Finding:
    """The counted distance: a test where it has a family and the target leaves no class out."""
    found = replace(
        blank,
        id=f"{PROBE}/total-variation/{blank.id}",
        metric=TOTAL_VARIATION,
        estimator="as counted",
        reading="as counted",
    )
    tested = bool(family) and not is_degenerate(target)
    if tested:
        found = replace(
            found, headline=True, family=family, reference=blank.reference._replace(value=0.0)
        )
    if counts.sum() == 0:
        return found.not_measured("no image has a class")
    low, high = distance_bounds(counts, target)
    found = replace(found, value=total_variation(counts, target), low=low, high=high)
    if not tested:
        return (
            found
            if not family
            else replace(found, note="; ".join([UNTESTED, *kept_notes(found.note)]))
        )
    null = total_variation_null(counts, target)
    return replace(
        found, p=null.p, reference=found.reference._replace(null=null.mean, null_q95=null.q95)
    )


def _corrected_distance(
    blank: Finding, outcomes: np.ndarray, target: np.ndarray, errors: Errors, family: str
) -> Finding:
    """The test of a prompt where the instrument's confusion matrix is known."""
    found = replace(
        blank,
        id=f"{PROBE}/corrected-total-variation/{blank.id}",
        metric=CORRECTED_TOTAL_VARIATION,
        headline=True,
        family=family,
        reference=blank.reference._replace(value=0.0),
        reading="corrected",
        n=int(outcomes.sum()),
        estimator=CORRECTED + "; p from the target pushed through confusion matrices drawn from "
        "the uncertainty of the labels",
        note=_supposes(errors),
    )
    why = ""
    if not outcomes[: len(target)].any():
        why = "no image has a class"
    elif not outcomes[errors.table.counts.sum(axis=0) > 0].any():
        why = "no image has an outcome that the confusion matrix knows"
    if why:
        return replace(found, note=blank.note).not_measured(why)
    held = corrected_distance(outcomes, errors.table, target)
    return replace(
        found,
        value=held.value,
        low=held.low,
        high=held.high,
        p=held.p,
        reference=found.reference._replace(null=held.null, null_q95=held.null_q95),
    )


def _counted(blank: Finding, count: int) -> Finding:
    interval = share_interval(count, blank.n)
    return replace(
        blank,
        id=f"{PROBE}/share/{blank.id}",
        metric=SHARE,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        estimator="as counted, Wilson",
        reading="as counted",
        status="measured" if blank.n else "not-measured",
    )


def _corrected(blank: Finding, fixed: CorrectedShares, errors: Errors, k: int) -> Finding:
    return replace(
        blank,
        id=f"{PROBE}/corrected-share/{blank.id}",
        metric=CORRECTED_SHARE,
        value=float(fixed.value[k]),
        low=float(fixed.low[k]),
        high=float(fixed.high[k]),
        estimator=CORRECTED,
        reading="corrected",
        note=_supposes(errors),
        status="measured" if np.isfinite(fixed.value[k]) else "not-measured",
    )


def _supposes(errors: Errors) -> str:
    """What a correction rests on."""
    note = "supposes that the confusion matrix holds for every prompt"
    if errors.worst_prompt:
        note += f"; worst: {errors.worst_prompt!r}, right {errors.worst_accuracy:.0%}"
    return note


def _not_counted(others: np.ndarray, lost: int) -> str:
    kinds = [*zip(OUTCOMES, others, strict=True), ("no image", lost)]
    said = ", ".join(f"{name} {n}" for name, n in kinds if n)
    return f"not counted: {said}" if said else ""
