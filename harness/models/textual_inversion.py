"""Textual inversions: words whose vectors come from a file.

A name is a word of the prompt or negative that stands for one or several vectors at the text
encoder's input. Only texts that hold the name as a word of its own, in any case, are changed:
all others are tokenised and encoded as without it, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import reading
from harness.models.safetensors_header import (
    WeightsError,
    exact_digest,
    read_header,
    refuse_not_finite,
    seems_to_be,
    some,
)

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENCODERS = ("text_encoder", "text_encoder_2")
_OF_TWO = ("clip_l", "clip_g")
LEARNED = re.compile(r"<\|(\S+) \d+\|>")
"""One vector of an embedding, as it is tokenised."""


def digest_of_embedding(path: Path) -> str:
    """Exact digest of an embedding's file.

    Raises:
        WeightsError: Unreadable, no embedding, or not finite.
    """
    _vectors(path)
    return exact_digest(read_header(path))


def named_in(text: str, names: Iterable[str]) -> list[str]:
    """The names that a text holds as words of their own, in the names' order.

    >>> named_in("a EasyNeg, easynegative", ["easyneg", "negative"])
    ['easyneg']
    """
    return [name for name in names if _word(name).search(text)]


def put_in(pipe: DiffusionPipeline, sources: Mapping[str, Path]) -> dict[str, str]:
    """Add the embeddings to tokenizers and text encoders.

    Args:
        pipe: With one or two CLIP text encoders.
        sources: File by name.

    Returns:
        By name, what stands for it in a text that is tokenised.

    Raises:
        WeightsError: An embedding of another width, or a pipeline that takes none.
    """
    spelled: dict[str, str] = {}
    for name, path in sources.items():
        vectors = _vectors(path)
        sides = _sides(path, pipe, vectors)
        count = len(sides[0][2])
        words = [f"<|{name} {i}|>" for i in range(count)]
        for tokenizer, encoder, values in sides:
            _extend(tokenizer, encoder, words, values)
        spelled[name] = "".join(words)
    return spelled


def spell(text: str, spelled: Mapping[str, str]) -> str:
    """A text with the names put into the words that stand for them."""
    if not spelled:
        return text
    # In one go: what stands for one name could hold another.
    words = {name.lower(): value for name, value in spelled.items()}
    names = "|".join(re.escape(name) for name in sorted(spelled, key=len, reverse=True))
    return re.sub(
        rf"(?<![\w-])({names})(?![\w-])",
        lambda found: words[found[1].lower()],
        text,
        flags=re.IGNORECASE,
    )


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)


def _vectors(path: Path) -> list[torch.Tensor]:
    """(count, width) for each text encoder."""
    import torch
    from safetensors.torch import load_file

    header = read_header(path)
    shapes = header.shapes
    keys = [k for k in _OF_TWO if k in shapes]
    if len(keys) < 2:
        keys = ["emb_params"] if "emb_params" in shapes else list(shapes)
    if (len(keys) > 1 and tuple(keys) != _OF_TWO) or any(
        len(shapes[k]) not in (1, 2) for k in keys
    ):
        raise WeightsError(
            f"{str(path)!r} {seems_to_be(header)}; name a textual-inversion embedding "
            "(vectors of one width, or clip_l and clip_g)"
        )
    others = shapes.keys() - set(keys)
    if others:
        raise WeightsError(
            f"{str(path)!r} holds {len(others)} tensors beside its vectors ({some(others, 1)}), "
            "which would have no effect; name a textual-inversion embedding without them"
        )
    if not all(min(shapes[k]) for k in keys):
        raise WeightsError(f"{str(path)!r} holds vectors of no length, or none")
    with reading(f"{str(path)!r} cannot be read", WeightsError):
        tensors = load_file(path)
    refuse_not_finite(path, tensors)
    return [torch.atleast_2d(tensors[k]) for k in keys]


def _sides(
    path: Path, pipe: DiffusionPipeline, vectors: list[torch.Tensor]
) -> list[tuple[PreTrainedTokenizerBase, PreTrainedModel, torch.Tensor]]:
    """Tokenizer, text encoder and vectors, for each encoder of the checkpoint."""
    encoders = [e for k in ENCODERS if (e := getattr(pipe, k, None)) is not None]
    if (
        not encoders
        or getattr(pipe, "text_encoder_3", None) is not None
        or any(e.config.model_type not in ("clip_text_model", "clip") for e in encoders)
    ):
        raise WeightsError(
            f"{str(path)!r}: a {type(pipe).__name__} takes no embeddings here; supported: Stable "
            "Diffusion 1.x, 2.x and SDXL"
        )
    have = [v.shape[1] for v in vectors]
    want = [e.get_input_embeddings().weight.shape[1] for e in encoders]
    if have != want:
        raise WeightsError(
            f"{str(path)!r} is an embedding of width {_and(have)}; the checkpoint's text encoder "
            f"reads {_and(want)}"
        )
    tokenizers = [pipe.tokenizer, getattr(pipe, "tokenizer_2", None)]
    return list(zip(tokenizers, encoders, vectors, strict=False))


def _extend(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    words: list[str],
    values: torch.Tensor,
) -> None:
    import torch
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(w, normalized=False, special=True) for w in words])
    if encoder.config.eos_token_id == 2:
        # The published value is wrong, and made good for by taking the highest number in a text
        # for its end: no longer so with new numbers above it.
        getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id
    table = encoder.get_input_embeddings()
    ids = tokenizer.convert_tokens_to_ids(words)
    if max(ids) >= table.weight.shape[0]:
        encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        table = encoder.get_input_embeddings()
    with torch.no_grad():
        table.weight[ids] = values.to(table.weight)


def _and(widths: list[int]) -> str:
    return " and ".join(map(str, widths))
