"""What text encoders make of the texts of a spec: scored once a checkpoint, without images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from audit.spec import CheckpointSpec, Spec, canonical_digest
from audit.text.words import encoded_text, read_words

if TYPE_CHECKING:
    from audit.opening import Audit
    from audit.progress import Say

FILE = "text"


def texts_of(spec: Spec, checkpoint: CheckpointSpec, prompts: list[str]) -> dict[str, list[str]]:
    """All texts that are looked at, each with what it is needed for.

    They go through the checkpoint's own text encoder: without adapters and their triggers.

    Returns:
        By text: 'prompt', 'negative' and 'word' (of an attribute or a test of association).
    """
    words = [
        p for a in spec.attributes if a.instrument == "clip" for c in a.classes for p in c.prompts
    ]
    for test in spec.text.associations:
        words += [*test.x, *test.y, *test.a, *test.b]
    negatives = spec.negatives.values() if checkpoint.negative is None else [checkpoint.negative]
    kinds: dict[str, list[str]] = {}
    for kind, texts in (
        ("prompt", [checkpoint.trigger + p for p in prompts]),
        ("negative", list(negatives)),
        ("word", words),
    ):
        for text in texts:
            kinds.setdefault(text, [])
            if kind not in kinds[text]:
                kinds[text].append(kind)
    return kinds


def text_units(audit: Audit) -> dict[str, str]:
    """By checkpoint, the name of its text scores: of its encoder's digest and the texts."""
    provenance = audit.run.read_json("provenance.json") or {"audited": []}
    digests = {a["name"]: a["digest"] for a in provenance["audited"] if a["kind"] == "text encoder"}
    prompts = [p.text for p in audit.prompts]
    return {
        name: "text-"
        + canonical_digest(
            [name, digests[name], texts_of(audit.spec, checkpoint, prompts), checkpoint.trigger]
        )[:16]
        for name, checkpoint in audit.spec.checkpoints.items()
        if name in digests
    }


def score_texts(audit: Audit, folder: str, say: Say) -> None:
    """Write the text scores that are not there yet; loads one checkpoint after the other."""
    from audit.checkpoints import models
    from audit.generate import Generator

    for name, unit in text_units(audit).items():
        if audit.run.scores_path(folder, unit, FILE).exists():
            continue
        source = audit.spec.checkpoints[name]
        loaded = models.load_checkpoint(name, source, audit.base, audit.device, audit.dtype)
        generator = Generator(loaded.pipe, 1)
        kinds = texts_of(audit.spec, source, [p.text for p in audit.prompts])
        rows = [text_row(name, generator, text, kind) for text, kind in kinds.items()]
        audit.run.write_scores(folder, unit, FILE, pd.DataFrame(rows))
        say(f"text {name}: {len(rows)} texts")


def text_row(checkpoint: str, generator: Any, text: str, kinds: list[str]) -> dict[str, Any]:
    """One text as one checkpoint gets it.

    Returns:
        cell (checkpoint and text, for a key), checkpoint, text, kinds, tokens (as spelled in the
        vocabulary), length, used, wanted, cut, words_at (positions of words' tokens), width, and
        states: the hidden states that the denoiser sees, (length, width) as one flat list.
    """
    tokenizer = generator.pipe.tokenizer
    shown = encoded_text(generator.pipe, text)
    reading = read_words(tokenizer, shown)
    ids = tokenizer(shown, truncation=True, max_length=reading.length)["input_ids"]
    states = generator.embed(text)["prompt_embeds"][0].float().cpu().numpy()
    return {
        "cell": f"{checkpoint}|{text}",
        "checkpoint": checkpoint,
        "text": text,
        "kinds": kinds,
        "tokens": tokenizer.convert_ids_to_tokens(ids),
        "length": reading.length,
        "used": reading.used,
        "wanted": reading.wanted,
        "cut": reading.cut,
        "words_at": [t for w in reading.words for t in w.tokens],
        "width": states.shape[1],
        "states": np.ascontiguousarray(states).ravel(),
    }
