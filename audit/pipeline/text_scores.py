"""What text encoders make of the texts of a spec: scored once a checkpoint, without images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.models.token_alignment import Reading, encoded_text, read_prompt
from harness.spec.schema import Spec
from harness.spec.sections import CheckpointSpec, strengths
from probes.text_encoder.states import COUNTED

if TYPE_CHECKING:
    from torch import Tensor

    from audit.pipeline.session import Audit
    from harness.generate.sampling import Generator
    from harness.models.families.base import Reader
    from harness.progress import Say

FILE = "text"
ADDED = ("LoRA", "embedding")
"""Kinds in provenance of what a text encoder may be given."""


def texts_of(
    spec: Spec,
    checkpoint: CheckpointSpec,
    prompts: list[str],
    adapters: str = "none",
    more: Iterable[str] = (),
    counted: Iterable[str] = (),
) -> dict[str, list[str]]:
    """All texts that are looked at, each with what it is needed for.

    Args:
        spec: The spec.
        checkpoint: Whose trigger is put before the prompts.
        prompts: The suite's.
        adapters: The level of that factor, whose trigger goes first.
        more: Texts that a probe asks for besides.
        counted: Texts whose tokens alone are wanted.

    Returns:
        By text: 'prompt', 'negative', 'word' (of an attribute or a test of association) and
        'counted'.
    """
    words = [p for a in spec.attributes if a.by_clip for c in a.classes for p in c.prompts]
    words += more
    negatives = spec.negatives.values() if checkpoint.negative is None else [checkpoint.negative]
    trigger = spec.adapters[adapters].trigger if adapters in spec.adapters else ""
    kinds: dict[str, list[str]] = {}
    for kind, texts in (
        ("prompt", [trigger + checkpoint.trigger + p for p in prompts]),
        ("negative", list(negatives)),
        ("word", words),
        (COUNTED, list(counted)),
    ):
        for text in texts:
            kinds.setdefault(text, [])
            if kind not in kinds[text]:
                kinds[text].append(kind)
    return kinds


def texts_wanted(audit: Audit) -> tuple[list[str], list[str]]:
    """Texts that the instruments of texts ask for beside those of the spec.

    Returns:
        Those to be encoded, and those whose tokens are to be counted.
    """
    held = [i for i in audit.instruments if "text" in i.inputs]
    encoded = [text for i in held for text in getattr(i, "texts", ())]
    return encoded, [text for i in held for text in getattr(i, "counted", ())]


def text_units(audit: Audit) -> dict[str, str]:
    """By checkpoint, the name of its text scores: of all that the states depend on."""
    spec, (more, counted) = audit.spec, texts_wanted(audit)
    provenance = audit.run.provenance() or {"audited": []}
    digests = {a["name"]: a["digest"] for a in provenance["audited"] if a["kind"] == "text encoder"}
    prompts = [p.text for p in audit.prompts]
    files = {a["source"]: a["digest"] for a in provenance["audited"] if a["kind"] in ADDED}
    units = {}
    for name, checkpoint in spec.checkpoints.items():
        if name not in digests:
            continue
        levels = [
            [
                texts_of(spec, checkpoint, prompts, level, more, counted),
                {files[s]: both for s, both in strengths(checkpoint.loras, adapter.loras).items()},
            ]
            for level, adapter in spec.adapters.items()
        ]
        words = {word: files[source] for word, source in spec.embeddings.items()}
        about = [name, digests[name], checkpoint.trigger, levels, words, spec.prompt_syntax]
        if spec.clip_skip_of(name) > 1:
            about.append(spec.clip_skip_of(name))
        if spec.in_chunks:
            about.append("chunks")
        units[name] = "text-" + canonical_digest(about)[:16]
    return units


def score_texts(audit: Audit, folder: str, say: Say) -> None:
    """Write the text scores that are not there yet."""
    spec, (more, counted) = audit.spec, texts_wanted(audit)
    prompts = [p.text for p in audit.prompts]
    # Generation ended with the last checkpoint: it comes first.
    for name, unit in reversed(text_units(audit).items()):
        if audit.run.scores_path(folder, unit, FILE).exists():
            continue
        source = spec.checkpoints[name]
        generator = audit.checkpoints.load(name).generator
        rows = []
        for level in spec.adapters:
            generator.adapt(level)
            for text, kind in texts_of(spec, source, prompts, level, more, counted).items():
                rows += text_rows(name, level, generator, text, kind)
        audit.run.write_scores(folder, unit, FILE, pd.DataFrame(rows, columns=COLUMNS))
        say(f"text {name}: {len({row['text'] for row in rows})} texts")


COLUMNS = [
    "cell",
    "checkpoint",
    "adapters",
    "encoder",
    "text",
    "kinds",
    "tokens",
    "length",
    "used",
    "wanted",
    "cut",
    "starts",
    "start_at",
    "end_at",
    "padding_at",
    "words_at",
    "width",
    "states",
]


def text_rows(
    checkpoint: str, adapters: str, generator: Generator, text: str, kinds: list[str]
) -> list[JsonObject]:
    """One text as one checkpoint gets it, a row for each encoder that reads it by itself.

    Returns:
        cell (checkpoint, adapters, encoder and text, for a key), checkpoint, adapters (the level),
        encoder ('CLIP' or 'T5'; '' where all read it as one), text, kinds, tokens (as spelled in
        the vocabulary), length, used, wanted, cut, starts (whether a token of its own begins it),
        start_at, end_at, padding_at and words_at (positions of those tokens), width, and states:
        the hidden states that the denoiser sees, (length, width) as one flat list, empty of a text
        that is counted alone. No row of a pipeline of no known family.
    """
    about = {"checkpoint": checkpoint, "adapters": adapters, "text": text, "kinds": kinds}
    shown = encoded_text(generator.pipe, generator.reader.plain(text))
    readers = generator.family.readers()
    encoded = readers and kinds != [COUNTED]
    hidden = generator.embed(text)["prompt_embeds"][0] if encoded else None
    how = (generator.reader.in_chunks, generator.reader.weighs)
    made = []
    for reader in readers:
        reading = read_prompt(reader.tokenizer, shown, reader.length, *how)
        made.append(about | _read_by(reader, reading, hidden, about))
    return made


def _read_by(
    reader: Reader, reading: Reading, hidden: Tensor | None, about: JsonObject
) -> JsonObject:
    states = np.zeros((0, 0), np.float32)
    if hidden is not None:
        states = hidden[reader.first : reader.first + reading.length].float().cpu().numpy()
    key = (about["checkpoint"], about["adapters"], reader.name, about["text"])
    return {
        "cell": "|".join(key),
        "encoder": reader.name,
        "tokens": list(reading.pieces),
        "length": reading.length,
        "used": reading.used,
        "wanted": reading.wanted,
        "cut": reading.cut,
        "starts": bool(reading.start_at),
        "start_at": list(reading.start_at),
        "end_at": list(reading.end_at),
        "padding_at": list(reading.padding_at),
        "words_at": [t for w in reading.words for t in w.tokens],
        "width": states.shape[1],
        "states": np.ascontiguousarray(states).ravel(),
    }
