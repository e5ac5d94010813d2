"""The prompt as the model gets it: tokens, cuts, and where it lies among other texts.

All of it is read from the hidden states that the denoiser sees (all positions of the last layer
that the pipeline hands on), not from a pooled embedding. No image is needed, and none is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.spec.schema import Spec
from harness.text import slug
from probes.contracts import (
    AnalysisInput,
    Batch,
    Context,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    Reference,
    Result,
)
from probes.registry import register
from probes.statistics.intervals import FEWEST_PROMPTS, mean_over_prompts
from probes.statistics.weat import Association, single, weat
from probes.text_encoder.options import TextOptions

PROBE = "text"
CUT = MetricSpec("prompts cut short", unit="prompts and negatives", better="lower")
DISTANCE = MetricSpec(
    "difference of the text's hidden states", "distance", "of their size", span=2.0
)
ASSOCIATION = MetricSpec("association in the text encoder", "shift", "standard deviations")
WEIGHTS = re.compile(r"\([^()]*:\s*\d+(\.\d+)?\s*\)|\(\([^()]+\)\)|\[[^\[\]]+\]")
READER = ["checkpoint", "adapters", "encoder"]
PARTS = ("all positions", "start", "words", "end", "padding")
POOLED = ("end", "words")
"""Where a text's vector is taken: the end token's state, which has seen the whole text, and the
mean over its words' tokens."""


class TextStates:
    """Tokens and hidden states of each text; measured once a checkpoint, not by batch.

    Args:
        texts: Texts wanted beside the spec's prompts, negatives and attributes.
    """

    name = "text"
    version = "2"
    inputs = frozenset({"text"})

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.texts = texts

    def cache_key(self) -> dict[str, Any]:
        """Version."""
        return {"version": self.version, "name": self.name}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Nothing: texts are measured once a checkpoint, without images."""
        return pd.DataFrame({"cell": pd.Series(dtype=str)})


@register
class TextProbe(Probe[TextOptions]):
    """How the text encoders read these prompts, and how they differ."""

    name = PROBE
    Options = TextOptions

    def instruments(self, options: TextOptions, spec: Spec) -> Sequence[Instrument]:
        """One, for all checkpoints."""
        tests = options.associations
        return (TextStates([text for t in tests for text in (*t.x, *t.y, *t.a, *t.b)]),)

    def analyse(self, given: AnalysisInput[TextOptions]) -> Result:
        """Tokens and cuts; distances between checkpoints; associations."""
        tables, _, _, spec, options = given
        table = tables[TextStates.name]
        if not len(table):
            note = "no text encoder was read: the images were made elsewhere, or by a pipeline "
            note += "of no family known here"
            return Result([_finding("cut", CUT, {}).not_measured(note)])
        for column in ("adapters", "encoder"):  # runs made before they were told apart
            table = table if column in table else table.assign(**{column: ""})
        findings, figures = tokens(table, spec)
        for found, shown in (distances(table, spec), associations(table, spec, options)):
            findings += found
            figures += shown
        return Result(findings, figures)


def _about(row: pd.Series, spec: Spec) -> dict[str, str]:
    """Who reads: checkpoint, adapters where they vary, encoder where it is not the only one."""
    about = {"checkpoint": str(row["checkpoint"])}
    if len(spec.adapters) > 1:
        about["adapters"] = str(row["adapters"])
    return about | ({"encoder": str(row["encoder"])} if row["encoder"] else {})


def tokens(table: pd.DataFrame, spec: Spec) -> tuple[list[Finding], list[Figure]]:
    """How many prompts are cut, by checkpoint, and the prompts as the models get them."""
    findings = []
    held = table[table["kinds"].map(lambda k: "prompt" in k or "negative" in k)]
    for _, part in held.groupby(READER, sort=False):
        cut = int((part["wanted"] > part["used"]).sum())
        about = _about(part.iloc[0], spec)
        note = f"{int(part['length'].iloc[0])} tokens fit; the rest is never read"
        findings.append(replace(_exact("cut", CUT, about, cut, len(part)), note=note))
    shown = held.assign(
        tokens=held["tokens"].map(" ".join),
        seen=[f"{u} of {w}" for u, w in zip(held["used"], held["wanted"], strict=True)],
        note=held["text"].map(_note) if spec.weighting == "none" else "",
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


def states_of(row: pd.Series) -> NDArray[np.float64]:
    """Hidden states of one text, (length, width)."""
    return np.asarray(row["states"], float).reshape(-1, int(row["width"]))


def part_of(row: pd.Series, part: str) -> list[int]:
    """Positions of a part of the text: see `PARTS`; may be empty."""
    used, length = int(row["used"]), int(row["length"])
    positions = {
        "all positions": range(length),
        "start": range(int(row.get("starts", True))),
        "words": row["words_at"],
        "end": range(used - 1, used),
        "padding": range(used, length),
    }
    return [int(p) for p in positions[part]]


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
        about = _about(own.iloc[0], spec) | {"baseline": base}
        title = " · ".join(v for k, v in about.items() if k != "baseline")
        known = basis[basis["encoder"] == key[2]].set_index("text")
        own = own[own["text"].isin(known.index)]
        blank = _finding("distance", DISTANCE, about)
        if not len(own):
            note = "no text that both read: their trigger words or their text encoders differ"
            findings.append(blank.not_measured(note))
            continue
        if (own["width"].to_numpy() != known.loc[own["text"], "width"].to_numpy()).any():
            note = "the text encoders' states have other widths"
            findings.append(blank.not_measured(note))
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
    first = _exact("distance", DISTANCE, subject, values.mean(), len(values))
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


def associations(
    table: pd.DataFrame, spec: Spec, options: TextOptions
) -> tuple[list[Finding], list[Figure]]:
    """Each prompt with each attribute of two classes, and the tests that the spec names."""
    findings: list[Finding] = []
    rows = []
    for _, part in table.groupby(READER, sort=False):
        who = _about(part.iloc[0], spec)
        name = " · ".join(who.values())
        by_text = part.drop_duplicates("text").set_index("text")
        prompts = part.loc[part["kinds"].map(lambda k: "prompt" in k), "text"]
        for pooled in POOLED:
            vector = _vectors(by_text, pooled)
            for attribute in spec.attributes:
                if attribute.instrument != "clip" or len(attribute.classes) != 2:
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
    told = _finding(key, ASSOCIATION, about)
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


def _exact(key: str, metric: MetricSpec, about: dict[str, str], value: float, n: int) -> Finding:
    """A number that no sampling went into: its interval is the number itself."""
    return replace(
        _finding(key, metric, about),
        value=float(value),
        low=float(value),
        high=float(value),
        n=n,
        n_clusters=n,
        estimator="exact for these prompts",
    )


def _finding(key: str, metric: MetricSpec, about: dict[str, str]) -> Finding:
    place = "/".join(slug(about[k]) for k in (*READER, "position") if k in about)
    return Finding(
        id=f"{PROBE}/{key}/{place}".rstrip("/"),
        probe=PROBE,
        metric=metric,
        subject=about,
        instrument=TextStates.name,
    )
