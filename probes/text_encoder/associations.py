"""Associations of prompts with the classes of attributes in the text encoder."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.spec.schema import Spec
from harness.text import slug
from probes.contracts import (
    Figure,
    Finding,
    MetricSpec,
    Reference,
)
from probes.statistics.weat import Association, single, weat
from probes.text_encoder.options import TextOptions
from probes.text_encoder.states import PROBE, READER, about_reader, blank, part_of, states_of

ASSOCIATION = MetricSpec("association in the text encoder", "shift", "standard deviations")

POOLED = ("end", "words")
"""Where a text's vector is taken: the end token's state, which has seen the whole text, and the
mean over its words' tokens."""


def associations(
    table: pd.DataFrame, spec: Spec, options: TextOptions
) -> tuple[list[Finding], list[Figure]]:
    """Each prompt with each attribute of two classes, and the tests that the spec names."""
    findings: list[Finding] = []
    rows = []
    for _, part in table.groupby(READER, sort=False):
        who = about_reader(part.iloc[0], spec)
        name = " · ".join(who.values())
        by_text = part.drop_duplicates("text").set_index("text")
        prompts = part.loc[part["kinds"].map(lambda k: "prompt" in k), "text"]
        for pooled in POOLED:
            vector = _vectors(by_text, pooled)
            for attribute in spec.attributes:
                if not attribute.by_clip or len(attribute.classes) != 2:
                    continue
                one, two = attribute.classes
                a, b = ([vector[p] for p in c.prompts if p in vector] for c in (one, two))
                about = who | {"attribute": attribute.name, "position": pooled}
                if not a or not b:
                    continue
                held = [p for p in prompts if p in vector]
                found = [single(vector[p], np.stack(a), np.stack(b)) for p in held]
                findings += _of_prompts(held, found, about, (one.name, two.name))
                rows += [
                    (p, f.effect, nan, nan, name, f"{attribute.name}, {pooled}", 0.0)
                    for p, f in zip(held, found, strict=True)
                ]
            for test in options.associations:
                sets = [
                    np.stack([vector[t] for t in texts])
                    for texts in (test.x, test.y, test.a, test.b)
                    if all(t in vector for t in texts)
                ]
                about = who | {"test": test.name, "position": pooled}
                if len(sets) == 4:
                    findings.append(_tested(weat(*sets), about, f"weat/{slug(test.name)}"))
    if not rows:
        return findings, []
    columns = ["label", "value", "low", "high", "group", "facet", "target"]
    caption = (
        "Association of each prompt with an attribute's two classes in the text encoder: effect "
        "size in standard deviations, above 0 nearer the first class. Exact for these words; what "
        "other words would give is not known, so there are no intervals."
    )
    alt = "Dots: the association of each prompt with an attribute, one colour a checkpoint."
    return findings, [
        Figure("text/association", "bar", pd.DataFrame(rows, columns=columns), caption, alt)
    ]


def _vectors(by_text: pd.DataFrame, pooled: str) -> dict[str, NDArray[np.float64]]:
    """Each text's vector; a text of punctuation alone has no words and so no vector of them."""
    vectors = {}
    for text, row in by_text.iterrows():
        at = part_of(row, pooled)
        if at:
            vectors[str(text)] = states_of(row)[at].mean(axis=0)
    return vectors


def _of_prompts(
    prompts: list[str], found: list[Association], about: dict[str, str], names: tuple[str, str]
) -> list[Finding]:
    """Each prompt's association: a description, with what the permutations say in its note."""
    findings = []
    for prompt, one in zip(prompts, found, strict=True):
        key = f"association/{about['attribute']}/{slug(prompt)}"
        told = _associated(one, about | {"prompt": prompt}, key)
        if told.status == "measured":
            note = f"above 0: nearer {names[0]} than {names[1]}"
            if np.isfinite(one.p_either):
                note += f"; two-sided permutation p {one.p_either:.3g}, of this prompt alone"
            told = replace(told, note=note)
        findings.append(told)
    return findings


def _tested(found: Association, about: dict[str, str], key: str) -> Finding:
    """A test that the spec names."""
    told = _associated(found, about, key)
    if told.status != "measured":
        return told
    reader = " ".join(about[k] for k in READER if k in about)
    return replace(
        told,
        p=found.p,
        headline=True,
        family=f"{PROBE}/{reader}/associations",
        note="above 0: x with a, y with b; p one-sided",
    )


def _associated(found: Association, about: dict[str, str], key: str) -> Finding:
    partitions = f"{found.partitions:,} partitions{'' if found.exact else ', drawn'}"
    told = blank(key, ASSOCIATION, about)
    if not np.isfinite(found.effect):
        return told.not_measured("all its texts have the same states")
    return replace(
        told,
        value=found.effect,
        low=found.effect,
        high=found.effect,
        n=found.partitions,
        reference=Reference(0.0, 0.0),
        estimator=f"effect size, exact for these texts; p from {partitions}",
    )
