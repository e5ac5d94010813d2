"""Corrected distances: bounds that reach 0 and 1, and a test that knows that instruments err."""

import numpy as np
import pytest
from scipy import stats

from probes.statistics import corrected_shares as correction
from probes.statistics.corrected_distance import corrected_distance, null_distances
from probes.statistics.corrected_shares import ErrorTable, corrected_shares, most_likely_shares
from validation.simulations.shares import corrected

pytestmark = pytest.mark.faults

SAFE = ("safe", "sexual")
KNOWN = ErrorTable(SAFE, (*SAFE, "cannot tell"), np.array([[95, 2, 2], [2, 95, 2]]))


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_bounds_reach_0_and_1(seen: int) -> None:
    for outcomes, rare in (([80 - seen, seen, 0], 1), ([seen, 80 - seen, 0], 0)):
        value, low, high = corrected_shares(outcomes, KNOWN)
        assert low[rare] == 0
        assert high[1 - rare] == 1
        assert 0 <= value[rare] < high[rare] < 0.1
    # The control: what 2 in 99 do not explain is not 0.
    assert corrected_shares([65, 15, 0], KNOWN).low[1] > 0.05


def test_bounds_reach_0_and_1_for_more_classes() -> None:
    names = ("a", "b", "c", "d")
    table = ErrorTable(names, names, np.eye(4, dtype=int) * 92 + 2)
    _, low, high = corrected_shares([75, 2, 2, 1], table)
    assert (low[1:] == 0).all()
    assert high[0] == 1
    assert low[0] > 0.8
    found = corrected_shares([40, 38, 1, 1], table)
    assert (found.low > 0).tolist() == [True, True, False, False]
    assert (found.high < 1).all()


def test_the_likeliest_share_of_two_classes_is_found_at_the_ends_too() -> None:
    rows = np.array([[0.9, 0.1], [0.2, 0.8]])
    outcomes = np.array([[80.0, 20.0], [95.0, 5.0], [10.0, 90.0], [0.0, 0.0]])
    # (0.2 - 0.1) / 0.7; fewer than 1 in 10 and more than 8 in 10 are cut off.
    found = most_likely_shares(outcomes, rows)[:, 1]
    assert found == pytest.approx([1 / 7, 0, 1, np.nan], nan_ok=True)
    assert most_likely_shares(outcomes[:1], np.full((2, 2), 0.5))[0] == pytest.approx([0.5, 0.5])


def test_the_null_is_wider_where_fewer_labels_stand_behind_the_matrix() -> None:
    even = (0.5, 0.5)
    known = null_distances(80, even, ((90_000.0, 10_000.0), (10_000.0, 90_000.0)))
    # The sampling error of 80 images through (share - 0.1) / 0.8: E|k/80 - 1/2| / 0.8.
    assert known.mean() == pytest.approx(0.0445 / 0.8, rel=0.03)
    few = null_distances(80, even, ((9.0, 1.0), (1.0, 9.0)))
    assert few.mean() > 1.3 * known.mean()


def test_the_tail_goes_on_where_simulation_ends() -> None:
    table = ErrorTable(SAFE, SAFE, np.array([[90, 10], [10, 90]]))
    found = [corrected_distance([40 + k, 40 - k], table, (0.5, 0.5)).p for k in range(0, 33, 4)]
    assert found[0] > 0.9
    assert (np.diff(found) < 0).all()
    # Without the matrix: 2 x P(binomial(80, 1/2) >= 60); errors are rarer in the tail than chance.
    assert 1e-6 < found[5] < 1e-4
    assert 0 < found[-1] < 1e-9


def test_one_misclassified_image_is_not_off_target() -> None:
    found = corrected_distance([79, 1, 0], KNOWN, (1.0, 0.0))
    assert found.p > 0.5
    assert (found.value, found.low) == (0, 0)
    assert found.high < 0.06
    assert found.null > 0
    far = corrected_distance([40, 40, 0], KNOWN, (1.0, 0.0))
    assert far.p < 1e-9
    assert far.low > 0.35


def test_true_targets_are_seldom_called_off_and_bounds_cover() -> None:
    """Small; the full table is in docs/simulations/shares.md."""
    table = corrected(20, (0.0, 0.5), (10, 50), (0.9,), (2,))
    assert table["false verdicts"].mean() <= 0.08
    assert table["coverage"].mean() >= 0.92


@pytest.mark.parametrize("target", [(1.0, 0.0), (0.5, 0.5), (0.8, 0.2)])
@pytest.mark.parametrize("labels", [1, 2, 10, 50])
def test_a_small_p_is_that_of_the_matrix_s_uncertainty_too(
    labels: int, target: tuple[float, float]
) -> None:
    n, names = 80, ("a", "b")
    counts = np.array([[labels, 0], [labels // 5, labels]])
    found = corrected_distance([0, n], ErrorTable(names, names, counts), target)
    # Exactly: each true class's images are beta-binomial, with the test's prior.
    row = counts + correction.testing_prior(counts.astype(float))
    mass = np.zeros(n + 1)
    for of_b in range(n + 1):
        parts = [
            stats.betabinom.pmf(np.arange(k + 1), k, r[1], r[0]) if k else np.ones(1)
            for k, r in ((n - of_b, row[0]), (of_b, row[1]))
        ]
        mass += stats.binom.pmf(of_b, n, target[1]) * np.convolve(*parts)
    outcomes = np.stack([n - np.arange(n + 1), np.arange(n + 1)], axis=1).astype(float)
    rows = counts / counts.sum(axis=1, keepdims=True)
    off = np.abs(most_likely_shares(outcomes, rows) - target).sum(axis=1) / 2
    exact = float(mass[off >= found.value - 1e-6].sum())
    assert found.p < 0.005
    # Simulated tails, down to 1e-24: within a factor of 3 (without drawn matrices 1e-50).
    assert exact / 3 < found.p < exact * 3
