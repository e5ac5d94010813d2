"""Shares of one arm: prompt by prompt, over all its prompts, and with people's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd

from harness.spec.attributes import OUTCOMES, AttributeSpec
from harness.text import slug
from probes.attributes.metrics import (
    CORRECTED_SHARE,
    CORRECTED_TOTAL_VARIATION,
    MEAN_SHARE,
    MEAN_TOTAL_VARIATION,
    SHARE,
    TOTAL_VARIATION,
)
from probes.attributes.outcomes import Errors, counts_by_prompt, reported_classes, subject_of
from probes.contracts import Finding, Reference
from probes.statistics.corrected_distance import corrected_distance
from probes.statistics.corrected_shares import CorrectedShares, corrected_shares
from probes.statistics.intervals import (
    FEWEST_CARRIERS,
    Estimand,
    carriers,
    mean_share_over_prompts,
    share_interval,
    total_variation,
    total_variation_null,
)
from probes.statistics.mean_distance import mean_distance
from probes.statistics.pairing import without_images
from probes.statistics.seed_clusters import mean_distance_by_seed, mean_share_by_seed, sharing_note
from probes.statistics.share_test import wilson_p
from probes.statistics.total_variation import distance_bounds, is_degenerate

PROBE = "attributes"
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")
CORRECTED = "corrected for the instrument's confusion matrix"
UNTESTED = (
    "a target that leaves a class out is tested only where the instrument's confusion matrix is "
    "known: one misclassified image would be proof"
)
NOT_BELOW_NULL = (
    "the counted distance, to be read beside its null: at a small n even a model on target is off; "
    "the interval is that of the true distance"
)
FEW = (
    "comes from about {:.0f} of {} prompts: for other prompts the interval may hold the true share "
    "in fewer than 90 % of audits"
)
INSIDE = "seeds are shared by all prompts: independent within this prompt, not between prompts"
Targets = Mapping[str, Mapping[str, float]]


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
            found if not family else replace(found, note="; ".join([UNTESTED, *_kept(found.note)]))
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


def _kept(note: str) -> list[str]:
    return [note] if note else []


def _not_counted(others: np.ndarray, lost: int) -> str:
    kinds = [*zip(OUTCOMES, others, strict=True), ("no image", lost)]
    said = ", ".join(f"{name} {n}" for name, n in kinds if n)
    return f"not counted: {said}" if said else ""


def over_prompts(
    part: pd.DataFrame,
    attribute: AttributeSpec,
    instrument: str,
    targets: Targets,
    shared: bool = False,
    tested: bool = True,
) -> list[Finding]:
    """Over all prompts of an arm: the mean share of each class, and the mean distance.

    Arguments as in `by_prompt`. With shared seeds all intervals are clustered by seed. Prompts
    without a counted image are named in the note.

    Args:
        part: The arm's rows of `outcome_frame`.
        attribute: The attribute.
        instrument: Name of the instrument.
        targets: Targets by prompt, where prompts have their own.
        shared: Whether all prompts share the same seeds.
        tested: Whether counted shares may be tested against the target: not where the
            instrument's confusion matrix is known, since then corrected ones are.
    """
    names = attribute.class_names
    counted = counts_by_prompt(part, names)
    seen = [(p, c) for p, c in zip(counted.prompts, counted.of(names), strict=True) if c.any()]
    if not seen:
        return []
    counts = np.array([c for _, c in seen])
    wanted = np.array([[(targets.get(p) or attribute.shares())[c] for c in names] for p, _ in seen])
    subject = subject_of(part, attribute.name)
    rows = part[part["outcome"].isin(names)]
    missing = [p for p, c in zip(counted.prompts, counted.of(names), strict=True) if not c.any()]
    notes = [sharing_note(rows["seed"].nunique())] if shared else []
    notes += [without_images(missing, len(counted.prompts))] if missing else []
    family = f"{subject['arm']}/{attribute.name}/{instrument}" if tested else ""
    blank = Finding(
        id=f"{instrument}/{subject['arm']}",
        probe=PROBE,
        metric=MEAN_SHARE,
        subject=subject,
        n=int(counts.sum()),
        n_clusters=len(seen),
        instrument=instrument,
        reading="as counted",
        note="; ".join(notes),
        planned=len(part),
    )
    findings = []
    for estimand in ESTIMANDS:
        for name in reported_classes(attribute):
            k = names.index(name)
            if shared:
                hits = (rows["outcome"] == name).to_numpy(float)
                mean = mean_share_by_seed(hits, rows["prompt"], rows["seed"], estimand)
            else:
                mean = mean_share_over_prompts(counts[:, k], counts.sum(axis=1), estimand)
            target = float(wanted[:, k].mean())
            # A target of 0 or 1 has no test: one misclassified image would be proof.
            asked = tested and estimand == "this suite" and 0 < target < 1
            few = carriers(counts[:, k] / counts.sum(axis=1))
            unsure = estimand == "prompts like these" and few < FEWEST_CARRIERS
            findings.append(
                replace(
                    blank,
                    id=f"{PROBE}/mean-share/{blank.id}/{slug(estimand)}/{name}",
                    subject=subject | {"class": name},
                    value=mean.value,
                    low=mean.low,
                    high=mean.high,
                    estimand=estimand,
                    estimator="mean of the prompts' shares, Wilson at the effective sample size"
                    + (" of seed clusters" if shared else ""),
                    headline=estimand == "this suite",
                    reference=Reference(target, target, targets={name: target}),
                    p=wilson_p(mean, target) if asked else nan,
                    family=family if asked else "",
                    note="; ".join(
                        [*_kept(blank.note), *([FEW.format(few, len(seen))] if unsure else [])]
                    ),
                )
            )
    by_seed = None
    if shared:
        codes = (rows["outcome"], rows["prompt"], rows["seed"])
        by_seed = mean_distance_by_seed(*codes, names, wanted)
    distance = mean_distance(counts, wanted, by_seed)
    asked = tested and not shared and not any(is_degenerate(w) for w in wanted)
    findings.append(
        replace(
            blank,
            id=f"{PROBE}/mean-total-variation/{blank.id}",
            metric=MEAN_TOTAL_VARIATION,
            value=distance.value,
            low=distance.low,
            high=distance.high,
            estimand="prompts like these",
            estimator="counted distances; bounds of the true one, t over prompts"
            + (", jackknife over seeds" if shared else ""),
            headline=True,
            reference=Reference(0.0, distance.null, distance.null_q95),
            p=distance.p if asked else nan,
            family=family if asked else "",
            note="; ".join([NOT_BELOW_NULL, *notes]),
        )
    )
    return findings
