"""P values adjusted for several tests."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from probes.statistics.intervals import Floats


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """P values adjusted for a family by Benjamini and Hochberg (1995), each from 0 to 1.

    Not by statsmodels' multipletests, which collects garbage each time: 0.7 s beside loaded models.
    NaN stays NaN and does not count: a test that was not made is no member of the family.
    """
    adjusted = np.array(p, float)
    made = ~np.isnan(adjusted)
    if made.any():
        adjusted[made] = scipy.stats.false_discovery_control(adjusted[made])
    return adjusted
