r"""Prompt weights as users of the WebUIs write them.

    a portrait of a (smiling:1.3) nurse, [hat], (blue eyes)

`(text:1.3)` weighs 1.3, `(text)` 1.1, `[text]` 1/1.1; brackets nest and multiply, `\(` is a
bracket itself. Each token's vector of the text encoder's output is multiplied by its weight, then
all of them by one number, so that their mean stays what it was: as the Stable Diffusion WebUI
does. A text without weights is encoded as ever.

A parser of our own because compel, the maintained library, reads another notation (`word++`,
`(word)1.3`) and means something else by it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import AuditError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ROUND, SQUARE = 1.1, 1 / 1.1
_PARTS = re.compile(
    r"(?P<escaped>\\[()\[\]\\])|(?P<open>[(\[])|:\s*(?P<weight>[+-]?(\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<close>[)\]])|(?P<text>[^\\()\[\]:]+|[\\:])"
)
_NOT_WEIGHTS = (
    (re.compile(r"<lora:[^>]*>"), "a LoRA in a prompt (its place is under adapters)"),
    (re.compile(r"\[[^\]\[|]*\|[^\]]*\]"), "alternating words"),
    (re.compile(r"\[[^\]\[]*:\s*\d*\.?\d+\s*\]"), "prompt editing"),
    (re.compile(r"\bAND\b"), "a composed prompt"),
)


class Piece(NamedTuple):
    """A stretch of a prompt and its weight."""

    text: str
    weight: float


def pieces(prompt: str) -> list[Piece]:
    r"""A prompt's stretches of one weight; joined, their texts are what is encoded.

    A bracket that is never closed reaches to the end of the prompt.

    >>> pieces("a (red:1.5) hat")
    [Piece(text='a ', weight=1.0), Piece(text='red', weight=1.5), Piece(text=' hat', weight=1.0)]

    Raises:
        AuditError: The prompt uses other syntax of the WebUI, which is no weight.
    """
    for pattern, kind in _NOT_WEIGHTS:
        if found := pattern.search(prompt):
            raise AuditError(f"{prompt[:60]!r}: {found[0]!r} is {kind}, which is not supported")
    parts: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []
    for match in _PARTS.finditer(prompt):
        if match["open"]:
            opened.append((match["open"], len(parts)))
            continue
        closing = ")" if match["weight"] else match["close"]
        wanted = {")": "(", "]": "["}.get(closing or "")
        if wanted and opened and opened[-1][0] == wanted:
            _, start = opened.pop()
            standard = ROUND if wanted == "(" else SQUARE
            factor = float(match["weight"]) if match["weight"] else standard
            parts[start:] = [(text, weight * factor) for text, weight in parts[start:]]
            continue
        text = match["escaped"][1] if match["escaped"] else match[0]
        parts.append((text, 1.0))
    for kind, start in opened:
        factor = ROUND if kind == "(" else SQUARE
        parts[start:] = [(text, weight * factor) for text, weight in parts[start:]]
    joined: list[Piece] = []
    for text, weight in parts:
        if joined and joined[-1].weight == weight:
            joined[-1] = Piece(joined[-1].text + text, weight)
        else:
            joined.append(Piece(text, weight))
    return joined or [Piece("", 1.0)]


def weighs(prompt: str) -> bool:
    """Whether reading a prompt's weights changes anything: what is encoded, or its weights."""
    return pieces(prompt) != [Piece(prompt, 1.0)]


def token_weights(tokenizer: PreTrainedTokenizerBase, parts: Sequence[Piece]) -> torch.Tensor:
    """Weight of every position of the padded, cut prompt, (positions,).

    A token that two stretches share has the weight of the one it begins in.
    """
    import torch

    encoded = tokenizer(
        "".join(part.text for part in parts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_offsets_mapping=True,
    )
    return torch.tensor(at_tokens(parts, encoded.offset_mapping))


def at_tokens(parts: Sequence[Piece], spans: Sequence[tuple[int, int]]) -> list[float]:
    """Weights of tokens by the letters that each stands for.

    >>> at_tokens([Piece("a ", 1.0), Piece("red", 1.5)], [(0, 1), (2, 5), (0, 0)])
    [1.0, 1.5, 1.0]

    Args:
        parts: A text's stretches.
        spans: First letter and the one behind the last, in the joined text; of start, end and
            padding, which stand for none, (0, 0).
    """
    ends = list(itertools.accumulate(len(part.text) for part in parts))
    return [
        parts[next(k for k, e in enumerate(ends) if start < e)].weight if end > start else 1.0
        for start, end in spans
    ]


def weigh(hidden: torch.Tensor, weights: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Multiply vectors by their weights, and keep the mean of each encoder's.

    Args:
        hidden: (1, positions, width), the encoders' outputs side by side.
        weights: (positions,).
        widths: Of each encoder.
    """
    import torch

    if bool((weights == 1).all()):
        return hidden
    made = []
    for part in hidden.float().split(list(widths), dim=-1):
        weighed = part * weights.to(part)[None, :, None]
        made.append(weighed * (part.mean() / weighed.mean()))
    return torch.cat(made, dim=-1).to(hidden)
