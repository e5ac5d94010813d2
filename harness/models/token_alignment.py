"""Which tokens stand for which word of a prompt, by the tokenizer's own offsets.

Nothing is guessed from the tokens' spelling: 'cat' is never found inside 'category', a word
that is written twice is two words, and a word of several tokens keeps them all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.models.prompt_chunks import chunks_of
from harness.models.textual_inversion import LEARNED

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import BatchEncoding, PreTrainedTokenizerBase

WORD = re.compile(rf"(?:{LEARNED.pattern})+|\w+(?:['’-]\w+)*")


class Word(NamedTuple):
    """One word of a prompt as the model gets it.

    Attributes:
        text: as written; of a textual inversion, its name.
        label: as written, with a number where the word was there before: 'a (2)'.
        tokens: positions in the token sequence; empty where the word was cut off.
        pieces: the tokens' spelling in the vocabulary.
        whole: False where the prompt was cut within the word.
    """

    text: str
    label: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    whole: bool


class Reading(NamedTuple):
    """A prompt as the text encoder gets it.

    Attributes:
        words: all words, also those that were cut off.
        pieces: its tokens as the vocabulary spells them, without padding.
        length: tokens that the encoder has room for, start and end included.
        used: tokens that the prompt takes after the cut, one start and one end included.
        wanted: tokens that it would take without a cut.
        cut: the text that is not seen, '' where all is.
        start_at: position of the token that begins the prompt (CLIP has one, T5 none), of several
            chunks one each.
        end_at: position of the token that ends it, of several chunks one each.
        padding_at: positions without a meaning behind the end.
    """

    words: tuple[Word, ...]
    pieces: tuple[str, ...]
    length: int
    used: int
    wanted: int
    cut: str
    start_at: tuple[int, ...]
    end_at: tuple[int, ...]
    padding_at: tuple[int, ...]


def encoded_text(pipe: DiffusionPipeline, text: str) -> str:
    """The text as a pipeline tokenizes it: learned words of several vectors are spelled out."""
    convert = getattr(pipe, "maybe_convert_prompt", None)
    converted: str = convert(text, pipe.tokenizer) if convert else text
    return converted


def read_words(tokenizer: PreTrainedTokenizerBase, text: str, room: int | None = None) -> Reading:
    """Align the words of a text with the tokens that a pipeline makes of it.

    Args:
        tokenizer: A fast tokenizer of transformers, as pipelines hold it.
        text: The prompt.
        room: Tokens that the encoder has room for, where not the tokenizer's own number.

    Raises:
        ValueError: The tokenizer gives no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} gives no offsets; a fast tokenizer is needed")
    length = room or int(tokenizer.model_max_length)
    kept = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
    whole = tokenizer(text, truncation=False, verbose=False, return_offsets_mapping=True)
    pieces = tokenizer.convert_ids_to_tokens(kept["input_ids"])
    spans = kept["offset_mapping"]
    end = max((stop for _, stop in spans), default=0)
    all_end = max((stop for _, stop in whole["offset_mapping"]), default=0)
    cut = len(whole["input_ids"]) > len(kept["input_ids"])
    starts = tokenizer.bos_token_id is not None and kept["input_ids"][0] == tokenizer.bos_token_id
    used = len(kept["input_ids"])
    return Reading(
        tuple(_words(text, spans, pieces, whole if cut else None)),
        tuple(pieces),
        length,
        used,
        len(whole["input_ids"]),
        text[end:all_end].strip() if cut else "",
        (0,) if starts else (),
        (used - 1,),
        tuple(range(used, length)),
    )


def read_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, room: int, in_chunks: bool, breaks: bool
) -> Reading:
    """How a prompt is read: in chunks where it is long, or cut.

    Args:
        tokenizer: A fast tokenizer; of CLIP where it reads in chunks.
        text: The prompt.
        room: Tokens that the encoder has room for.
        in_chunks: Whether a long prompt is read in chunks.
        breaks: Whether the word BREAK ends a chunk.

    Raises:
        ValueError: The tokenizer gives no offsets.
    """
    if in_chunks:
        return read_chunks(tokenizer, text, breaks)
    return read_words(tokenizer, text, room)


def read_chunks(tokenizer: PreTrainedTokenizerBase, text: str, breaks: bool) -> Reading:
    """As `read_words`, of a text that is read in chunks, of which nothing is cut.

    Args:
        tokenizer: A fast tokenizer of CLIP.
        text: The prompt.
        breaks: Whether the word BREAK ends a chunk.
    """
    chunks, room = chunks_of(tokenizer, text, breaks), int(tokenizer.model_max_length)
    spans, pieces = [(0, 0)] * (room * len(chunks)), [""] * (room * len(chunks))
    ends = []
    for n, chunk in enumerate(chunks):
        for at, token in enumerate(chunk, n * room + 1):
            spans[at], pieces[at] = (token.start, token.end), token.piece
        ends.append(n * room + 1 + len(chunk))
        pieces[n * room], pieces[ends[-1]] = tokenizer.bos_token, tokenizer.eos_token
    used = sum(map(len, chunks)) + 2
    padding = [p for n, e in enumerate(ends) for p in range(e + 1, (n + 1) * room)]
    return Reading(
        tuple(w for w in _words(text, spans, pieces, None) if w.tokens),  # BREAK has none
        tuple(filter(None, pieces)),
        len(spans),
        used,
        used,
        "",
        tuple(n * room for n in range(len(chunks))),
        tuple(ends),
        tuple(padding),
    )


def _words(
    text: str,
    spans: Sequence[tuple[int, int]],
    pieces: Sequence[str],
    whole: BatchEncoding | None,
) -> Iterator[Word]:
    """The words of a text; `whole` is how it would be read without the cut that there was."""
    seen: Counter[str] = Counter()
    for found in WORD.finditer(text):
        learned = LEARNED.match(found[0])
        written = learned[1] if learned else found[0]
        key = written.casefold()
        seen[key] += 1
        # Special tokens have the empty span (0, 0) and so overlap with nothing.
        tokens = [
            i for i, (a, b) in enumerate(spans) if a < found.end() and b > found.start() and a < b
        ]
        label = written if seen[key] == 1 else f"{written} ({seen[key]})"
        complete = bool(tokens) and (whole is None or _complete(tokens, whole, found))
        yield Word(written, label, tuple(tokens), tuple(pieces[i] for i in tokens), complete)


def _complete(tokens: list[int], whole: BatchEncoding, found: re.Match[str]) -> bool:
    wanted = [
        1 for a, b in whole["offset_mapping"] if a < found.end() and b > found.start() and a < b
    ]
    return len(tokens) == len(wanted)
