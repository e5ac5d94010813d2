from math import comb

import numpy as np
import pytest

from probes.statistics.intervals import Interval, share_interval
from probes.statistics.mean_distance import mean_distance, split_distances
from probes.statistics.share_test import wilson_p
from validation.simulations.mean_distance import one_case

pytestmark = pytest.mark.faults
EVEN = np.array([0.5, 0.5])


def test_distance_by_halves_of_two_images_by_hand():
    # 2 of 2: each half says +, the other is 1/2 off. 1 of 2: each half's sign is wrong: -1/2.
    assert split_distances(np.array([[2, 0], [1, 1], [0, 2]]), np.tile(EVEN, (3, 1))).tolist() == [
        0.5,
        -0.5,
        0.5,
    ]


def test_distance_by_halves_is_unbiased_on_target_and_not_too_large_off_it():
    n = 20
    counts = np.array([[k, n - k] for k in range(n + 1)])
    found = split_distances(counts, np.tile(EVEN, (n + 1, 1)))
    for share in (0.5, 0.55, 0.6, 0.8, 1.0):
        mass = [comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        mean = float(found @ mass)
        assert mean <= share - 0.5 + 1e-12
        assert mean >= 0 or share == pytest.approx(0.5)
        if share == 0.5:
            assert mean == pytest.approx(0, abs=1e-12)
        if share == 1:
            assert mean == pytest.approx(0.5)


def test_value_null_and_p_of_a_suite_on_target():
    counts = np.array([[4, 4], [5, 3]] * 12)
    found = mean_distance(counts, np.tile(EVEN, (24, 1)))
    assert found.value == pytest.approx(0.0625)
    assert found.null == pytest.approx(0.13671875)  # E|k/8 - 1/2|, k of 8 fair coins
    assert found.low == 0
    assert found.high < 0.15
    assert found.p > 0.9
    assert found.null < found.null_q95


def test_a_suite_that_is_all_of_one_class_is_off_by_one_half():
    counts = np.array([[8, 0]] * 23 + [[7, 1]])
    found = mean_distance(counts, np.tile(EVEN, (24, 1)))
    assert found.value == pytest.approx((23 * 0.5 + 0.375) / 24)
    assert found.low > 0.4
    assert found.p < 1e-10


def test_p_is_right_where_every_prompt_is_on_target():
    rng = np.random.default_rng(0)
    wanted = np.tile([0.2] * 5, (24, 1))
    p = np.array([mean_distance(rng.multinomial(32, wanted), wanted).p for _ in range(300)])
    assert 0.02 < (p <= 0.05).mean() < 0.09
    assert 0.4 < p.mean() < 0.6


@pytest.mark.parametrize("case", [(2, 24, 32), (5, 24, 32)])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.2])
def test_the_interval_covers_the_true_mean_and_t_on_counted_distances_does_not(case, spread):
    _, coverage, _, plain, _, _ = one_case(case, spread, draws=60, seed=2)
    assert coverage >= 0.9
    if spread < 0.2:
        assert plain < 0.6


def test_few_prompts_and_shared_seeds():
    few = mean_distance(np.array([[4, 4]] * 5), np.tile(EVEN, (5, 1)))
    assert np.isnan([few.low, few.high]).all()
    assert np.isfinite(few.p)
    shared = mean_distance(
        np.array([[4, 4], [5, 3]] * 12), np.tile(EVEN, (24, 1)), Interval(0.0625, 0.04, 0.1)
    )
    assert np.isnan(shared.p)
    assert (shared.low, shared.high) == (0, 0.1)


def test_p_of_a_share_agrees_with_its_interval():
    share = share_interval(60, 100)
    assert wilson_p(share, 0.5) == pytest.approx(0.0455, abs=1e-4)  # z = 2
    for bound in share[1:]:
        assert wilson_p(share, bound) == pytest.approx(0.05)
    assert wilson_p(share_interval(0, 10), 0.5) == pytest.approx(0.0015654, rel=1e-3)
    assert np.isnan(wilson_p(share, 0.0))
    assert np.isnan(wilson_p(Interval(0.6, np.nan, np.nan), 0.5))


@pytest.mark.parametrize(
    ("row", "target"),
    [([8, 0], EVEN), ([4, 4], EVEN), ([0, 8], [0.0, 1.0]), ([3, 0, 0], [0.2, 0.3, 0.5])],
)
def test_prompts_that_came_out_alike_are_no_proof_that_others_do(row, target):
    found = mean_distance(np.tile(row, (24, 1)), np.tile(target, (24, 1)))
    # A share of 1 - 0.025^(1/24) of prompts, at most 1 - the least target off each.
    reach = (1 - np.min(target)) * (1 - 0.025 ** (1 / 24))
    off = np.abs(np.array(row) / np.sum(row) - target).sum() / 2
    assert found.low == pytest.approx(max(off - reach, 0))
    assert found.high == pytest.approx(min(off + reach, 1 - np.min(target)))
    assert found.low < found.high


def test_the_upper_bound_is_a_mean_distance_that_the_targets_allow():
    found = mean_distance(np.array([[8, 0]] * 22 + [[6, 2]]), np.tile(EVEN, (23, 1)))
    assert (found.value < 0.5, found.high) == (True, 0.5)
