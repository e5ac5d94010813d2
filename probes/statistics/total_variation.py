"""Total variation of counted shares: its exact distribution on target, and its bounds.

The null is exact for any number of classes, so that p has no floor: in a suite of thousands of
prompts one biased prompt can still be told.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import comb, exp, prod

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
TIES = 1e-9
"""Distances closer than this are ties: they differ by rounding only."""
NOT_ZERO = 0.08
"""P above which counts of more than two classes do not say that the distance is above 0."""
MOST_PATTERNS = 2**14
"""Patterns of classes above their targets up to which the null is enumerated."""
MOST_SUBSETS = 12
"""Classes up to which the farthest point of a box is found over all subsets of them."""
DRAWS = 20_000


def is_degenerate(target: tuple[float, ...] | Floats) -> bool:
    """Whether a target leaves a class out: a single misclassified image would then be proof."""
    return bool((np.asarray(target, float) <= 0).any())


@lru_cache(maxsize=4096)
def null_distances(n: int, target: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Distances of n images from the target that they are drawn from, and their probabilities.

    Exact. A multinomial is independent Poisson counts with their sum given. Where it is known
    which classes lie above their targets, the distance is how far they do, a whole number less a
    constant, so that two one-dimensional convolutions (what lies above, what lies below) give the
    probability of each distance.

    Args:
        n: Images, at least 1.
        target: One share for each declared class; they sum to 1.

    Returns:
        Distances in ascending order and the probability of each, both (D,). Where the target has
        more different shares than can be enumerated: 20,000 simulated audits.
    """
    shares, sizes = _groups(target)
    if not _enumerable(target):
        counts = np.random.default_rng(0).multinomial(n, target, size=DRAWS)
        return _merged(np.abs(counts / n - target).sum(axis=1) / 2, np.full(DRAWS, 1 / DRAWS))
    expected = n * shares
    whole = np.floor(expected + TIES).astype(int)
    above, below = [], []
    for size, mean, floor in zip(sizes, expected, whole, strict=True):
        over = scipy.stats.poisson.pmf(np.arange(floor, n + 1), mean)
        over[0] = 0.0
        above.append(_powers(over, int(size), n))
        below.append(_powers(scipy.stats.poisson.pmf(np.arange(floor, -1, -1), mean), int(size), n))
    short = n - int(whole @ sizes)
    excess = np.arange(n + 1)
    distances, masses = [], []
    for pattern in product(*(range(size + 1) for size in sizes)):
        up, down = np.ones(1), np.ones(1)
        for g, k in enumerate(pattern):
            up = np.convolve(up, above[g][k])[: n + 1]
            down = np.convolve(down, below[g][sizes[g] - k])[: n + 1]
        ways = prod(comb(int(size), k) for size, k in zip(sizes, pattern, strict=True))
        # What lies above exceeds what lies below by the images that whole expectations lack.
        of_up = np.zeros(n + 1)
        of_up[: len(up)] = up
        of_down = np.zeros(n + 1)
        end = min(len(down), n + 1 - short)
        of_down[short : short + end] = down[:end]
        mass = ways * of_up * of_down
        seen = mass > 0
        distances.append((excess - np.array(pattern) @ (expected - whole))[seen] / n)
        masses.append(mass[seen])
    return _merged(np.concatenate(distances), np.concatenate(masses))


def tail(n: int, target: tuple[float, ...], distance: float) -> float:
    """Probability that a model which meets the target is at least as far off.

    Never 0: a probability too small for a float is the smallest one. Where the null is simulated
    (see `null_distances`), the simulated p or the bound of Bretagnolle and Huber-Carol,
    2^K exp(-2 n distance²), whichever is less.
    """
    values, mass = null_distances(n, target)
    p = float(mass[values >= distance - TIES].sum())
    if not _enumerable(target):
        bound = 2.0 ** len(target) * exp(-2 * n * distance**2)
        p = min((1 + round(p * DRAWS)) / (DRAWS + 1), bound)
    return min(max(p, float(np.finfo(float).tiny)), 1.0)


