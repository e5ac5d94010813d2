from math import inf, isnan, log, sqrt

import numpy as np
import pytest
from scipy import stats as scipy_stats

from probes.statistics.intervals import (
    kl_divergence,
    l2_distance,
    mean_over_prompts,
    mean_share_over_prompts,
    paired_difference,
    share_interval,
    total_variation,
    total_variation_null,
)
from probes.statistics.multiplicity import benjamini_hochberg

EVEN = (0.5, 0.5)
SUITE, LIKE = "this suite", "prompts like these"


def uniform(classes: int) -> list[float]:
    return [1 / classes] * classes


# --- one share


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(0, 30, 0.0, 0.1135), (5, 10, 0.2366, 0.7634), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(count: int, n: int, low: float, high: float) -> None:
    assert share_interval(count, n) == pytest.approx((count / n, low, high), abs=5e-5)


def test_a_share_of_nothing_is_not_measured() -> None:
    assert all(isnan(x) for x in share_interval(0, 0))


def test_bounds_hold_the_value_at_both_ends() -> None:
    for n in range(1, 300):
        nobody, everybody = share_interval(0, n), share_interval(n, n)
        assert nobody.low == 0 < nobody.high
        assert everybody.low < 1 == everybody.high


def test_more_of_a_class_than_images_is_refused() -> None:
    with pytest.raises(ValueError, match="count 11 is not between 0 and n = 10"):
        share_interval(11, 10)


# --- distances


@pytest.mark.parametrize("p", [0.0, 0.04, 0.3, 0.5, 0.85, 1.0])
def test_with_two_classes_the_published_metrics_are_one_number(p: float) -> None:
    shares = [p, 1 - p]
    tv = total_variation(shares, EVEN)
    assert tv == pytest.approx(abs(p - 0.5))  # DALL-Eval's MAD, HEIM's gender imbalance
    assert l2_distance(shares, EVEN) == pytest.approx(sqrt(2) * tv)  # MAGBIG
    entropy = -sum(q * log(q) for q in shares if q)
    assert kl_divergence(shares, EVEN) == pytest.approx(log(2) - entropy)  # OpenBias x ln 2


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_one_class_only_is_the_maximum(classes: int) -> None:
    only = [0] * (classes - 1) + [48]
    assert total_variation(only, uniform(classes)) == pytest.approx(1 - 1 / classes)
    assert kl_divergence(only, uniform(classes)) == pytest.approx(log(classes))
    rng = np.random.default_rng(0)
    for counts in rng.multinomial(48, rng.dirichlet([0.3] * classes, 200)):
        assert total_variation(counts, uniform(classes)) <= 1 - 1 / classes + 1e-12
    # The mean absolute difference over 10 skin tones that DALL-Eval prints: .18 at most.
    if classes == 10:
        assert total_variation(only, uniform(10)) * 2 / 10 == pytest.approx(0.18)


@pytest.mark.parametrize("distance", [total_variation, l2_distance, kl_divergence])
def test_the_order_of_classes_does_not_matter(distance) -> None:
    counts, target = np.array([7, 0, 2, 23, 1]), np.array([0.3, 0.1, 0.2, 0.2, 0.2])
    for order in np.random.default_rng(1).permuted(np.tile(np.arange(5), (20, 1)), axis=1):
        assert distance(counts[order], target[order]) == pytest.approx(distance(counts, target))


@pytest.mark.parametrize("distance", [total_variation, l2_distance, kl_divergence])
def test_counts_and_their_shares_are_as_far(distance) -> None:
    assert distance([3, 9], EVEN) == pytest.approx(distance([0.25, 0.75], EVEN))


def test_a_declared_class_counts_though_nobody_was_seen() -> None:
    assert total_variation([20, 0, 0], uniform(3)) == pytest.approx(2 / 3)
    # The control: with the observed classes alone the same images would score 0.
    assert total_variation([20], [1.0]) == 0
    with pytest.raises(ValueError, match="one number for each declared class"):
        total_variation([20], uniform(3))


@pytest.mark.parametrize("distance", [total_variation, l2_distance, kl_divergence])
def test_nothing_counted_is_an_error_and_never_a_distance(distance) -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        distance([0, 0], EVEN)
    with pytest.raises(ValueError, match="sum to 1"):
        distance([1, 1], [0.5, 0.6])
    with pytest.raises(ValueError, match="0 or more"):
        distance([3, np.nan], EVEN)


def test_a_class_that_should_not_exist_is_infinitely_far_in_nats() -> None:
    assert kl_divergence([9, 1], [1.0, 0.0]) == inf
    assert total_variation([9, 1], [1.0, 0.0]) == pytest.approx(0.1)


