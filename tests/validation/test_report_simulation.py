import pytest

from validation.simulations.report import checked, counted

pytestmark = pytest.mark.faults


def test_the_fast_path_of_the_simulation_is_the_reports_own():
    assert checked(1, seed=7) == 0


def test_fair_reports_are_silent_and_a_biased_arm_does_not_make_a_fair_one_speak():
    found = counted(100, seed=8)
    for arms in (1, 3, 6):
        # 5 % of 100 is 5; more than 10 has a chance of 1 % there.
        assert found["any", arms, ""] <= 10
        for part in ("biased 30%", "biased 62%", "biased 90%"):
            assert found["any arm or attribute", arms, part] <= 10
    # The control: a biased arm speaks in every report.
    assert found["findings", 1, "biased 90%"] >= 100 * 20
