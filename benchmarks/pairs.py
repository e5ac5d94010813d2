"""How much slower or faster: interleaved pairs in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats


def ratio(
    one: Callable[[], Any],
    two: Callable[[], Any],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Median over rounds of time(two) / time(one), with its interval.

    Arms take turns at going first; a pair before the first round warms up.

    Args:
        one: The arm that is divided by.
        two: The other.
        rounds: Pairs that count.
        clock: `time.process_time` where other work on the machine is not to count.
    """
    ratios = []
    for i in range(rounds + 1):
        times = []
        for arm in (one, two) if i % 2 == 0 else (two, one):
            started = clock()
            arm()
            times.append(clock() - started)
        first, second = times if i % 2 == 0 else times[::-1]
        ratios.append(second / first)
    return median(ratios[1:])


def median(ratios: Sequence[float]) -> str:
    """The median with the exact 95 % interval of a median (order statistics)."""
    found = stats.quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return f"{np.median(ratios):.3f} [{found.low:.3f}, {found.high:.3f}], {len(ratios)} pairs"
