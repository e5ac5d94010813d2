"""From judgements to the share of pairs that an arm wins, with what it would take to decide."""

from __future__ import annotations

from math import ceil, isfinite
from typing import NamedTuple

import pandas as pd

from probes.statistics.two_way import FEWEST_RATERS, two_way_mean

HALF = 0.5


class Preference(NamedTuple):
    """How often one side of blind pairs won; pairs without a winner count half.

    Attributes:
        value, low, high: share of wins from 0 to 1 and its 95 % interval; NaN where not known.
        p: two-sided, of 'one half'.
        n, prompts, raters: judgements, and the prompts and raters that they come from.
        undecided: share of pairs without a winner.
        needed: prompts, each judged as often as now, at which this share would differ from one
            half beyond chance; 0 where it does, or where it is exactly one half.
        these_raters: whether the interval is for these raters only.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    prompts: int
    raters: int
    undecided: float
    needed: int
    these_raters: bool


def table(judged: pd.DataFrame, plan: pd.DataFrame) -> pd.DataFrame:
    """Judgements with prompt and the arms of both images.

    Args:
        judged: Columns rater, left, right and choice.
        plan: Plan with its column `arm`.

    Returns:
        Columns rater, prompt, left, right (arms) and choice; images that the plan lacks are left
        out.
    """
    known = plan.drop_duplicates("cell").set_index("cell")
    out = judged.assign(
        prompt=judged["left"].map(known["prompt"]),
        left=judged["left"].map(known["arm"]),
        right=judged["right"].map(known["arm"]),
    )
    return out.dropna(subset=["prompt", "left", "right"]).reset_index(drop=True)


def for_arm(rows: pd.DataFrame, arm: str, other: str) -> Preference:
    """How often `arm` won against `other`.

    Args:
        rows: As `table` gives them.
        arm: Name of the arm.
        other: Name of the arm beside it.
    """
    sides = [{arm, other} == {a, b} for a, b in zip(rows["left"], rows["right"], strict=True)]
    own = rows[sides]
    won = own["left"].where(own["choice"] == "left", own["right"]) == arm
    return _preference(own, won)


def for_left(rows: pd.DataFrame) -> Preference:
    """How often the left image of a control won: what liking a side does.

    Args:
        rows: As `table` gives them.
    """
    own = rows[rows["left"] == rows["right"]]
    return _preference(own, own["choice"] == "left")


def _preference(rows: pd.DataFrame, won: pd.Series) -> Preference:
    decided = rows["choice"].isin(["left", "right"])
    wins = won.astype(float).where(decided, HALF)
    found = two_way_mean(wins - HALF, rows["prompt"], rows["rater"])
    prompts, raters = rows["prompt"].nunique(), rows["rater"].nunique()
    apart, width = abs(found.value), (found.high - found.low) / 2
    needed = 0
    if isfinite(width) and 0 < apart <= width:
        needed = ceil(prompts * (width / apart) ** 2)
    ends = (max(0.0, found.low + HALF), min(1.0, found.high + HALF))
    low, high = ends if isfinite(width) else (found.low, found.high)
    undecided = float(1 - decided.mean()) if len(rows) else 0.0
    value = found.value + HALF
    few = raters < FEWEST_RATERS
    return Preference(value, low, high, found.p, len(rows), prompts, raters, undecided, needed, few)
