"""Means of judgements with prompts and raters as clusters: closed forms, coverage, a control."""

from math import isnan

import numpy as np
import pytest
from scipy import stats

from probes.statistics.two_way import two_way_mean

SAME = 0.2


def test_one_judgement_a_prompt_by_one_person_is_the_t_interval():
    x = np.random.default_rng(0).normal(0.1, 1, 30)
    found = two_way_mean(x, range(30), ["ann"] * 30)
    wanted = stats.ttest_1samp(x, 0)
    interval = wanted.confidence_interval()
    assert found == pytest.approx((x.mean(), interval.low, interval.high, wanted.pvalue))


def test_what_cannot_be_known_is_nan():
    assert all(map(isnan, two_way_mean([], [], [])))
    assert isnan(two_way_mean([1, 0, 1], [1, 2, 3], "aab").low)
    assert isnan(two_way_mean([0.5] * 40, range(40), ["a"] * 40).low)


def judged(rng, prompts, raters, each, preference, of_prompts, of_raters, side):
    """Judgements in {-.5, 0, .5} for B, and the preference of these raters."""
    own_p, own_r = rng.normal(0, of_prompts, prompts), rng.normal(0, of_raters, raters)
    rows = []
    for rater in range(raters):
        seen = rng.permutation(np.arange(4 * prompts) % prompts)[: rng.integers(each // 2, each)]
        right = rng.random(len(seen)) < 0.5  # the side that B stands on
        shift = preference + own_p[seen] + own_r[rater] + np.where(right, side, -side)
        won = (rng.random(len(seen)) < 0.5 + shift) - 0.5
        won = np.where(rng.random(len(seen)) < SAME, 0.0, won)
        rows += [(w, p, rater) for w, p in zip(won, seen, strict=True)]
    x, p, r = map(np.array, zip(*rows, strict=True))
    return x, p, r, own_r[r].mean()


@pytest.mark.parametrize(
    ("raters", "each", "of_prompts", "of_raters"),
    [(1, 60, 0.08, 0.0), (3, 60, 0.08, 0.08), (8, 40, 0.08, 0.08), (20, 20, 0.08, 0.08)],
)
def test_intervals_of_simulated_raters_hold_the_known_preference(
    raters, each, of_prompts, of_raters
):
    """Raters of known preference with a liking for one side: 93 to 97 % of 600, and 99 % bounds."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(600):
        x, p, r, own = judged(rng, 30, raters, each, 0.08, of_prompts, of_raters, 0.1)
        found = two_way_mean(x, p, r)
        truth = (1 - SAME) * (0.08 + (own if raters < 6 else 0.0))
        hits += found.low <= truth <= found.high
    low, high = stats.binom.ppf([0.005, 0.995], 600, [0.93, 0.97])
    assert low <= hits <= high


@pytest.mark.parametrize("raters", [1, 8])
def test_two_equal_arms_seldom_win_whatever_side_is_liked(raters):
    rng = np.random.default_rng(2)
    wins = sum(
        two_way_mean(*judged(rng, 30, raters, 40, 0.0, 0.08, 0.0, 0.3)[:3]).p <= 0.05
        for _ in range(200)
    )
    assert wins <= 18


def test_a_naive_interval_fails_where_prompts_matter():
    """The control: taken as independent, judgements of one prompt by eight raters say too much."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        x, *_ = judged(rng, 30, 8, 40, 0.0, 0.25, 0.0, 0.0)
        interval = stats.ttest_1samp(x, 0).confidence_interval()
        hits += interval.low <= 0 <= interval.high
    assert hits < 170
