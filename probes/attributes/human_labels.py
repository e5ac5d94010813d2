"""What people's labels on a run's own images say of its shares, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import numpy as np
import pandas as pd

from harness.spec.attributes import AttributeSpec
from harness.text import slug
from probes.attributes.label_agreement import kappa_table
from probes.attributes.metrics import POWERED_SHARE
from probes.attributes.outcomes import reported_classes, subject_of
from probes.contracts import Figure, Finding, Reference
from probes.statistics.prediction_powered import EXACT, prediction_powered_shares
from probes.statistics.seed_clusters import sharing_note

PROBE = "attributes"


def with_labels(
    part: pd.DataFrame,
    attribute: AttributeSpec,
    instrument: str,
    labels: pd.DataFrame,
    drawn: pd.DataFrame | None,
    shared: bool = False,
    targets: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Finding]:
    """Shares over a whole arm that lean on people's labels of some of its images.

    Args:
        part: The arm's rows: cell, prompt, outcome.
        attribute: Of which.
        instrument: What read all images.
        labels: cell, attribute, class, rater; several people's labels of one image are
            averaged.
        drawn: The kept sample (cell, pi, drawn) from which the labelled images come. None: the
            labelled images are supposed to be a random part of all.
        shared: Whether all prompts share the same seeds.
        targets: Targets by prompt, where prompts have their own.
    """
    names = attribute.class_names
    own = labels[labels["attribute"] == attribute.name]
    if own.empty:  # most arms of most runs
        return []
    told = part[part["outcome"].notna()].drop_duplicates("cell").set_index("cell")
    own = own[own["cell"].isin(told.index)]
    if own.empty:
        return []
    votes = pd.crosstab(own["cell"], own["class"], normalize="index")
    votes = votes.reindex(columns=list(names), fill_value=0.0)
    notes = []
    if drawn is None:
        chance = pd.Series(len(votes) / max(len(told), 1), index=told.index)
        notes.append("supposes that the labelled images are a random part of all")
    else:
        pi = drawn.set_index("cell")["pi"]
        new = len(told) - int(told.index.isin(pi.index).sum())
        told = told[told.index.isin(pi.index)]
        in_sample = votes.index.isin(drawn.loc[drawn["drawn"], "cell"])
        beside, votes = int((~in_sample).sum()), votes[in_sample]
        wanted = int(told.index.isin(drawn.loc[drawn["drawn"], "cell"]).sum())
        # Everybody's queue is in random order, so those labelled so far are a random part.
        chance = pi.reindex(told.index) * (len(votes) / max(wanted, 1))
        notes.append(f"of {wanted} drawn with known probability")
        if new:
            notes.append(f"{new} images made after the draw are left out")
        if beside:
            notes.append(f"{beside} labels of images that were not drawn are left out")
    if votes.empty:
        return []
    read = np.stack([(told["outcome"] == c).to_numpy(float) for c in names], axis=1)
    said = votes.reindex(told.index).to_numpy(float)
    seeds = told["seed"] if shared else None
    powered = prediction_powered_shares(read, said, chance.to_numpy(float), told["prompt"], seeds)
    if shared:
        notes.append(sharing_note(told["seed"].nunique()))
    counted = read.sum(axis=0) / max(read.sum(), 1)
    subject = subject_of(part, attribute.name)
    wanted_of = {p: (targets or {}).get(p) or attribute.shares() for p in told["prompt"].unique()}
    findings = []
    for name in reported_classes(attribute):
        k = names.index(name)
        about = [f"{len(votes)} images labelled by people", *notes]
        if powered.methods[k] == EXACT:
            about.append(
                "few labels, few of this class or of others, or few disagreements with the "
                "instrument: an exact interval"
            )
        about.append(f"as counted over the same images {counted[k]:.1%}")
        target = float(told["prompt"].map({p: t[name] for p, t in wanted_of.items()}).mean())
        measured = bool(np.isfinite(powered.value[k]))
        findings.append(
            Finding(
                id=f"{PROBE}/prediction-powered-share/{instrument}/{subject['arm']}/{name}",
                probe=PROBE,
                metric=POWERED_SHARE,
                subject=subject | {"class": name},
                value=float(powered.value[k]) if measured else nan,
                low=float(powered.low[k]),
                high=float(powered.high[k]),
                estimator="prediction-powered, power-tuned, weighted, stratified by prompt; "
                f"{powered.methods[k]} interval at {powered.labels:.0f} effective labels",
                headline=True,
                n=len(told),
                n_clusters=len(votes),
                reference=Reference(target, target, targets={name: target}),
                instrument=instrument,
                reading="prediction-powered",
                status="measured" if measured else "not-measured",
                note="; ".join(about),
            )
        )
    return findings


def agreement_figure(labels: pd.DataFrame, attribute: AttributeSpec) -> list[Figure]:
    """How far several labellers agree; nothing where no image has two labels."""
    table = kappa_table(labels, attribute)
    if table.empty:
        return []
    title = attribute.title or attribute.name
    return [
        Figure(
            f"agreement/{slug(attribute.name)}",
            "table",
            table,
            f"{title}: how far labellers agree (Fleiss' kappa, with 95 % intervals over images). "
            "1 is full agreement, 0 none beyond chance.",
            f"{title}: a table of agreement by the number of labels an image has.",
            subject={"attribute": attribute.name},
        )
    ]
