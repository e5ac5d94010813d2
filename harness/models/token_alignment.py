"""Which tokens stand for which word of a prompt, by the tokenizer's own offsets.

Nothing is guessed from the tokens' spelling: 'cat' is never found inside 'category', a word
that is written twice is two words, and a word of several tokens keeps them all.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import BatchEncoding, PreTrainedTokenizerBase

LEARNED = re.compile(r"<\|(\S+) \d+\|>")
"""One vector of a textual inversion, as `harness.models.textual_inversion` has it tokenised."""
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
        length: tokens that the encoder has room for, start and end included.
        used: tokens that the prompt takes, start and end included, after the cut.
        wanted: tokens that it would take without a cut.
        cut: the text that is not seen, '' where all is.
        starts: whether a token of its own begins the prompt (CLIP's does, T5's not).
    """

    words: tuple[Word, ...]
    length: int
    used: int
    wanted: int
    cut: str
    starts: bool


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
    seen: Counter[str] = Counter()
    words = []
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
        complete = bool(tokens) and (not cut or _complete(tokens, whole, found))
        words.append(
            Word(written, label, tuple(tokens), tuple(pieces[i] for i in tokens), complete)
        )
    return Reading(
        tuple(words),
        length,
        len(kept["input_ids"]),
        len(whole["input_ids"]),
        text[end:all_end].strip() if cut else "",
        tokenizer.bos_token_id is not None and kept["input_ids"][0] == tokenizer.bos_token_id,
    )


def _complete(tokens: list[int], whole: BatchEncoding, found: re.Match[str]) -> bool:
    wanted = [
        1 for a, b in whole["offset_mapping"] if a < found.end() and b > found.start() and a < b
    ]
    return len(tokens) == len(wanted)
