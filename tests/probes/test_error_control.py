from math import nan

import numpy as np
import pytest

from probes.contracts import Finding, MetricSpec
from probes.error_control import ADJUSTMENT, adjusted, two_level_p

pytestmark = pytest.mark.faults


def rejected_by_hand(p: np.ndarray, families: list[str], q: float) -> np.ndarray:
    """Benjamini and Bogomolov's procedure, step by step, at one level."""

    def step_up(values: np.ndarray, level: float) -> np.ndarray:
        order = np.sort(values)
        below = np.flatnonzero(order <= level * np.arange(1, len(order) + 1) / len(order) + 1e-15)
        return values <= (order[below[-1]] if len(below) else -1)

    names = sorted(set(families))
    own = {n: np.flatnonzero(np.array(families) == n) for n in names}
    simes = np.array(
        [(np.sort(p[own[n]]) * len(own[n]) / np.arange(1, len(own[n]) + 1)).min() for n in names]
    )
    selected = step_up(simes, q)
    out = np.zeros(len(p), bool)
    for name, chosen in zip(names, selected, strict=True):
        if chosen:
            out[own[name]] = step_up(p[own[name]], q * selected.sum() / len(names))
    return out


def test_p_is_below_a_level_exactly_where_the_whole_procedure_rejects_at_it():
    rng = np.random.default_rng(0)
    for _ in range(150):
        families = [f"f{k}" for k in range(rng.integers(1, 6)) for _ in range(rng.integers(1, 7))]
        p = rng.uniform(size=len(families)) ** rng.integers(1, 5)
        found = two_level_p(p, families)
        for q in (0.01, 0.05, 0.2):
            assert (found <= q).tolist() == rejected_by_hand(p, families, q).tolist()


def test_one_family_is_plain_benjamini_hochberg():
    # Sorted .01, .02, .03, .5 of 4: .01 x 4/1 = .04, .02 x 4/2 = .04, .03 x 4/3 = .04, .5.
    assert two_level_p([0.03, 0.5, 0.01, 0.02], ["a"] * 4) == pytest.approx([0.04, 0.5, 0.04, 0.04])


def test_a_biased_family_does_not_lower_the_bar_of_a_fair_one():
    biased, fair = [1e-6] * 20, [0.02, *[0.9] * 19]
    both = two_level_p(biased + fair, ["biased"] * 20 + ["fair"] * 20)
    assert (both[:20] <= 0.05).all()
    assert (both[20:] > 0.05).all()
    # The control: one adjustment over everything flags the fair family's .02.
    from probes.statistics.multiplicity import benjamini_hochberg

    assert benjamini_hochberg(biased + fair)[20] <= 0.05


def test_inside_a_family_the_level_shrinks_with_the_part_of_families_selected():
    # One of two families selected: inside it p adjusted must be at most .05 / 2.
    assert two_level_p([0.02, 0.9], ["a", "b"])[0] == pytest.approx(0.04)
    assert two_level_p([0.03, 0.9], ["a", "b"])[0] == pytest.approx(0.06)
    assert two_level_p([0.03, 0.03], ["a", "b"]) == pytest.approx([0.03, 0.03])


def finding(p, family="f", headline=True):
    metric = MetricSpec("metric")
    return Finding(
        id="id", probe="probe", metric=metric, value=1.0, p=p, family=family, headline=headline
    )


def test_only_headline_findings_with_a_family_and_a_p_are_tests():
    given = [finding(0.01), finding(0.02, family=""), finding(0.02, headline=False), finding(nan)]
    made = adjusted(given)
    assert (made[0].p, made[0].p_unadjusted, made[0].adjustment) == (0.01, 0.01, ADJUSTMENT)
    assert [f.adjustment for f in made[1:]] == ["none"] * 3
    assert [f.p for f in made[1:3]] == [0.02, 0.02]


def test_adjusting_twice_changes_nothing():
    once = adjusted([finding(0.01), finding(0.04), finding(0.5, "other")])
    assert adjusted(once) == once
    assert adjusted([]) == []


def test_a_p_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        two_level_p([1.2], ["a"])