def distance_bounds(counts: NDArray[np.integer], target: Floats) -> tuple[float, float]:
    """95 % bounds of the total variation of the shares behind some counts.

    Wilson's interval of the share for two classes, Goodman's simultaneous ones for more: the
    distances that shares within them can have, see `bounds_in_box`. For more than two classes the
    lower bound is raised by `surely_beyond`, where that is higher, and falls to 0 where the exact
    p of the target is above 0.08: Goodman's intervals are too narrow at few images.

    Args:
        counts: (K,) images of each declared class, one at least.
        target: (K,) shares that sum to 1.
    """
    # Loaded where it counts: statsmodels brings all of scipy.stats, half of a command's start.
    from statsmodels.stats.proportion import multinomial_proportions_confint, proportion_confint

    n, classes = int(counts.sum()), len(counts)
    if classes == 2:
        low, high = proportion_confint(counts[0], n, alpha=1 - LEVEL, method="wilson")
        return bounds_in_box(np.array([low, 1 - high]), np.array([high, 1 - low]), target)
    box = multinomial_proportions_confint(counts, alpha=1 - LEVEL, method="goodman")
    low, high = bounds_in_box(box[:, 0], box[:, 1], target)
    own = float(np.abs(counts / n - target).sum() / 2)
    if low > 0 and tail(n, tuple(map(float, target)), own) > NOT_ZERO:
        # Not below what keeps the interval within the width of the excesses of all bounds.
        over, under = box[:, 1] - target, target - box[:, 0]
        most = min(np.clip(over, 0, None).sum(), np.clip(under, 0, None).sum(), 1)
        low = float(np.clip(high - (most - low), 0, low))
    values, mass = null_distances(n, (1 / classes,) * classes)
    return surely_beyond(own, low, values, mass), high


def surely_beyond(distance: float, low: float, values: Floats, mass: Floats) -> float:
    """A lower bound of a distance, raised to what sampling error cannot explain.

    Counted shares are seldom farther from the true ones than `values` are from even shares, where
    counts vary most; the true distance is at least the observed one less that (triangle
    inequality). The 97.5 % point is taken, since there is an upper bound too.

    Args:
        distance: The observed one.
        low: Its lower bound by other means.
        values: Ascending distances of models with even shares, from even shares.
        mass: The probability of each.
    """
    at = min(int(np.searchsorted(mass.cumsum(), (1 + LEVEL) / 2 - 1e-12)), len(values) - 1)
    return max(low, distance - float(values[at]))


def bounds_in_box(low: Floats, high: Floats, target: Floats) -> tuple[float, float]:
    """The least and the largest total variation from a target that shares in a box can have.

    Shares sum to 1, which the box alone does not know: what a set S of classes holds at most is
    the lesser of its own upper bounds and what the lower bounds of all others leave. The distance
    is the excess of the set that has most of it.

    Args:
        low: (K,) lower bounds of the shares, 0 to 1.
        high: (K,) upper bounds; some shares that sum to 1 lie between them.
        target: (K,) shares that sum to 1.
    """
    over, under = high - target, target - low
    nearest = max(np.clip(-under, 0, None).sum(), np.clip(-over, 0, None).sum())
    if len(target) > MOST_SUBSETS:
        farthest = min(
            np.clip(over, 0, None).sum(), np.clip(under, 0, None).sum(), 1 - target.min()
        )
    else:
        inside = _subsets(len(target))
        farthest = np.minimum(inside @ over, (1 - inside) @ under).max()
    return float(np.clip(nearest, 0, 1)), float(np.clip(farthest, nearest, 1))


@lru_cache(maxsize=16)
def _subsets(classes: int) -> Floats:
    """All subsets of the classes, (2^K, K) of 0 and 1."""
    return np.array(list(product((0.0, 1.0), repeat=classes)))


def _groups(target: tuple[float, ...]) -> tuple[Floats, NDArray[np.intp]]:
    """The different shares of a target above 0, and how many classes have each."""
    return np.unique(np.round([t for t in target if t > 0], 12), return_counts=True)


def _enumerable(target: tuple[float, ...]) -> bool:
    """Whether the null is exact: few enough patterns of classes above their targets."""
    return prod(int(size) + 1 for size in _groups(target)[1]) <= MOST_PATTERNS


def _powers(values: Floats, most: int, n: int) -> list[Floats]:
    """Distribution of the sum of 0, 1, … `most` independent variables, up to n."""
    powers = [np.ones(1)]
    for _ in range(most):
        powers.append(np.convolve(powers[-1], values)[: n + 1])
    return powers


def _merged(distances: Floats, masses: Floats) -> tuple[Floats, Floats]:
    """Ascending distances without ties, and their probabilities, which sum to 1."""
    values, which = np.unique(distances.round(12), return_inverse=True)
    mass = np.bincount(which, weights=masses)
    return values, mass / mass.sum()
