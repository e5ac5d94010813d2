"""Where a model looks when it reads a word: cross-attention by word, in numbers and maps.

Share of attention, its spread and entropy, its overlap between words, all over the steps. These
describe the model; they do not say what would happen without the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd

from harness.images.image_ref import ImageRef
from harness.plan.cells import arm_labels
from harness.spec.schema import Spec
from harness.taps.attention_words import CHANCE_OVERLAP, END, START
from harness.taps.record import Tap
from harness.text import slug
from probes.attention.instrument import MASS, CrossAttention
from probes.attention.options import AttentionOptions
from probes.contracts import (
    AnalysisInput,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    Reference,
    Result,
)
from probes.registry import register
from probes.statistics.intervals import mean_over_prompts

PROBE = "attention"
SPREAD = MetricSpec("spread of attention", "level", "sides of the image", None, "spread")
OVERLAP = MetricSpec("overlap of attention", "level", "IoU", None, span=1.0)
UNIFORM_SPREAD = sqrt(1 / 6)
"""Spread of attention that is alike everywhere, in sides of the image."""
SHORT = 3
"""Findings tell of words longer than this; all words are in the scores."""
MOST_WORDS = 8
MOST_SHOWN = 6


@register
class AttentionProbe(Probe[AttentionOptions]):
    """What each word of a prompt is given of the model's attention, and where."""

    name = PROBE
    Options = AttentionOptions

    def instruments(self, options: AttentionOptions, spec: Spec) -> Sequence[Instrument]:
        """The cross-attention of every image made here."""
        return (CrossAttention(options),)

    def taps(self, options: AttentionOptions, spec: Spec) -> Sequence[Tap]:
        """What follows cross-attention."""
        from harness.taps.attention_record import AttentionRecorder

        kept = (options.maps, options.negative, options.layers, options.stages)
        return (AttentionRecorder(*kept, first_seed=spec.seeds.start),)

    def analyse(self, given: AnalysisInput[AttentionOptions]) -> Result:
        """By arm, prompt and word: share of attention, spread, overlap; maps and lines."""
        tables, plan, _, _, options = given
        # The VAE has no part in attention: of cells that share a trajectory one is enough.
        own = plan.drop_duplicates("trajectory")
        own = own.assign(arm=arm_labels(own))
        table = tables["attention"]
        if not len(table):
            return Result([_not_measured("no image was followed")])
        table = own.merge(table.drop_duplicates(["cell", "half", "index"]), on="cell")
        followed = table[table["half"] != ""]
        if not len(followed):
            notes = table["note"]
            return Result(
                [_not_measured(str(notes.iloc[0]) if len(notes) else "no image was made")]
            )
        findings: list[Finding] = []
        for (arm, half), part in followed.groupby(["arm", "half"], sort=False):
            findings += _of_arm(str(arm), str(half), part)
            for prompt, of_prompt in part.groupby("prompt", sort=False):
                findings += _of_prompt(str(arm), str(half), str(prompt), of_prompt)
        prompted = followed[followed["half"] == "prompt"]
        return Result(findings, [_lines(prompted), *_heat(prompted, options.stages)])


def content_words(words: Iterable[str]) -> list[str]:
    """The words that findings tell of: longer than three letters, at most eight; else all."""
    own = [w for w in dict.fromkeys(words) if w not in (START, END)]
    long = [w for w in own if len(w.partition(" (")[0]) > SHORT]
    return (long or own)[:MOST_WORDS]


def _of_arm(arm: str, half: str, part: pd.DataFrame) -> list[Finding]:
    """Attention to the start token, to the end and padding, and to the words, over prompts."""
    kind = part["word"].where(part["word"].isin([START, END]), "words")
    sums = part.assign(kind=kind).groupby(["kind", "prompt", "cell"], sort=False)["mass"].sum()
    findings = []
    for name in ("words", START, END):
        if name not in sums.index.get_level_values("kind"):
            continue  # a prompt of punctuation alone has no words
        own = sums[name]
        by_prompt = [g.to_numpy() for _, g in own.groupby(level="prompt", sort=False)]
        value, low, high = mean_over_prompts(by_prompt, "this suite")
        what = {"words": "all words", START: "the start token", END: "the end and padding"}[name]
        found = _mean(own, part.iloc[0], MASS)
        findings.append(
            replace(
                found,
                id=f"{PROBE}/mass/{slug(arm)}/{half}/{slug(name.strip('<>'))}",
                subject=_subject(arm, half, part.iloc[0]) | {"word": what},
                value=value,
                low=low,
                high=high,
                estimator="mean over prompts, t over seeds",
                n_clusters=len(by_prompt),
            )
        )
    return findings


