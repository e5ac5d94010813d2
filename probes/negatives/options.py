"""Options of the probe `negatives`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from probes.contracts import ProbeOptions


class NegativesOptions(ProbeOptions):
    """Options of the probe `negatives`.

    Attributes:
        negatives: an ordered list; dose k is the first k of them, joined by commas.
        at: doses to generate; empty: all, from none to the whole list. Dose 0 always is.
    """

    negatives: tuple[str, ...] = ()
    at: tuple[Annotated[int, Field(ge=0)], ...] = ()

    def doses(self) -> list[int]:
        """The doses, rising, each once."""
        most = len(self.negatives)
        return sorted({0, *(min(k, most) for k in self.at or range(most + 1))})