# --- nulls


@pytest.mark.parametrize(
    ("n", "mean"),
    [(8, 0.1367), (9, 0.1367), (10, 0.1230), (50, 0.0561), (100, 0.0398), (210, 0.0275)],
)
def test_what_a_model_on_target_scores_at_this_n(n: int, mean: float) -> None:
    assert total_variation_null([n, 0], EVEN).mean == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize(("n", "mad"), [(8, 0.0861), (50, 0.0333), (210, 0.0165)])
def test_the_null_of_ten_skin_tones(n: int, mad: float) -> None:
    null = total_variation_null([n] + [0] * 9, uniform(10))
    assert null.mean * 2 / 10 == pytest.approx(mad, abs=2e-4)


def test_null_of_two_images_by_hand() -> None:
    # Half the time one of each (distance 0), half the time two of a kind (distance 1/2).
    assert total_variation_null([1, 1], EVEN) == pytest.approx((0.25, 0.5, 1.0))
    assert total_variation_null([2, 0], EVEN) == pytest.approx((0.25, 0.5, 0.5))


@pytest.mark.parametrize("n", [1, 7, 32, 250])
def test_p_of_two_classes_is_the_exact_binomial_one(n: int) -> None:
    for count in range(n + 1):
        p = total_variation_null([count, n - count], EVEN).p
        assert p == pytest.approx(scipy_stats.binomtest(count, n).pvalue, abs=1e-9)


def test_p_against_an_uneven_target_counts_both_tails() -> None:
    # 10 images, target .2: 5 or more is as far from 2 as anything can be on the other side.
    pmf = scipy_stats.binom.pmf(np.arange(11), 10, 0.2)
    assert total_variation_null([5, 5], (0.2, 0.8)).p == pytest.approx(pmf[5:].sum())
    assert total_variation_null([4, 6], (0.2, 0.8)).p == pytest.approx(pmf[4:].sum() + pmf[0])


@pytest.mark.parametrize("target", [(0.5, 0.3, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.17, 0.23, 0.6)])
def test_p_of_three_classes_is_the_exact_multinomial_one(target) -> None:
    target = np.array(target)
    outcomes = np.array([(a, b, 6 - a - b) for a in range(7) for b in range(7 - a)])
    mass = scipy_stats.multinomial.pmf(outcomes, 6, target)
    distance = np.abs(outcomes / 6 - target).sum(axis=1) / 2
    for counts, own in zip(outcomes, distance, strict=True):
        null = total_variation_null(counts, target)
        assert null.p == pytest.approx(mass[distance >= own - 1e-9].sum())
    assert null.mean == pytest.approx(distance @ mass)


def test_a_model_on_target_is_rarely_called_off_target() -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(32, [0.1, 0.2, 0.3, 0.4], size=1500)
    p = np.array([total_variation_null(c, [0.1, 0.2, 0.3, 0.4]).p for c in counts])
    assert 0.03 < (p <= 0.05).mean() < 0.06
    # The control: a model that is off target.
    counts = rng.multinomial(32, [0.4, 0.2, 0.3, 0.1], size=200)
    p = np.array([total_variation_null(c, [0.1, 0.2, 0.3, 0.4]).p for c in counts])
    assert (p <= 0.05).mean() > 0.9


def test_a_null_needs_counts() -> None:
    with pytest.raises(ValueError, match="whole counts"):
        total_variation_null([0.25, 0.75], EVEN)
    with pytest.raises(ValueError, match="nothing was counted"):
        total_variation_null([0, 0], EVEN)


def test_benjamini_hochberg_leaves_tests_that_were_not_made_out() -> None:
    adjusted = benjamini_hochberg([0.01, np.nan, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.02, np.nan, 0.04, 0.04, 0.02], nan_ok=True)
    assert np.isnan(benjamini_hochberg([np.nan, np.nan])).all()


# --- means over prompts


def suite(rng: np.random.Generator, prompts: int, seeds: int, a: float = 2, b: float = 2):
    """True shares of prompts, and 0/1 outcomes of their images."""
    shares = rng.beta(a, b, prompts)
    return shares, (rng.random((prompts, seeds)) < shares[:, None]).astype(float)


def test_one_prompt_is_a_t_interval_over_its_seeds() -> None:
    seeds = np.array([0.2, 0.4, 0.9, 0.5])
    expected = scipy_stats.ttest_1samp(seeds, 0).confidence_interval()
    assert mean_over_prompts([seeds], SUITE) == pytest.approx((0.5, *expected))


