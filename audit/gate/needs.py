"""What an undecided metric needs, and what one that did not move cannot have seen, in words."""

from __future__ import annotations

from math import ceil, isnan, log
from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import NDArray

from audit.gate.evidence import ALPHA, TAIL, Evidence, design_effect
from probes.statistics.intervals import FEWEST_PROMPTS, Estimand

if TYPE_CHECKING:
    from audit.gate.metric import Metric, Result

MOST = 100_000
"""A number of seeds or prompts above this is not worth naming."""


def nothing_seen(found: Evidence, n: NDArray[np.int_], estimand: Estimand) -> str:
    """What an interval rests on where no cell differs, and what it cannot have seen."""
    cells, prompts = int(n.sum()), int((n > 0).sum())
    if estimand == "this suite":
        return f"none of {cells:,} cells differs: the bound is that of their number"
    rare = 1 - TAIL ** (1 / prompts)
    return (
        f"none of {cells:,} cells differs: the bound is that of {float(found.size):,.0f} "
        "independent ones, for an intra-prompt correlation of 0.1; a kind of prompt that makes up "
        f"less than {rare:.0%} of prompts like these, and differs throughout, may be missing "
        f"among these {prompts}"
    )


def too_few_cells(metric: Metric) -> bool:
    """Whether no prompt can have the pairs that it needs to be counted."""
    return metric.baseline.shape[1] < metric.least


def no_interval(metric: Metric, estimand: Estimand, prompts: int) -> tuple[str, str]:
    """The n that would give an interval, and why there is none."""
    if estimand == "prompts like these" and prompts < FEWEST_PROMPTS:
        few = "1 prompt says" if prompts == 1 else f"{prompts} prompts say"
        return f"at least {FEWEST_PROMPTS} prompts", f"{few} nothing about others"
    if too_few_cells(metric) or not prompts:
        wanted = f"at least {metric.least} seeds a prompt with a value"
        return wanted, "too few seeds for an interval"
    return "", "nothing varies, so there is no interval"


def cells_to_see(margin: float, span: float) -> float:
    """Independent cells of which none differs from which the margin is excluded.

    0 where nothing bounds what a cell may differ by: their number then says nothing.
    """
    if isnan(span):
        return 0.0
    return log(TAIL) / log(1 - min(margin / span, 0.999))


def prompts_to_see(margin: float, span: float, seeds: float) -> float:
    """As `cells_to_see`, in prompts of so many seeds, for 'prompts like these'."""
    return float(cells_to_see(margin, span) * design_effect(seeds) / seeds)


def needs(result: Result, found: Evidence, estimand: Estimand, family: int) -> str:
    """The n at which this estimate would be decided: by the bound inside, by the test outside.

    Standard errors shrink as 1 / sqrt(n); the bound of cells that do not differ as 1 / n.
    """
    room = result.margin - result.worse
    if found.same:
        factor = cells_to_see(result.margin, found.span) / float(found.size)
    elif room > 0:
        factor = ((result.worse_high - result.worse) / room) ** 2
    else:  # beyond the margin, not yet told from it in this family
        so_far = float(scipy.stats.norm.isf(result.p))
        factor = float(scipy.stats.norm.isf(ALPHA / family) / so_far) ** 2 if so_far > 0 else np.inf
    per_prompt = estimand == "this suite"
    now = result.pairs / result.prompts if per_prompt else result.prompts
    unit = "seeds a prompt" if per_prompt else "prompts"
    if now * factor > MOST:
        return f"more than {MOST:,} {unit}: the estimate lies on the margin"
    return f"about {max(ceil(now * factor), ceil(now) + 1):,} {unit}"
