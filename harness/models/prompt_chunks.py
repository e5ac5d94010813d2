"""Prompts longer than a text encoder, in chunks, as the WebUIs read them.

A chunk is as many tokens as the encoder has room for between its start and its end (75 of 77); each
is encoded alone, and the vectors stand behind each other. Where a chunk is full and a comma stands
within its last `BACK` tokens, what is behind the comma goes over into the next one; the word BREAK
ends a chunk wherever it stands; an embedding of several vectors is not torn apart. The rule is that
of the Stable Diffusion WebUI (AUTOMATIC1111, modules/sd_hijack_clip.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.models.textual_inversion import LEARNED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BACK = 20
BREAK = re.compile(r"\s*\bBREAK\b\s*")
COMMA = ",</w>"
"""As CLIP's vocabulary spells one that ends a word."""


class Token(NamedTuple):
    """One token of a text, and the letters that it stands for.

    Attributes:
        id: in the vocabulary.
        piece: as the vocabulary spells it.
        start: first letter, counted in the text.
        end: behind its last letter.
    """

    id: int
    piece: str
    start: int
    end: int


def chunks_of(
    tokenizer: PreTrainedTokenizerBase, text: str, breaks: bool
) -> list[tuple[Token, ...]]:
    """A text's tokens by chunk, without the encoder's own for start, end and padding.

    Args:
        tokenizer: A fast tokenizer of CLIP.
        text: Weights taken out, names of embeddings spelled out.
        breaks: Whether BREAK ends a chunk; else it is a word.
    """
    room = int(tokenizer.model_max_length) - 2
    made: list[tuple[Token, ...]] = []
    rest: tuple[Token, ...] = ()
    for n, (start, part) in enumerate(_parts(text, breaks)):
        if n:
            made.append(rest)
        full, rest = _filled(tokens_of(tokenizer, part, start), room)
        made += full
    return [*made, rest] if rest or not made else made


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str, start: int = 0) -> list[Token]:
    """A text's tokens, without start and end.

    Args:
        tokenizer: A fast tokenizer.
        text: The text.
        start: Where it begins in a longer one.
    """
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    pieces = tokenizer.convert_ids_to_tokens(read.input_ids)
    spans = read.offset_mapping
    return [
        Token(i, piece, start + a, start + b)
        for i, piece, (a, b) in zip(read.input_ids, pieces, spans, strict=True)
    ]


def _parts(text: str, breaks: bool) -> Iterator[tuple[int, str]]:
    at = 0
    for found in BREAK.finditer(text) if breaks else ():
        yield at, text[at : found.start()]
        at = found.end()
    yield at, text[at:]


def _filled(
    tokens: Sequence[Token], room: int
) -> tuple[list[tuple[Token, ...]], tuple[Token, ...]]:
    """Chunks that are full, and what is left over for another."""
    full: list[tuple[Token, ...]] = []
    held: list[Token] = []
    comma: int | None = None
    for whole in _unbroken(tokens):
        if whole[0].piece == COMMA:
            comma = len(held)
        elif len(held) == room and comma is not None and room - comma <= BACK:
            full.append(tuple(held[: comma + 1]))
            held, comma = held[comma + 1 :], None
        if held and len(held) + len(whole) > room:
            full.append(tuple(held))
            held, comma = [], None
        held += whole
    return full, tuple(held)


def _unbroken(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Tokens that stay together: the vectors of an embedding; any other alone."""
    group: list[Token] = []
    for token in tokens:
        learned = LEARNED.fullmatch(token.piece)
        if not learned:
            if group:
                yield group
            group = []
            yield [token]
        elif learned[0].endswith(" 0|>") and group:
            yield group
            group = [token]
        else:
            group.append(token)
    if group:
        yield group