def test_two_prompts_have_the_degrees_of_freedom_of_welch() -> None:
    a, b = np.array([1.0, 2.0, 6.0]), np.array([0.0, 0.5, 0.25, 0.125, 0.75])
    # Half of a's mean minus that of -b is the mean of the two prompts' means.
    low, high = scipy_stats.ttest_ind(a, -b, equal_var=False).confidence_interval()
    expected = ((a.mean() + b.mean()) / 2, low / 2, high / 2)
    assert mean_over_prompts([a, b], SUITE) == pytest.approx(expected)


def test_prompts_weigh_the_same_however_many_seeds_they_have() -> None:
    assert mean_over_prompts([[1.0, 3.0], [5.0, 6.0, 7.0, 6.0]], SUITE).value == 4


def test_prompts_like_these_is_the_t_test_on_their_means() -> None:
    _, cells = suite(np.random.default_rng(3), 24, 8)
    expected = scipy_stats.ttest_1samp(cells.mean(axis=1), 0).confidence_interval()
    assert mean_over_prompts(cells, LIKE)[1:] == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("cells", "estimand"),
    [
        (np.full((30, 8), 0.3), SUITE),  # nothing varies
        (np.full((30, 8), 0.3), LIKE),
        (np.arange(30.0)[:, None], SUITE),  # one seed a prompt
        (np.arange(38.0).reshape(19, 2) % 7, LIKE),  # 19 prompts
    ],
)
def test_what_cannot_be_told_has_no_bounds_and_never_zero_width(cells, estimand) -> None:
    value, low, high = mean_over_prompts(cells, estimand)
    assert value == pytest.approx(cells.mean())
    assert isnan(low)
    assert isnan(high)


def test_missing_cells_are_not_averaged_in_silence() -> None:
    with pytest.raises(ValueError, match="prompt 1"):
        mean_over_prompts([[0.0, 1.0], [1.0, np.nan]], SUITE)
    with pytest.raises(ValueError, match="prompt 0"):
        mean_over_prompts([[], [1.0, 0.0]], SUITE)
    with pytest.raises(ValueError, match="'all prompts' is neither"):
        mean_over_prompts([[0.0, 1.0]], "all prompts")
    assert all(isnan(x) for x in mean_over_prompts([], SUITE))


def test_mean_share_is_close_to_t_where_t_is_right() -> None:
    _, cells = suite(np.random.default_rng(4), 30, 32)
    for estimand in (SUITE, LIKE):
        ours = mean_share_over_prompts(cells.sum(axis=1), [32] * 30, estimand)
        assert tuple(ours) == pytest.approx(tuple(mean_over_prompts(cells, estimand)), abs=0.006)


def test_nobody_of_a_class_anywhere_still_has_an_upper_bound() -> None:
    nobody = mean_share_over_prompts([0] * 24, [32] * 24, SUITE)
    assert nobody == share_interval(0, 24 * 32)
    assert nobody.high == pytest.approx(0.00498, abs=1e-5)
    # Other prompts may differ: only as many independent images as prompts.
    assert mean_share_over_prompts([0] * 24, [32] * 24, LIKE) == share_interval(0, 24)
    everybody = mean_share_over_prompts([32] * 24, [32] * 24, SUITE)
    assert everybody.low < 1 == everybody.high
    assert all(isnan(x) for x in mean_share_over_prompts([], [], SUITE))
    assert isnan(mean_share_over_prompts([1, 0], [1, 1], SUITE).low)
    assert isnan(mean_share_over_prompts([8] * 19, [32] * 19, LIKE).low)
    with pytest.raises(ValueError, match="leave prompts without images out"):
        mean_share_over_prompts([0, 3], [0, 8], SUITE)


@pytest.mark.parametrize("kind", ["mean", "share"])
def test_both_estimands_cover(kind: str) -> None:
    """30 prompts x 8 seeds, true shares from Beta(2, 2), 300 suites."""
    rng = np.random.default_rng(5)
    hits = {SUITE: 0, LIKE: 0, "mixed up": 0}
    for _ in range(300):
        shares, cells = suite(rng, 30, 8)
        bounds = {}
        for estimand in (SUITE, LIKE):
            if kind == "mean":
                bounds[estimand] = mean_over_prompts(cells, estimand)[1:]
            else:
                bounds[estimand] = mean_share_over_prompts(cells.sum(axis=1), [8] * 30, estimand)[
                    1:
                ]
        hits[SUITE] += bounds[SUITE][0] <= shares.mean() <= bounds[SUITE][1]
        hits[LIKE] += bounds[LIKE][0] <= 0.5 <= bounds[LIKE][1]
        hits["mixed up"] += bounds[SUITE][0] <= 0.5 <= bounds[SUITE][1]
    assert 0.92 <= hits[SUITE] / 300 <= 0.98
    assert 0.92 <= hits[LIKE] / 300 <= 0.98
    # The control: seeds say less about other prompts than about these.
    assert hits["mixed up"] / 300 < 0.87


