import numpy as np
import pytest

from probes.statistics.association import association_interval

pytestmark = pytest.mark.faults


def test_cramers_v_by_hand():
    # 2 x 2 with phi = (30 * 30 - 10 * 10) / (40 * 40) = .5; independent: sqrt(1 / 80).
    found = association_interval(np.array([[30, 10], [10, 30]]))
    assert found.value == pytest.approx(0.5)
    assert found.null == pytest.approx(np.sqrt(1 / 80))
    # Square root of the noncentral parameter is about normal around sqrt(80) * .5 = 4.47.
    assert found.low == pytest.approx((4.472 - 1.96) / np.sqrt(80), abs=0.01)
    assert found.high == pytest.approx((4.472 + 1.96) / np.sqrt(80), abs=0.01)


def test_independent_attributes_have_an_interval_that_begins_at_zero():
    found = association_interval(np.array([[20, 20], [20, 20]]))
    assert (found.value, found.low) == (0, 0)
    assert 0.1 < found.high < 0.35


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.4, 0.8])
def test_the_interval_covers_where_prompts_are_fixed(strength):
    rng = np.random.default_rng(0)
    prompts, images = 24, 16
    # Each prompt's own table; the true V is that of their mean.
    tables = np.full((prompts, 4), 0.25) + strength * np.array([1, -1, -1, 1]) / 4
    tables += rng.normal(size=(prompts, 1)) * 0.02 * np.array([1, -1, -1, 1])
    tables = np.clip(tables, 0, None) / np.clip(tables, 0, None).sum(axis=1, keepdims=True)
    mean = tables.mean(axis=0)
    true = abs(mean[0] * mean[3] - mean[1] * mean[2]) / np.sqrt(
        (mean[0] + mean[1]) * (mean[2] + mean[3]) * (mean[0] + mean[2]) * (mean[1] + mean[3])
    )
    held = 0
    for _ in range(80):
        counts = rng.multinomial(images, tables).sum(axis=0).reshape(2, 2)
        found = association_interval(counts)
        held += found.low <= true <= found.high
    assert held >= 72


def test_a_table_with_an_empty_class_is_refused():
    with pytest.raises(ValueError, match="none empty"):
        association_interval(np.array([[1, 0], [3, 0]]))
