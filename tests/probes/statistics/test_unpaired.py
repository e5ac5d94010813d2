import numpy as np
import pytest
from scipy import stats

from probes.statistics.unpaired import unpaired_difference

pytestmark = pytest.mark.faults


def test_one_prompt_is_welchs_t_of_all_images_of_both_arms():
    a, b = np.array([1.0, 2, 4, 7]), np.array([0.0, 1, 1, 2, 3, 3])
    found = unpaired_difference(a, np.array([4]), b, np.array([6]), "this suite")
    test = stats.ttest_ind(a, b, equal_var=False)
    assert found.value == pytest.approx(3.5 - 10 / 6)
    assert found.p == pytest.approx(test.pvalue)
    assert found.low == pytest.approx(test.confidence_interval(0.95).low)


def test_prompts_weigh_the_same_however_many_images_they_have():
    # Prompt one: 1/2 against 1/4; prompt two: 0 against 1/2: mean of +.25 and -.5.
    a, b = np.array([1.0, 0, 0, 0, 0, 0]), np.array([1.0, 0, 0, 0, 1, 0])
    found = unpaired_difference(a, np.array([2, 4]), b, np.array([4, 2]), "this suite", True)
    assert found.value == pytest.approx((0.25 - 0.5) / 2)
    assert -1 <= found.low < found.value < found.high <= 1


def test_shares_of_0_and_1_have_an_interval_and_a_p():
    # Newcombe's: 0 of 10 has [0, .2775], 10 of 10 [.7225, 1]; the difference is 1.
    a, b = np.ones(10), np.zeros(10)
    found = unpaired_difference(a, np.array([10]), b, np.array([10]), "this suite", True)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - np.sqrt(2) * 0.27753, abs=1e-4)
    assert 0 < found.p < 0.001
    same = unpaired_difference(a, np.array([10]), a[:3], np.array([3]), "this suite", True)
    assert (same.value, same.p) == (0, 1)
    assert same.low < 0 < same.high


def test_one_image_a_prompt_is_enough_where_the_other_arm_has_more():
    rng = np.random.default_rng(0)
    held = said = 0
    for _ in range(100):
        a, b = (rng.random(n) < 0.3 for n in (144, 36))
        found = unpaired_difference(
            a.astype(float), np.full(36, 4), b.astype(float), np.full(36, 1), "this suite", True
        )
        held += found.low <= 0 <= found.high
        said += found.p <= 0.05
    assert held >= 90
    assert said <= 11


def test_prompts_like_these_are_a_t_test_of_their_differences():
    rng = np.random.default_rng(1)
    a, b, n = rng.random(60), rng.random(40), 20
    found = unpaired_difference(a, np.full(n, 3), b, np.full(n, 2), "prompts like these")
    difference = a.reshape(n, 3).mean(axis=1) - b.reshape(n, 2).mean(axis=1)
    assert found.p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    few = unpaired_difference(a[:9], np.full(3, 3), b[:6], np.full(3, 2), "prompts like these")
    assert np.isnan(few.low)


def test_nothing_to_compare_is_nan():
    nothing = np.array([], float)
    none = np.array([], int)
    assert np.isnan(unpaired_difference(nothing, none, nothing, none, "this suite").value)
