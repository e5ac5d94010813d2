"""Intervals clustered by seed, where all prompts share the same seeds."""

from math import isnan

import numpy as np
import pytest
from scipy import stats

from probes.statistics.intervals import mean_over_prompts, mean_share_over_prompts, share_interval
from probes.statistics.prediction_powered import prediction_powered_shares
from probes.statistics.seed_clusters import (
    design_effect,
    difference_by_seed,
    mean_by_seed,
    mean_distance_by_seed,
    mean_share_by_seed,
)
from validation.simulations.shares import shared

pytestmark = pytest.mark.faults
SUITE, LIKE = "this suite", "prompts like these"


def grid(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of a (prompts, seeds) array: values, prompts, seeds."""
    prompts, seeds = values.shape
    return values.ravel(), np.repeat(np.arange(prompts), seeds), np.tile(np.arange(seeds), prompts)


def test_of_one_prompt_seeds_are_the_sample_as_ever() -> None:
    values = np.array([[1.0, 2.0, 4.0, 0.0, 3.0, 3.0, 1.0, 2.0]])
    expected = stats.ttest_1samp(values[0], 0)
    low, high = expected.confidence_interval()
    assert mean_by_seed(*grid(values), SUITE) == pytest.approx((2, low, high, expected.pvalue))


def test_copies_of_a_prompt_add_nothing() -> None:
    one = np.array([[1.0, 2.0, 4.0, 0.0, 3.0, 3.0, 1.0, 2.0]])
    assert mean_by_seed(*grid(np.repeat(one, 30, axis=0)), SUITE) == pytest.approx(
        mean_by_seed(*grid(one), SUITE)
    )
    hits = (one > 1).astype(float)
    share = mean_share_by_seed(*grid(np.repeat(hits, 30, axis=0)), SUITE)
    assert share == pytest.approx(mean_share_by_seed(*grid(hits), SUITE))
    # The control: 240 images taken as independent.
    plain = mean_share_over_prompts(np.full(30, hits.sum()), np.full(30, 8), SUITE)
    assert plain.high - plain.low < 0.25 * (share.high - share.low)


def test_without_correlation_seeds_and_images_say_nearly_the_same() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(24, 64)) + rng.normal(size=(24, 1))
    clustered, plain = mean_by_seed(*grid(values), SUITE), mean_over_prompts(values, SUITE)
    assert clustered.high - clustered.low == pytest.approx(plain.high - plain.low, rel=0.25)
    like, of_prompts = mean_by_seed(*grid(values), LIKE), mean_over_prompts(values, LIKE)
    assert like.high - like.low == pytest.approx(of_prompts.high - of_prompts.low, rel=0.25)
    assert design_effect(*grid(values)) == pytest.approx(1, abs=0.5)


def test_what_few_seeds_cannot_say() -> None:
    rng = np.random.default_rng(1)
    few = grid((rng.random((24, 7)) < 0.5).astype(float))
    assert isnan(mean_share_by_seed(*few, SUITE).low)
    assert isnan(mean_by_seed(*few, SUITE).p)
    assert isnan(difference_by_seed(few[0], few[0], *few[1:], SUITE, 1).high)
    assert isnan(design_effect(*few))
    enough = grid((rng.random((19, 8)) < 0.5).astype(float))
    assert isnan(mean_share_by_seed(*enough, LIKE).low)
    assert all(isnan(x) for x in mean_share_by_seed([], [], [], SUITE))


def test_nobody_anywhere_is_bounded_by_the_number_of_seeds() -> None:
    none = grid(np.zeros((24, 16)))
    assert mean_share_by_seed(*none, SUITE) == share_interval(0, 16)
    same = difference_by_seed(none[0], none[0], *none[1:], SUITE, 1.0)
    assert (same.value, same.p) == (0, 1)
    assert same.high == pytest.approx(1 - 0.025 ** (1 / 16))


def test_the_mean_distance_is_clustered_too() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(size=16)
    hits = noise + 0.3 * rng.normal(size=(24, 16)) > 0
    names = np.where(hits, "woman", "man")
    _, prompts, seeds = grid(hits.astype(float))
    targets = np.full((24, 2), 0.5)
    found = mean_distance_by_seed(names.ravel(), prompts, seeds, ("man", "woman"), targets)
    own = np.abs(hits.mean(axis=1) - 0.5)
    assert found.value == pytest.approx(own.mean())
    plain = mean_over_prompts(list(own[:, None]), LIKE)
    assert found.high - found.low > 2 * (plain.high - plain.low)


def test_labels_of_images_with_shared_seeds_say_less() -> None:
    rng = np.random.default_rng(3)
    hits = (rng.normal(size=16) + 0.5 * rng.normal(size=(24, 16)) > 0).astype(int)
    truth, prompts, seeds = grid(hits)
    read = np.where(rng.random(truth.size) < 0.9, truth, 1 - truth)
    drawn = rng.random(truth.size) < 0.5
    said = np.where(drawn[:, None], np.eye(2)[truth], np.nan)
    arguments = np.eye(2)[read], said, np.full(truth.size, drawn.mean()), prompts
    apart = prediction_powered_shares(*arguments)
    clustered = prediction_powered_shares(*arguments, seeds)
    assert clustered.value == pytest.approx(apart.value)
    assert clustered.high[1] - clustered.low[1] > 2 * (apart.high[1] - apart.low[1])
    assert np.isnan(prediction_powered_shares(*arguments, seeds // 3).low).all()


def test_coverage() -> None:
    table = shared(150, (8, 16), (0.1, 0.5), (0.2, 0.5))
    assert table["coverage"].min() >= 0.89
    assert table["coverage"].mean() >= 0.92
    # The control: images taken as independent.
    assert table["as if independent"].mean() < 0.8


def test_a_difference_of_shares_is_never_beyond_1():
    found = difference_by_seed(
        [1] * 7 + [0], [0] * 7 + [1], ["p"] * 8, range(8), "this suite", span=1.0
    )
    assert (found.value, found.high) == (0.75, 1.0)
    # 1.34 without the limit: a t interval of 8 values.
    free = difference_by_seed([1] * 7 + [0], [0] * 7 + [1], ["p"] * 8, range(8), "this suite")
    assert free.high > 1.2
    assert (free.low, free.p) == (found.low, found.p)
