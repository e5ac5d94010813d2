"""The prompt as the model gets it: tokens, cuts, and where it lies among other texts.

All of it is read from the hidden states that the denoiser sees (all positions of the last layer
that the pipeline hands on), not from a pooled embedding. No image is needed, and none is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.spec.schema import Spec
from probes.contracts import (
    AnalysisInput,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    Result,
)
from probes.registry import register
from probes.statistics.intervals import FEWEST_PROMPTS, mean_over_prompts
from probes.text_encoder.associations import associations
from probes.text_encoder.options import TextOptions
from probes.text_encoder.states import (
    COUNTED,
    PARTS,
    PROBE,
    READER,
    TextStates,
    about_reader,
    blank,
    exact,
    part_of,
    states_of,
)
from probes.text_encoder.token_tax import token_tax

CUT = MetricSpec("prompts cut short", unit="prompts and negatives", better="lower")
DISTANCE = MetricSpec(
    "difference of the text's hidden states", "distance", "of their size", span=2.0
)
WEIGHTS = re.compile(r"\([^()]*:\s*\d+(\.\d+)?\s*\)|\(\([^()]+\)\)|\[[^\[\]]+\]")


@register
class TextProbe(Probe[TextOptions]):
    """How the text encoders read these prompts, and how they differ."""

    name = PROBE
    Options = TextOptions

    def instruments(self, options: TextOptions, spec: Spec) -> Sequence[Instrument]:
        """One, for all checkpoints."""
        tests = options.associations
        words = [text for t in tests for text in (*t.x, *t.y, *t.a, *t.b)]
        groups = [texts for by_group in options.token_tax.values() for texts in by_group.values()]
        return (TextStates(words, [text for texts in groups for text in texts]),)

    def analyse(self, given: AnalysisInput[TextOptions]) -> Result:
        """Tokens and cuts; distances between checkpoints; associations."""
        tables, _, _, spec, options = given
        table = tables[TextStates.name]
        if not len(table):
            note = "no text encoder was read: the images were made elsewhere, or by a pipeline "
            note += "of no family known here"
            return Result([blank("cut", CUT, {}).not_measured(note)])
        for column in ("adapters", "encoder"):  # runs made before they were told apart
            table = table if column in table else table.assign(**{column: ""})
        findings, figures = tokens(table, spec)
        tax = token_tax(table, spec, options.token_tax)
        table = table[table["kinds"].map(lambda kinds: list(kinds) != [COUNTED])]
        for found, shown in (distances(table, spec), associations(table, spec, options), tax):
            findings += found
            figures += shown
        return Result(findings, figures)


def tokens(table: pd.DataFrame, spec: Spec) -> tuple[list[Finding], list[Figure]]:
    """How many prompts are cut, by checkpoint, and the prompts as the models get them."""
    findings = []
    held = table[table["kinds"].map(lambda k: "prompt" in k or "negative" in k)]
    for _, part in held.groupby(READER, sort=False):
        cut = int((part["wanted"] > part["used"]).sum())
        about = about_reader(part.iloc[0], spec)
        note = f"{int(part['length'].iloc[0])} tokens fit; the rest is never read"
        findings.append(replace(exact("cut", CUT, about, cut, len(part)), note=note))
    shown = held.assign(
        tokens=held["tokens"].map(" ".join),
        seen=[f"{u} of {w}" for u, w in zip(held["used"], held["wanted"], strict=True)],
        note=held["text"].map(_note) if spec.prompt_syntax == "none" else "",
    )
    who = [k for k in READER if k == "checkpoint" or shown[k].nunique() > 1]
    shown = shown[[*who, "text", "tokens", "seen", "cut", "note"]]
    caption = (
        "Prompts and negatives as the models get them: tokens as the vocabulary spells them, with "
        "start and end, how many of them are seen, and the text that is cut off."
    )
    alt = "A table of the prompts with their tokens."
    return findings, [Figure("text/tokens", "table", shown.reset_index(drop=True), caption, alt)]


def _note(text: str) -> str:
    found = WEIGHTS.search(text)
    return f"{found[0]!r} is read as plain text: weights are not applied" if found else ""


def distance(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Distance of two tensors of states as a part of their mean size; 0 for the same numbers.

    ‖one − two‖ / ((‖one‖ + ‖two‖) / 2): 0 where equal, √2 for orthogonal states of one size, at
    most 2.
    """
    size = (np.linalg.norm(one) + np.linalg.norm(two)) / 2
    return float(np.linalg.norm(one - two) / size) if size else 0.0


