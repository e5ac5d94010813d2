"""Notation of other tools in prompts, which the text encoder would read as plain words.

Nothing here changes a prompt: each kind that is found gives one warning, which quotes it and says
what to do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

_AS_WORDS = "read as plain words"


class Kind(NamedTuple):
    """One notation."""

    name: str
    pattern: re.Pattern[str]
    advice: str
    weighting: bool = False
    """Whether `prompt_syntax: a1111` reads or refuses it."""


KINDS = (
    Kind(
        "a LoRA in a prompt",
        re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE),
        "put it under adapters, and take it out of the prompt",
        True,
    ),
    Kind(
        "an embedding as ComfyUI names it",
        re.compile(r"\bembedding:[^\s,()]+", re.IGNORECASE),
        "name its file under embeddings, and write the name alone in the prompt",
    ),
    Kind(
        "a textual inversion's name",
        re.compile(r"<(?!(?:lora|lyco|hypernet):)[^<>\s:|]+>", re.IGNORECASE),
        "name its file under embeddings: {'<NAME>': FILE}",
    ),
    Kind(
        "a choice of a prompt generator",
        re.compile(r"\{[^{}]*\|[^{}]*\}"),
        "list the prompts, or use a template with slots",
    ),
    Kind(
        "a wildcard of a prompt generator",
        re.compile(r"(?<!\w)__[\w/\-*]+?__(?!\w)"),
        "list the prompts, or use a template with slots",
    ),
    Kind(
        "a weight",
        re.compile(r"\([^()]+:\s*\d*\.?\d+\s*\)"),
        "to have it weigh words, set prompt_syntax: a1111",
        True,
    ),
    Kind(
        "prompt editing or alternating words",
        re.compile(r"\[[^\[\]]*:\s*\d*\.?\d+\s*\]|\[[^\[\]|]*\|[^\[\]]*\]"),
        "write the prompts out: what a prompt becomes on the way is not supported",
        True,
    ),
    Kind(
        "a composed prompt",
        re.compile(r"\b(?:AND|BREAK)\b"),
        "for BREAK, set prompt_syntax: a1111; AND: write the prompts out",
        True,
    ),
)


def warnings_of(texts: Iterable[str], weighting: str, embeddings: Collection[str]) -> list[str]:
    """One line for each notation that the texts hold and nothing will act on.

    >>> warnings_of(["a cat <lora:fur:.8>"], "none", [])[0].partition(": ")[0]
    "'<lora:fur:.8>' is a LoRA in a prompt"

    Args:
        texts: Prompts and negatives, as they go to the text encoder.
        weighting: The spec's `prompt_syntax`, 'none' or 'a1111'.
        embeddings: Names of textual inversions that the spec loads.

    Returns:
        Lines that quote the first one found and say in how many prompts there are others.
    """
    known = {name.casefold() for name in embeddings}
    lines = []
    unique = list(dict.fromkeys(texts))
    for kind in KINDS:
        if kind.weighting and weighting != "none":
            continue
        found = [
            (text, match[0]) for text in unique if (match := _first(kind, text, known)) is not None
        ]
        if found:
            text, example = found[0]
            others = f" (in {len(found)} prompts)" if len(found) > 1 else f" (in {text[:60]!r})"
            lines.append(f"{example[:60]!r} is {kind.name}: {_AS_WORDS}{others}; {kind.advice}")
    return lines


def _first(kind: Kind, text: str, known: Collection[str]) -> re.Match[str] | None:
    return next((m for m in kind.pattern.finditer(text) if m[0].casefold() not in known), None)
