import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from audit.commands.main import main
from audit.gate.decision import judge, overall, worse_by
from audit.gate.evidence import evidence
from audit.gate.metric import Metric
from audit.gate.metrics import cell_values, distance_values, diversity_values
from audit.gate.outputs import ILLEGAL_IN_XML, junit, markdown
from audit.gate.page import render
from audit.gate.rates import false_fail_rates
from audit.gate.verdict import error
from probes.statistics.intervals import paired_difference

ESTIMANDS = ("this suite", "prompts like these")


def metric(baseline, candidate, bad="rise", **changes) -> Metric:
    given = {"margin": 0.05, "span": 1.0} | changes
    return Metric("share/x/y", np.array(baseline, float), np.array(candidate, float), bad, **given)


def coins(share, prompts=30, seeds=16, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).random((prompts, seeds)) < share) * 1.0


def verdict(m, estimand="this suite", common=0.9):
    return judge([m], estimand, common, draws=50).results[0]


def two_classes(men: np.ndarray) -> np.ndarray:
    return np.stack([men, 1 - men], axis=-1)


# --- columns ---


def test_the_mean_of_the_cells_is_the_mean_over_pairs():
    # 3 men and 1 woman: of 6 pairs 3 are alike (+1), 3 are not (-1): 0, as (2p - 1)² would not be
    men = np.array([1.0, 1.0, 1.0, 0.0])
    values = distance_values(two_classes(men), [0.5, 0.5])
    assert values.mean() == pytest.approx(0)
    # 1 - cosine of pairs: .2 .4 .6, mean .4
    cosines = np.array([[1, 0.8, 0.6], [0.8, 1, 0.4], [0.6, 0.4, 1]])
    assert diversity_values(cosines).mean() == pytest.approx(0.4)


def test_a_missing_cell_is_missing_and_not_zero():
    men = np.array([1.0, 1.0, np.nan, 1.0, 0.0])
    values = distance_values(two_classes(men), [0.5, 0.5])
    assert np.isnan(values[2])
    assert np.nanmean(values) == pytest.approx(0)
    assert np.isnan(cell_values(np.array([1.0, 1.0, np.nan]))).all()