def distances(table: pd.DataFrame, spec: Spec) -> tuple[list[Finding], list[Figure]]:
    """How far each checkpoint's states of the prompts are from the baseline's, by position.

    The baseline is read without what the factor adapters adds beyond its first level.
    """
    # Scores lie in the order of their files' names, which is none.
    names = [name for name in spec.checkpoints if (table["checkpoint"] == name).any()]
    base = spec.baseline or names[0]
    basis = table[table["checkpoint"] == base]
    basis = basis[basis["adapters"] == basis["adapters"].iloc[0]]
    findings: list[Finding] = []
    rows = []
    prompted = table[table["kinds"].map(lambda k: "prompt" in k)]
    held = dict(iter(prompted.groupby(READER, sort=False)))
    for key in sorted(held, key=lambda k: names.index(k[0])):
        own = held[key]
        if key[:2] == (base, basis["adapters"].iloc[0]):
            continue
        about = about_reader(own.iloc[0], spec) | {"baseline": base}
        title = " · ".join(v for k, v in about.items() if k != "baseline")
        known = basis[basis["encoder"] == key[2]].set_index("text")
        own = own[own["text"].isin(known.index)]
        unmeasured = blank("distance", DISTANCE, about)
        if not len(own):
            note = "no text that both read: their trigger words or their text encoders differ"
            findings.append(unmeasured.not_measured(note))
            continue
        if (own["width"].to_numpy() != known.loc[own["text"], "width"].to_numpy()).any():
            note = "the text encoders' states have other widths"
            findings.append(unmeasured.not_measured(note))
            continue
        for part in PARTS:
            values = []
            for _, row in own.iterrows():
                at = part_of(row, part)
                if at:
                    values.append(
                        distance(states_of(row)[at], states_of(known.loc[row["text"]])[at])
                    )
            if values:
                findings += _over_prompts(part, about, np.array(values))
            if part == PARTS[0]:
                rows += [
                    (text, value, nan, nan, title)
                    for text, value in zip(own["text"], values, strict=True)
                ]
    if not rows:
        return findings, []
    shown = pd.DataFrame(rows, columns=["label", "value", "low", "high", "group"])
    caption = (
        f"How far each prompt's hidden states are from those of {base}, as a part of their size: "
        "0 is the same, bit for bit. Exact for these prompts, so there are no intervals."
    )
    alt = "Dots: the distance of each prompt's hidden states from the baseline's."
    return findings, [Figure("text/distance", "bar", shown, caption, alt)]


def _over_prompts(part: str, about: dict[str, str], values: NDArray[np.float64]) -> list[Finding]:
    """The mean over these prompts, which is exact, and over prompts like these."""
    subject = about | {"position": part}
    first = exact("distance", DISTANCE, subject, values.mean(), len(values))
    same = "the same numbers, bit for bit" if not values.any() else ""
    first = replace(first, note=same, headline=part == PARTS[0])
    if len(values) < FEWEST_PROMPTS or not values.any():
        return [first]
    value, low, high = mean_over_prompts([np.array([v]) for v in values], "prompts like these")
    like = replace(
        first,
        id=f"{first.id}/prompts-like-these",
        value=value,
        low=low,
        high=high,
        estimand="prompts like these",
        estimator="mean over prompts, t",
        headline=False,
    )
    return [first, like]
