"""Bounds of total variation, and its exact null, by enumeration of all outcomes."""

from collections import Counter
from math import factorial

import numpy as np
import pytest
from scipy import stats

from probes.statistics.intervals import total_variation_null
from probes.statistics.total_variation import bounds_in_box, distance_bounds, null_distances
from validation.simulations.shares import distances, unattainable_width

pytestmark = pytest.mark.faults


def outcomes(n: int, classes: int):
    """All counts of n images, one of each order, and how many orders there are."""

    def parts(left: int, slots: int, most: int):
        if slots == 1:
            if left <= most:
                yield (left,)
            return
        for first in range(min(left, most), -1, -1):
            for rest in parts(left - first, slots - 1, first):
                yield (first, *rest)

    for counts in parts(n, classes, n):
        orders = factorial(classes)
        for same in Counter(counts).values():
            orders //= factorial(same)
        yield np.array(counts), orders


@pytest.mark.parametrize(
    ("counts", "most"), [([40, 40], 0.1071), ([4, 4], 0.2848), ([2, 2, 1, 2, 1], 0.5198)]
)
def test_bounds_lie_within_what_shares_can_be(counts: list[int], most: float) -> None:
    # Wilson's at 40 of 80 is 0.3930 to 0.6070; both sides together, 0.21, cannot be off at once.
    low, high = distance_bounds(np.array(counts), np.full(len(counts), 1 / len(counts)))
    assert (low, high) == pytest.approx((0, most), abs=2e-4)


@pytest.mark.parametrize(
    ("classes", "sizes"), [(2, range(5, 81)), (3, (5, 8, 12, 20)), (5, (5, 9))]
)
def test_never_beyond_the_largest_distance_nor_wider_than_before(classes: int, sizes) -> None:
    for target in (
        np.full(classes, 1 / classes),
        np.r_[0.4, np.full(classes - 1, 0.6 / (classes - 1))],
    ):
        for n in sizes:
            held = 0.0
            for counts, orders in outcomes(n, classes):
                low, high = distance_bounds(counts, target)
                own = np.abs(counts / n - target).sum() / 2
                assert -1e-12 <= low <= own + 1e-12
                assert own - 1e-12 <= high <= 1 - target.min() + 1e-12
                assert high - low <= unattainable_width(counts, target) + 1e-9
                held += (
                    orders
                    * stats.multinomial.pmf(counts, n, np.full(classes, 1 / classes))
                    * (low < 1e-12)
                )
            # Of a model that meets an even target the lower bound is 0.
            if np.ptp(target) < 1e-12:
                assert held >= 0.92


def test_mean_coverage_is_95_percent() -> None:
    table = distances(150, sizes=(5, 12, 80))
    assert (table["mean coverage"] >= 0.95).all()
    assert (table["at even shares"] >= 0.9).all()
    assert (table["width / 0.1.0's"] <= 1).all()


def test_shares_that_sum_to_1_cannot_all_be_high() -> None:
    low, high = np.array([0.1, 0.1, 0.1]), np.array([0.8, 0.6, 0.5])
    # Farthest from thirds: 0.8, 0.1, 0.1. Nearest: thirds themselves.
    assert bounds_in_box(low, high, np.full(3, 1 / 3)) == pytest.approx((0, 0.8 - 1 / 3))
    # From a target of 0.9, 0.05, 0.05: at least 0.1 off; at most 0.1, 0.6, 0.3 (or 0.1, 0.4, 0.5).
    nearest, farthest = bounds_in_box(low, high, np.array([0.9, 0.05, 0.05]))
    assert (nearest, farthest) == pytest.approx((0.1, 0.8))
    # Many classes: a looser bound, which is one.
    wide = bounds_in_box(np.full(14, 0.01), np.full(14, 0.5), np.full(14, 1 / 14))
    assert 0.5 < wide[1] <= 1 - 1 / 14


@pytest.mark.parametrize(
    "target", [(0.2,) * 5, (0.5, 0.25, 0.25), (0.05, 0.15, 0.3, 0.5), (0.7, 0.3, 0.0)]
)
def test_the_null_is_the_enumerated_one(target: tuple[float, ...]) -> None:
    n, classes = 7, len(target)
    grid = np.array([c for c in np.ndindex(*(n + 1,) * classes) if sum(c) == n])
    mass = stats.multinomial.pmf(grid, n, target)
    own = (np.abs(grid / n - target).sum(axis=1) / 2).round(9)
    values, masses = null_distances(n, target)
    assert masses.sum() == pytest.approx(1)
    for value, p in zip(values, masses, strict=True):
        assert p == pytest.approx(mass[own == value.round(9)].sum(), abs=1e-13)


def test_p_has_no_floor_and_is_never_0() -> None:
    even = np.full(3, 1 / 3)
    # All of one class, whichever.
    assert total_variation_null([80, 0, 0], even).p == pytest.approx(3 * (1 / 3) ** 80)
    assert total_variation_null([80, 0], [0.5, 0.5]).p == pytest.approx(2 * 0.5**80)
    assert total_variation_null([5000, 0, 0], even).p > 0
    # More different targets than can be enumerated: simulated, and bounded in the tail.
    many = np.arange(1, 19) / np.arange(1, 19).sum()
    assert total_variation_null([60, *[0] * 17], many).p < 1e-20
    fair = np.random.default_rng(0).multinomial(60, many)
    assert total_variation_null(fair, many).p > 0.01


def test_a_target_that_leaves_a_class_out_has_no_p() -> None:
    for counts, target in (([79, 1], (1.0, 0.0)), ([40, 39, 1], (0.5, 0.5, 0.0))):
        assert np.isnan(total_variation_null(counts, target).p)
