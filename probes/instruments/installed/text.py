"""Whether the text that a prompt quotes is drawn, by RapidOCR (extra [ocr])."""

from __future__ import annotations

import logging
import re
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from harness.errors import AuditError
from harness.json_types import JsonObject
from probes.contracts import Batch
from probes.instruments.labels import LabelScores

QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|'([^']+)'(?!\w)|‘([^’]+)’|«([^»]+)»")
"""What a prompt asks to be written: text in quotation marks."""


def quoted_text() -> QuotedText:
    """Labels 'as asked', 'other text' and 'no text'."""
    return QuotedText()


def asked(prompt: str) -> list[str]:
    """The texts that a prompt quotes.

    >>> asked('a shop with a sign that says "OPEN AT 2:30"')
    ['OPEN AT 2:30']
    >>> asked("the judge's hat")
    []
    """
    found = [next(filter(None, each)) for each in QUOTED.findall(prompt)]
    return [text for text in found if _letters(text)]


class QuotedText:
    """RapidOCR's networks for finding and reading text."""

    labels = ("as asked", "other text", "no text")
    exclusive = True
    whole = True

    @cached_property
    def _engine(self) -> Any:
        try:
            logging.getLogger("RapidOCR").setLevel(logging.WARNING)
            from rapidocr import RapidOCR
        except ImportError:
            raise AuditError(
                "instruments: quoted-text needs pip install 'diffusion-audit[ocr]'"
            ) from None
        engine = RapidOCR()
        logging.getLogger("RapidOCR").setLevel(logging.WARNING)  # it sets its own
        return engine

    def identity(self) -> JsonObject:
        """Version of the package, which holds the weights."""
        _ = self._engine  # what is not installed is found out now
        return {"rapidocr": version("rapidocr")}

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """1 for what is there; of a prompt that quotes nothing nothing is said."""
        values = np.zeros((len(batch.images), len(self.labels)))
        wanted = [asked(prompt) for prompt in batch.prompts]
        for row, image, texts in zip(values, batch.images, wanted, strict=True):
            if not texts:
                continue
            lines = [_letters(t) for t in self._engine(np.ascontiguousarray(image)).txts or ()]
            as_asked = all(_letters(text) in "".join(lines) for text in texts)
            # One letter alone is what textures are taken for.
            other = any(len(line) > 1 for line in lines)
            row[0 if as_asked else 1 if other else 2] = 1.0
        every = np.ones(len(values), bool)
        return LabelScores(values, every, np.array([bool(w) for w in wanted]), [None] * len(values))


def _letters(text: str) -> str:
    """Letters and digits alone, case folded: spaces and marks are read too unsurely."""
    return "".join(c for c in text.casefold() if c.isalnum())
