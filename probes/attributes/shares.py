"""Shares of one arm: prompt by prompt, over all its prompts, and with people's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd

from harness.spec.attributes import AttributeSpec
from harness.text import slug
from probes.attributes.metrics import (
    MEAN_SHARE,
    MEAN_TOTAL_VARIATION,
)
from probes.attributes.outcomes import counts_by_prompt, reported_classes, subject_of
from probes.contracts import Finding, Reference
from probes.statistics.intervals import (
    FEWEST_CARRIERS,
    Estimand,
    carriers,
    mean_share_over_prompts,
)
from probes.statistics.mean_distance import mean_distance
from probes.statistics.pairing import without_images
from probes.statistics.seed_clusters import mean_distance_by_seed, mean_share_by_seed, sharing_note
from probes.statistics.share_test import wilson_p
from probes.statistics.total_variation import is_degenerate

PROBE = "attributes"
ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")
NOT_BELOW_NULL = (
    "the counted distance, to be read beside its null: at a small n even a model on target is off; "
    "the interval is that of the true distance"
)
FEW = (
    "comes from about {:.0f} of {} prompts: for other prompts the interval may hold the true share "
    "in fewer than 90 % of audits"
)
Targets = Mapping[str, Mapping[str, float]]


def kept_notes(note: str) -> list[str]:
    """The note, where there is one."""
    return [note] if note else []


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
                        [*kept_notes(blank.note), *([FEW.format(few, len(seen))] if unsure else [])]
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
