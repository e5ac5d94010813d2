"""Association of two attributes: Cramér's V with its interval and its null."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from probes.statistics.intervals import LEVEL


class Association(NamedTuple):
    """Cramér's V, its 95 % interval, and what independent attributes score at this n."""

    value: float
    low: float
    high: float
    null: float


def association_interval(table: NDArray[np.integer]) -> Association:
    """Cramér's V of a table of counts.

    Chi-squared of n images is about noncentral with parameter n V² (min(R, C) - 1): the bounds
    are the V at which the observed one is its 97.5 and 2.5 % point (Smithson 2003). V itself is
    rarely below its null, about what independent attributes score at this n; the interval begins
    at 0 where they may be independent. A table that fits independence better than chance would
    is no proof of it: the upper bound is never below that of the average such table.

    Args:
        table: (R, C) counts of images, at least two rows and columns, none of them all 0.

    Raises:
        ValueError: A table with fewer than two rows or columns, or an empty one of them.
    """
    counts = np.asarray(table, float)
    if min(counts.shape) < 2 or not (counts.sum(axis=0).all() and counts.sum(axis=1).all()):
        raise ValueError(f"{counts.tolist()!r}: two rows and columns or more, none empty, needed")
    rows, columns = counts.shape
    df, most = (rows - 1) * (columns - 1), counts.sum() * (min(rows, columns) - 1)
    chi2 = float(scipy.stats.chi2_contingency(counts, correction=False).statistic)

    def bound(observed: float, tail: float) -> float:
        if scipy.stats.chi2.cdf(observed, df) <= tail:
            return 0.0
        limit = observed + 40 * np.sqrt(observed + df) + 100
        at = scipy.optimize.brentq(
            lambda nc: scipy.stats.ncx2.cdf(observed, df, nc) - tail, 1e-9, limit
        )
        return float(min(np.sqrt(at / most), 1.0))

    value = float(scipy.stats.contingency.association(counts.astype(int), method="cramer"))
    low, high = bound(chi2, (1 + LEVEL) / 2), bound(max(chi2, df), (1 - LEVEL) / 2)
    return Association(value, min(low, value), max(high, value), float(np.sqrt(df / most)))
