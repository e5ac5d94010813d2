"""How a checkpoint's prompts are read: weights, names of embeddings, chunks.

It holds a tokenizer and no model, so that the plan can ask it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.errors import AuditError
from harness.models.prompt_chunks import BREAK, Token, chunks_of
from harness.models.prompt_weights import Piece, at_tokens, pieces
from harness.models.textual_inversion import spell

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptReader:
    """Reads texts for one checkpoint.

    Args:
        tokenizer: Of its first text encoder.
        weighting: The spec's `prompt_syntax`, 'none' or 'a1111'.
        in_chunks: Whether a long text is read in chunks; else it is cut.
        spelled: By name of an embedding, what stands for it in a text that is tokenised.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        weighting: str,
        in_chunks: bool,
        spelled: Mapping[str, str],
    ) -> None:
        self.tokenizer, self.in_chunks, self.spelled = tokenizer, in_chunks, spelled
        self.weighs = weighting == "a1111"
        self._chunks: dict[str, list[tuple[Token, ...]]] = {}

    def pieces(self, text: str) -> list[Piece]:
        """A text as it is tokenised: weights taken out, embeddings' names spelled out.

        Raises:
            AuditError: It has syntax of the WebUI that is not read here.
        """
        if self.weighs and not self.in_chunks and BREAK.search(text):
            raise AuditError(f"{text[:60]!r}: BREAK begins a chunk; long_prompts: cut has none")
        parts = pieces(text) if self.weighs else [Piece(text, 1.0)]
        return [Piece(spell(p.text, self.spelled), p.weight) for p in parts]

    def plain(self, text: str) -> str:
        """A text as the tokenizer gets it."""
        return "".join(part.text for part in self.pieces(text))

    def chunks(self, text: str) -> list[tuple[Token, ...]]:
        """A text's tokens by chunk; of one that is cut where it is long, all in one."""
        if not self.in_chunks:
            return [()]
        if text not in self._chunks:
            self._chunks[text] = chunks_of(self.tokenizer, self.plain(text), self.weighs)
        return self._chunks[text]

    def count(self, text: str) -> int:
        """Number of chunks that a text takes."""
        return len(self.chunks(text))

    def is_plain(self, text: str) -> bool:
        """Whether the pipeline itself reads the text as it is to be read."""
        return not self.in_chunks or (
            self.count(text) == 1 and not (self.weighs and BREAK.search(text))
        )

    def chunk_weights(self, text: str) -> list[list[float]]:
        """Weights of a text's tokens by chunk."""
        parts = self.pieces(text)
        return [at_tokens(parts, [(t.start, t.end) for t in chunk]) for chunk in self.chunks(text)]