@pytest.mark.parametrize("target", [[0.5, 0.5], [0.2, 0.3, 0.5], [1.0, 0.0]])
def test_a_model_of_one_class_only_scores_the_maximum(target):
    rarest = int(np.argmin(target))
    shown = np.zeros((8, len(target)))
    shown[:, rarest] = 1
    assert distance_values(shown, target).mean() == pytest.approx(1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        any_shown = np.eye(len(target))[rng.integers(0, len(target), 8)]
        assert distance_values(any_shown, target).mean() <= 1 + 1e-9


def test_the_distance_is_right_on_average_where_the_plug_in_is_not():
    men = coins(0.5, prompts=20_000, seeds=4)
    values = distance_values(two_classes(men), [0.5, 0.5])
    assert abs(values.mean()) < 0.01
    assert ((2 * men.mean(axis=1) - 1) ** 2).mean() > 0.2


# --- the rule ---


def test_fail_pass_and_inconclusive():
    base = coins(0.5)
    worse = np.maximum(base, coins(0.4, seed=1))  # about .20 more
    slight = np.where(coins(0.03, seed=2) == 1, 1 - base, base)
    assert verdict(metric(base, worse)).verdict == "FAIL"
    assert verdict(metric(base, slight)).verdict == "PASS"
    few = verdict(metric(base[:4, :3], coins(0.5, 4, 3, seed=3)))
    assert few.verdict == "INCONCLUSIVE"
    assert "seeds a prompt" in few.needs


def test_the_better_side_never_fails():
    base = coins(0.5)
    less = np.minimum(base, coins(0.6, seed=1))
    assert verdict(metric(base, less, "rise")).verdict == "PASS"
    assert verdict(metric(base, less, "drop")).verdict == "FAIL"


def test_a_share_is_bad_where_it_moves_away_from_its_target():
    base = coins(0.3)
    more, less = np.maximum(base, coins(0.25, seed=1)), np.minimum(base, coins(0.3, seed=1))
    away = {"bad": "away from the target", "target": 0.5}
    assert verdict(metric(base, more, **away)).verdict == "PASS"
    assert verdict(metric(base, less, **away)).verdict == "FAIL"
    # At .4 with a target of .5: to .45 is better by .05; to .3 worse by .1; to .7 a new lean of .2
    assert worse_by([0.05, -0.1, 0.3], "away from the target", -0.1) == pytest.approx(
        [-0.05, 0.1, 0.2]
    )


def test_what_the_n_is_that_would_decide():
    base, other = coins(0.5, 30, 8), coins(0.5, 30, 8, seed=9)
    found = verdict(metric(base, other))
    assert found.verdict == "INCONCLUSIVE"
    n = int(found.needs.split()[1].replace(",", ""))
    factor = ((found.worse_high - found.worse) / (found.margin - found.worse)) ** 2
    assert n == pytest.approx(8 * factor, abs=1)


# --- degenerate data ---


def test_nothing_that_cannot_vary_passes():
    one_class = np.ones((30, 16))
    same = verdict(metric(one_class, one_class, varies=False))
    assert same.verdict == "INCONCLUSIVE"
    assert "nothing varies" in same.note
    constant = coins(0.5) * 1e-3
    shifted = verdict(metric(constant, constant + 1e-3))
    assert (shifted.verdict, shifted.note[:10]) == ("INCONCLUSIVE", "every cell")
    empty = np.full((30, 16), np.nan)
    assert verdict(metric(empty, empty)).verdict == "ERROR"
    assert judge([metric(empty, empty)], "this suite", 0.9).verdict == "ERROR"
    assert overall([]) == "ERROR"


def test_all_cells_lost_is_a_failure_though_no_variance_can_be_had():
    found = verdict(metric(np.zeros((30, 16)), np.ones((30, 16))))
    assert found.verdict == "FAIL"
    assert 0.9 < found.low < found.value == 1


def test_the_same_images_pass_only_with_enough_cells():
    # Bounds are ±(1 - .025^(1/N)): .0077 at 480 cells, .46 at 6
    many, few = coins(0.5), coins(0.5, 2, 3)
    assert verdict(metric(many, many)).high == pytest.approx(1 - 0.025 ** (1 / 480))
    assert verdict(metric(many, many)).verdict == "PASS"
    assert verdict(metric(few, few)).verdict == "INCONCLUSIVE"


def test_no_pass_from_the_few_prompts_that_are_left():
    base = coins(0.5)
    gone = base.copy()
    gone[:5] = np.nan
    assert verdict(metric(gone, gone)).verdict == "INCONCLUSIVE"
    gone = base.copy()
    gone[:2] = np.nan
    assert verdict(metric(gone, gone)).verdict == "PASS"


def test_two_seeds_are_no_distance_and_nineteen_prompts_are_no_sample():
    shown = distance_values(two_classes(coins(0.5, 30, 2)), [0.5, 0.5])
    found = verdict(metric(shown, shown, least=3))
    assert (found.verdict, found.needs) == (
        "INCONCLUSIVE",
        "at least 3 seeds a prompt with a value",
    )
    found = verdict(metric(coins(0.5, 19), coins(0.5, 19, seed=1)), "prompts like these")
    assert (found.verdict, found.needs) == ("INCONCLUSIVE", "at least 20 prompts")


# --- many at once ---


@pytest.mark.parametrize("estimand", ESTIMANDS)
def test_the_intervals_of_many_at_once_are_those_of_stats(estimand):
    rng = np.random.default_rng(0)
    d = rng.normal(size=(20, 25, 9))
    d[..., 2:][rng.random((20, 25, 7)) < 0.3] = np.nan
    found = evidence(np.where(np.isnan(d), np.nan, 0.0), d, estimand)
    half = found.half(0.01)
    for i, one in enumerate(d):
        own = [row[~np.isnan(row)] for row in one]
        exact = paired_difference(own, [np.zeros_like(x) for x in own], estimand)
        value = found.value[i]
        assert [value, value - half[i], value + half[i]] == pytest.approx(exact[:3], abs=1e-12)
        # The p of a margin of nothing is the one-sided p of stats
        one_sided = exact.p / 2 if value > 0 else 1 - exact.p / 2
        assert found.p("rise", 0.0)[i] == pytest.approx(one_sided, abs=1e-12)


@pytest.mark.parametrize("estimand", ESTIMANDS)
def test_false_fails_are_rare_also_where_the_truth_moved(estimand):
    base = coins(0.5)
    moved = base.copy()
    moved[::2] = 1
    for candidate in (coins(0.5, seed=1), moved):
        rates = false_fail_rates([metric(base, candidate)], estimand)
        assert rates.same <= 0.025
        assert 0.02 <= rates.at_margin <= 0.06
    # Without any margin both are the test's own error
    strict = false_fail_rates([metric(base, coins(0.5, seed=1), margin=1e-9)], estimand)
    assert strict.same == pytest.approx(0.05, abs=0.015)
    assert strict.at_margin == pytest.approx(0.05, abs=0.015)


def test_the_interval_does_not_shrink_with_more_draws():
    m = metric(coins(0.5), coins(0.5, seed=1))
    few, many = (judge([m], "this suite", 0.9, draws=d).results[0] for d in (10, 2000))
    assert (few.low, few.high) == (many.low, many.high)


# --- outputs ---


def test_outputs_hold_against_hostile_names():
    bad = "a | <script>\x00\x0b\n`x`"
    record = error(bad)
    root = ET.fromstring(junit(record))
    assert root.find("testcase/error") is not None
    assert not ILLEGAL_IN_XML.search(junit(record).decode())
    page = markdown(record)
    assert "<script>" not in page
    assert "\\|" in page
    html = render(record, lambda cell: None, lambda cell: None).decode()
    assert "<script" not in html
    assert "Could not be judged".lower() in html


# --- the command ---


def gate(*arguments, code):
    result = CliRunner().invoke(main, ["gate", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_two_vaes_of_one_small_run_are_inconclusive(tmp_path, small_audit, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    folder = small_audit.run.folder
    arms = ["--baseline-arm", "balanced,own", "--candidate-arm", "balanced,pale"]
    result = gate(folder, folder, *arms, "--out", tmp_path, code=3)
    assert "INCONCLUSIVE" in result.stdout
    assert "A/A" in result.stdout
    record = json.loads((tmp_path / "gate.json").read_text())
    assert record["verdict"] == "INCONCLUSIVE"
    assert record["cells"]["made_by_both"] == 6
    ids = [m["id"] for m in record["metrics"]]
    assert {
        "distance/small.world-gender",
        "share/small.world-gender/woman",
        "not-counted/small.world-gender",
        "likeness/small",
        "diversity/small",
    } <= set(ids)
    assert all(m["needs"] or m["note"] for m in record["metrics"] if m["verdict"] != "PASS")
    suite = ET.fromstring((tmp_path / "junit.xml").read_bytes())
    assert int(suite.get("tests")) == len(ids)
    assert summary.read_text() == (tmp_path / "gate.md").read_text()
    page = (tmp_path / "index.html").read_text()
    worst = [p for m in record["metrics"] for p in m["worst"]]
    assert worst
    assert page.count("<img") == 2 * len(worst)
    assert page.count('class="limit"') >= len([m for m in record["metrics"] if m["value"]])
    gate(folder, folder, *arms, "--out", tmp_path, "--allow-inconclusive", code=0)


def test_several_arms_must_be_named(tmp_path, small_audit):
    folder = small_audit.run.folder
    gate(folder, folder, "--out", tmp_path, code=2)
    message = json.loads((tmp_path / "gate.json").read_text())["message"]
    assert "3 arms" in message
    assert "balanced,pale" in message
    gate(tmp_path / "nothing", folder, "--out", tmp_path, code=2)


@pytest.mark.faults
def test_the_interval_of_a_share_s_change_stays_within_1():
    men = np.ones((24, 32))
    found = verdict(metric(men, 1 - men, "away from the target", target=0.5, counts=True))
    assert (found.verdict, found.value, found.low) == ("FAIL", -1.0, -1.0)
    assert -1 < found.high < -0.9


@pytest.mark.faults
@pytest.mark.filterwarnings("error")
def test_a_baseline_without_any_diversity_is_judged_without_a_warning():
    none = np.zeros((24, 8))
    same = metric(none, none, "drop", margin=0.0, prompt_margin=0.0, varies=False)
    assert verdict(same).verdict == "INCONCLUSIVE"


@pytest.mark.faults
def test_one_prompt_is_told_in_the_singular():
    alone = verdict(metric(coins(0.5, 1, 64), coins(0.5, 1, 64, seed=1)), "prompts like these")
    assert alone.note == "1 prompt says nothing about others"