def test_a_rare_class_is_covered_where_t_is_not() -> None:
    """30 prompts x 8 seeds, true shares from Beta(.2, 4), mean .048."""
    rng = np.random.default_rng(6)
    ours = t = 0
    for _ in range(250):
        _, cells = suite(rng, 30, 8, 0.2, 4)
        _, low, high = mean_share_over_prompts(cells.sum(axis=1), [8] * 30, LIKE)
        ours += low <= 0.2 / 4.2 <= high
        _, low, high = mean_over_prompts(cells, LIKE)
        t += low <= 0.2 / 4.2 <= high
    assert ours / 250 >= 0.91
    assert t / 250 < 0.90


# --- paired differences


def test_a_vae_against_itself_is_exactly_zero() -> None:
    _, cells = suite(np.random.default_rng(7), 24, 32)
    value, low, high, p = paired_difference(cells, cells.copy(), SUITE, span=1)
    assert value == 0
    assert p == 1
    # 768 pairs without a difference: 97.5 % sure that fewer than .48 % of pairs differ.
    assert -low == high == pytest.approx(1 - 0.025 ** (1 / 768))
    # As many other prompts may differ as 24 without a difference allow.
    assert paired_difference(cells, cells, LIKE, span=1).high == pytest.approx(
        1 - 0.025 ** (1 / 24)
    )
    # Where a difference may be of any size, no number of cells bounds the mean.
    assert isnan(paired_difference(cells, cells, SUITE).high)
    assert isnan(paired_difference(cells[:19], cells[:19], LIKE, span=1).high)


def test_a_shift_of_all_cells_by_the_same_amount_has_no_measured_spread() -> None:
    cells = np.arange(240.0).reshape(30, 8)
    value, low, high, p = paired_difference(cells + 1, cells, SUITE, span=1)
    assert value == 1
    assert isnan(low)
    assert isnan(high)
    assert isnan(p)


def test_pairing_by_hand() -> None:
    a, b = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    # Differences (1, 0, 0) and (1, 0, 1): means 1/3 and 2/3, s² both 1/3, 4 degrees of freedom.
    se = sqrt(2 * (1 / 3) / 3) / 2
    half = scipy_stats.t.ppf(0.975, 4) * se
    p = 2 * scipy_stats.t.sf(0.5 / se, 4)
    expected = (0.5, 0.5 - half, 0.5 + half, p)
    assert paired_difference(a, b, SUITE) == pytest.approx(expected)
    assert paired_difference(b, a, SUITE).value == -0.5


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 2\] in one arm, \[2, 1\] in the other"):
        paired_difference([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0]], SUITE)


def test_a_paired_difference_covers_and_is_narrower_than_two_arms() -> None:
    rng = np.random.default_rng(8)
    hits = false_alarms = narrower = 0
    for _ in range(150):
        shares = rng.beta(2, 2, 30)
        luck = rng.random((30, 8))
        a, b = luck < np.clip(shares + 0.1, 0, 1)[:, None], luck < shares[:, None]
        truth = (np.clip(shares + 0.1, 0, 1) - shares).mean()
        _, low, high, _ = paired_difference(a, b, SUITE)
        hits += low <= truth <= high
        other = rng.random((30, 8)) < shares[:, None]
        false_alarms += paired_difference(b, other, SUITE).p <= 0.05
        _, low_a, high_a = mean_over_prompts(a, SUITE)
        narrower += high - low < high_a - low_a
    assert 0.91 <= hits / 150 <= 0.99
    assert 0.02 <= false_alarms / 150 <= 0.08
    assert narrower / 150 > 0.99


@pytest.mark.faults
def test_a_paired_difference_of_shares_is_never_beyond_1():
    # Two images of one prompt, one differs: t with 1 degree of freedom reaches 6.9.
    found = paired_difference([[1.0, 1.0]], [[0.0, 1.0]], "this suite", span=1.0)
    assert found[:3] == (0.5, -1.0, 1.0)
    assert paired_difference([[1.0, 1.0]], [[0.0, 1.0]], "this suite").high > 6
    down = paired_difference([[0.0, 0.0]], [[0.0, 1.0]], "this suite", span=1.0)
    assert down[:3] == (-0.5, -1.0, 1.0)
