"""Association of texts with attribute texts in an embedding space: WEAT, with exact p.

s(w) = mean cos(w, a) − mean cos(w, b). Over two sets of texts the effect size is
(mean s(x) − mean s(y)) / sd of s over both, positive where x lies nearer a. For one text it is
(mean cos(w, a) − mean cos(w, b)) / sd of cos(w, ·) over both attribute sets. p comes from all
ways to part the pooled set anew, one-sided in the direction of a. Sample standard deviations.

Source: Caliskan, Bryson and Narayanan, 'Semantics derived automatically from language corpora
contain human-like biases', Science 2017.
"""

from __future__ import annotations

from itertools import combinations
from math import comb, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_PARTITIONS = 200_000
DRAWN = 20_000
TIE = 1e-12
"""Sums that differ by less are one and the same, rounding aside: they count as ties."""


class Association(NamedTuple):
    """An effect size with its p.

    Attributes:
        effect: in standard deviations; NaN where nothing varies.
        p: one-sided, towards a; the observed partition counts, so that it is never 0.
        p_either: two-sided.
        partitions: how many were looked at.
        exact: whether these are all there are.
    """

    effect: float
    p: float
    p_either: float
    partitions: int
    exact: bool


def cosines(one: Floats, two: Floats) -> Floats:
    """Cosines of vectors (n, width) with (m, width): (n, m)."""
    a, b = (np.asarray(v, float) for v in (one, two))
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return a @ b.T / lengths


def association(words: Floats, a: Floats, b: Floats) -> Floats:
    """s(w) of each of `words` (n, width) towards a (n_a, width) and away from b: (n,)."""
    found: Floats = cosines(words, a).mean(axis=1) - cosines(words, b).mean(axis=1)
    return found


def weat(x: Floats, y: Floats, a: Floats, b: Floats) -> Association:
    """Whether texts x lie nearer a, and texts y nearer b; positive: x is with a.

    All four are vectors, (n, width).
    """
    return _apart(association(x, a, b), association(y, a, b))


def single(word: Floats, a: Floats, b: Floats) -> Association:
    """Whether one text (width,) lies nearer a than b; positive: nearer a."""
    return _apart(cosines(word[None], a)[0], cosines(word[None], b)[0])


def _apart(one: Floats, two: Floats, seed: int = 0) -> Association:
    """Difference of means in pooled standard deviations, with its permutation p."""
    pooled = np.concatenate([one, two])
    n, k = len(pooled), len(one)
    if np.ptp(pooled) <= TIE:
        return Association(nan, nan, nan, 0, True)
    effect = (one.mean() - two.mean()) / pooled.std(ddof=1)
    total = comb(n, k)
    observed, middle = one.sum(), k * pooled.mean()
    if total <= MOST_PARTITIONS:
        sums = np.array([pooled[list(chosen)].sum() for chosen in combinations(range(n), k)])
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(pooled, (DRAWN, 1)), axis=1)
        sums = np.append(drawn[:, :k].sum(axis=1), observed)
    p = (sums >= observed - TIE).mean()
    either = (np.abs(sums - middle) >= abs(observed - middle) - TIE).mean()
    exact = total <= MOST_PARTITIONS
    return Association(float(effect), float(p), float(either), len(sums), exact)
