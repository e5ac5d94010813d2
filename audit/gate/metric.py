"""One thing that may get worse, as the gate sees it, and what is said of it."""

from __future__ import annotations

from math import isnan, nan
from typing import Literal, NamedTuple

import numpy as np

from audit.gate.evidence import Bad, Floats

Word = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR"]


class Metric(NamedTuple):
    """One thing that may get worse, by prompt (rows) and seed (columns).

    Attributes:
        id: kind/instrument, or kind/instrument/class.
        baseline: (P, S), NaN where a cell is missing in either arm.
        candidate: (P, S), NaN in the same places.
        bad: which way is worse.
        margin: how much worse is accepted, in `unit`; more than 0.
        target: of the mean, where bad is 'away from the target'.
        span: the most by which one cell can move the mean of as many cells as there are,
            times that number.
        least: pairs that a prompt needs to be counted.
        varies: False where the instrument says the same of every image of both arms.
        unit: of the values.
        prompt_margin: how much worse a single prompt may get, in `unit`; NaN: no guard.
        prompt_targets: (P,) the prompts' own, where bad is 'away from the target'; None: `target`.
        counts: whether the values are zeros and ones.
    """

    id: str
    baseline: Floats
    candidate: Floats
    bad: Bad
    margin: float
    target: float = 0.0
    span: float = nan
    least: int = 2
    varies: bool = True
    unit: str = ""
    prompt_margin: float = nan
    prompt_targets: Floats | None = None
    counts: bool = False

    @property
    def aim(self) -> float:
        """The target where it matters, else NaN."""
        return self.target if self.bad == "away from the target" else nan

    @property
    def guarded(self) -> bool:
        """Whether single prompts are held against a margin of their own."""
        return not isnan(self.prompt_margin)

    def targets(self) -> Floats:
        """(P,) the prompts' own targets, or the mean's for all."""
        own = self.prompt_targets
        return np.full(len(self.baseline), self.target) if own is None else own


class Result(NamedTuple):
    """What one metric says. Differences are candidate minus baseline, with 95 % intervals.

    `worse` and `worse_high` are the difference and the most by which it can be worse, with the
    sign turned so that more is worse: what the margin is held against.
    """

    id: str
    verdict: Word
    unit: str
    bad: Bad
    margin: float
    baseline: float
    candidate: float
    value: float
    low: float
    high: float
    p: float
    """One-sided, of 'worse by at most the margin'."""
    p_adjusted: float
    """By Holm's method over all metrics and the guard."""
    worse: float
    worse_high: float
    pairs: int
    prompts: int
    needs: str
    note: str
    target: float
    """What 'away from the target' is away from."""
