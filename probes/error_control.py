"""Errors over all tests of a report, in two levels: families first, tests inside them second.

A report holds hundreds of tests. One adjustment over all of them lets a biased arm pull the fair
ones along: the more of its tests are rejected, the higher the bar at which those of the others
are. So tests are grouped in families (arm x attribute x instrument; comparisons of arms and other
probes' tests have families of their own). A family is selected by its Simes p, with
Benjamini-Hochberg over the families; inside a selected one Benjamini-Hochberg holds at 0.05 times
the selected part of the families (Benjamini and Bogomolov 2014, J. R. Statist. Soc. B 76:297).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probes.contracts import Finding
from probes.statistics.multiplicity import benjamini_hochberg

ADJUSTMENT = "Benjamini-Hochberg in two levels"
"""What `Finding.adjustment` says of a p that `adjusted` has adjusted."""


def is_test(finding: Finding) -> bool:
    """Whether a finding is one of the report's tests: a headline with a family and a p."""
    return finding.headline and bool(finding.family) and isfinite(finding.p)


def adjusted(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with p adjusted over all tests of the report.

    Args:
        findings: All findings of a report, with the p of each test alone. Those that are no
            tests (see `is_test`) are returned as they are.

    Returns:
        In the same order: a test has the adjusted `p`, the p of the test alone in
        `p_unadjusted`, and the procedure's name in `adjustment`. Adjusting twice changes nothing.
    """
    alone = [replace(f, p=f.p_unadjusted) if f.adjustment == ADJUSTMENT else f for f in findings]
    tests = [i for i, f in enumerate(alone) if is_test(f)]
    p = two_level_p([alone[i].p for i in tests], [alone[i].family for i in tests])
    out = list(alone)
    for i, value in zip(tests, p, strict=True):
        out[i] = replace(alone[i], p=float(value), p_unadjusted=alone[i].p, adjustment=ADJUSTMENT)
    return out


def two_level_p(p: ArrayLike, families: Sequence[str]) -> NDArray[np.float64]:
    """P values adjusted so that p <= q exactly where the procedure at level q rejects the test.

    At level q the procedure selects R of M families by Benjamini-Hochberg on their Simes p, and
    rejects a test of a selected family where its p, adjusted within the family by
    Benjamini-Hochberg, is at most q R / M. The adjusted p is the least q at which that holds.

    Args:
        p: (T,) the p of each test alone, 0 to 1, no NaN.
        families: (T,) the family of each test.

    Returns:
        (T,) adjusted p, 0 to 1.

    Raises:
        ValueError: A p that is no number between 0 and 1.

    Examples:
        >>> two_level_p([0.01, 0.5, 0.9], ["a", "a", "b"]).round(3).tolist()
        [0.04, 0.9, 0.9]
    """
    alone = np.asarray(p, float)
    if not ((alone >= 0) & (alone <= 1)).all():
        raise ValueError(f"p {alone.tolist()!r}: each must be a number from 0 to 1")
    if not len(alone):
        return alone
    names, family = np.unique(np.asarray(families, object).astype(str), return_inverse=True)
    inside = np.empty_like(alone)
    for k in range(len(names)):
        inside[family == k] = benjamini_hochberg(alone[family == k])
    # The least p of a family that Benjamini-Hochberg has adjusted is its Simes p.
    simes = np.array([inside[family == k].min() for k in range(len(names))])
    levels = np.sort(benjamini_hochberg(simes))
    count = np.searchsorted(levels, levels, side="right")
    # With `count` families selected, from the level at which they are, q must be p M / count. That
    # the test's own family is among them follows: its Simes p is no larger than p.
    needed = np.maximum(levels[None, :], inside[:, None] * len(names) / count[None, :])
    return np.asarray(np.minimum(needed.min(axis=1), 1.0))
