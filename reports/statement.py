"""One sentence of the answer, and what it rests on."""

from __future__ import annotations

from typing import NamedTuple


class Statement(NamedTuple):
    """One sentence of the answer.

    Attributes:
        lead: What holds: who, of what, how often.
        details: The cases, numbers and limits behind it; '' where the lead says all.
        effect: How large the effect is, as a share from 0 to 1; NaN where it is in other units.
        apart: Whether it says that something is off target or differs.
        findings: Ids of the findings that it rests on, the strongest first.
    """

    lead: str
    details: str
    effect: float
    apart: bool
    findings: tuple[str, ...]

    @property
    def text(self) -> str:
        """Lead and details as one sentence."""
        return f"{self.lead}{self.rest}"

    @property
    def rest(self) -> str:
        """What follows the lead in `text`."""
        return f": {self.details}." if self.details else "."