def _of_prompt(arm: str, half: str, prompt: str, part: pd.DataFrame) -> list[Finding]:
    """Of one prompt's content words: share of attention, spread, and overlap of each two."""
    words = content_words(part["word"])
    index = part.drop_duplicates("word").set_index("word")["index"]
    findings = []
    for n, word in enumerate(words):
        own = part[part["word"] == word]
        subject = _subject(arm, half, own.iloc[0]) | {"prompt": prompt, "word": word}
        at = f"{slug(arm)}/{half}/{slug(prompt)}/{slug(word)}"
        mass = _mean(own["mass"], own.iloc[0], MASS)
        spread = _mean(own["spread"], own.iloc[0], SPREAD)
        findings += [
            replace(mass, id=f"{PROBE}/mass/{at}", subject=subject),
            replace(
                spread,
                id=f"{PROBE}/spread/{at}",
                subject=subject,
                reference=Reference(null=UNIFORM_SPREAD),
            ),
        ]
        for other in words[n + 1 :]:
            shared = own["overlap"].map(lambda o, k=int(index[other]): float(o[k]))
            found = _mean(shared, own.iloc[0], OVERLAP)
            findings.append(
                replace(
                    found,
                    id=f"{PROBE}/overlap/{at}/{slug(other)}",
                    subject=subject | {"other word": other},
                    reference=Reference(null=CHANCE_OVERLAP),
                )
            )
    return findings


def _mean(values: pd.Series, row: pd.Series, metric: MetricSpec) -> Finding:
    """Mean over the seeds of one prompt, with its t interval."""
    value, low, high = mean_over_prompts([values.to_numpy(float)], "this suite")
    return Finding(
        id="",
        probe=PROBE,
        metric=metric,
        value=value,
        low=low,
        high=high,
        estimator="mean over seeds, t",
        n=len(values),
        n_clusters=1,
        instrument=CrossAttention.name,
        note=str(row["note"]),
    )


def _subject(arm: str, half: str, row: pd.Series) -> dict[str, str]:
    about = {"checkpoint": str(row["checkpoint"]), "arm": arm}
    return about | ({"half": half} if half != "prompt" else {})


def _not_measured(why: str) -> Finding:
    return Finding(
        id=f"{PROBE}/mass",
        probe=PROBE,
        metric=MASS,
        instrument=CrossAttention.name,
    ).not_measured(why)


def _lines(table: pd.DataFrame) -> Figure:
    """Attention to the content words over the forwards: mean over seeds with t intervals."""
    rows = []
    for (arm, prompt), part in list(table.groupby(["arm", "prompt"], sort=False))[:MOST_SHOWN]:
        for word in content_words(part["word"]):
            steps = np.stack([np.asarray(m) for m in part.loc[part["word"] == word, "mass_steps"]])
            for step, values in enumerate(steps.T, 1):
                value, low, high = mean_over_prompts([values], "this suite")
                rows.append((step, value, low, high, word, f"{arm} · {prompt}"))
    return Figure(
        "attention/steps",
        "line",
        pd.DataFrame(rows, columns=["x", "value", "low", "high", "group", "facet"]),
        "Share of all cross-attention that goes to each word, by step; the rest goes to other "
        "words and, most of it, to the start and end tokens. 95 % intervals over seeds.",
        "Lines of the share of attention over the steps, one for each word of a prompt.",
    )


def _heat(table: pd.DataFrame, stages: int) -> list[Figure]:
    """The kept maps over their images: a row an image, or an image's word by stage."""
    kept = table[table["map"].astype(bool) & ~table["word"].isin([START, END])]
    rows: list[tuple[str, str, str, str]] = []
    by_stage: list[tuple[str, str, str, str]] = []
    for cell in list(dict.fromkeys(kept["cell"]))[: 2 * MOST_SHOWN]:
        own = kept[kept["cell"] == cell]
        first = own.iloc[0]
        name = f"{first['arm']} · {first['prompt']}"
        name += f" · seed {first['seed']}" if kept["seed"].nunique() > 1 else ""
        rows.append((name, "image", cell, ""))
        words = content_words(own["word"])
        for n, word in enumerate(words, 1):
            index = int(own.loc[own["word"] == word, "index"].iloc[0])
            rows.append((name, f"word {n}", str(ImageRef(cell, word=index)), word))
            for stage in range(stages):
                under = str(ImageRef(cell, word=index, stage=stage))
                by_stage.append((f"{name} · {word}", f"stage {stage + 1} of {stages}", under, ""))
    meant = (
        "each map is scaled from 0 to its own maximum, so colours compare places, not {}. A map "
        "shows where the model looked, not what it would draw without the word."
    )
    shown = (
        (
            "maps",
            rows,
            "Where attention to a word is, over all layers and steps; " + meant.format("words"),
            "Images with heat maps over them: a row an image, a column a word of its prompt.",
        ),
        (
            "stages",
            by_stage,
            "Where attention to a word is at each stage, from much noise to little, equal parts of "
            "the noise levels; " + meant.format("stages"),
            "Images with heat maps over them: a row a word of an image's prompt, a column a stage.",
        ),
    )
    columns = ["row", "column", "cell", "caption"]
    return [
        Figure(
            f"{PROBE}/{key}", "heat-over-image", pd.DataFrame(told, columns=columns), caption, alt
        )
        for key, told, caption, alt in shown
        if told
    ]
