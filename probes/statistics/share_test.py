"""The p that belongs to an interval of Wilson's form: the two always agree."""

from __future__ import annotations

from math import isfinite, nan, sqrt

import scipy

from probes.statistics.intervals import LEVEL, Interval


def wilson_p(share: Interval, target: float) -> float:
    """Two-sided p of 'the share is the target', by the score test at the interval's effective size.

    The bounds of Wilson's interval are the targets at which the score test has p = 0.05. That
    gives the effective size, whatever it came from (clusters, strata), and with it p elsewhere.

    Args:
        share: A share with its Wilson interval at any effective size.
        target: 0 to 1. At 0 and 1 there is no such test: p is NaN.

    Examples:
        >>> from probes.statistics.intervals import share_interval
        >>> round(wilson_p(share_interval(60, 100), 0.5), 4)  # z = 2
        0.0455
    """
    if not (isfinite(share.low) and isfinite(share.high)) or not 0 < target < 1:
        return nan
    z = float(scipy.stats.norm.ppf((1 + LEVEL) / 2))
    # The farther bound says more: the other may lie on the share itself, at 0 and 1.
    bound = max(share.low, share.high, key=lambda b: abs(b - share.value))
    if bound == share.value:
        return nan
    root_of_size = z * sqrt(bound * (1 - bound)) / abs(bound - share.value)
    return float(
        2
        * scipy.stats.norm.sf(
            abs(share.value - target) * root_of_size / sqrt(target * (1 - target))
        )
    )
