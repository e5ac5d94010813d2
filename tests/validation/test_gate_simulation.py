"""The gate on populations whose truth is known: false verdicts at the margin, power, guard.

Small versions of `validation.simulations.gate`, which prints the tables of
docs/simulations/gate.md, and the whole gate (`decide`) on some of the same data. The bars are the
tables' with room for 1,000 trials: 0.05 has a standard error of 0.007.
"""

import numpy as np
import pandas as pd
import pytest
from conftest import write_spec
from scipy import stats

from audit.gate.baseline import Side
from audit.gate.decision import judge
from audit.gate.evidence import evidence
from audit.gate.metric import Metric
from audit.gate.outputs import lines
from audit.gate.prompt_guard import p_of_prompts, p_of_rise, unseen
from audit.gate.verdict import decide
from harness.spec.schema import load_spec
from validation.simulations import gate

pytestmark = pytest.mark.faults

ESTIMANDS = gate.ESTIMANDS
EVEN = np.full(24, 0.5)
AT_MOST = 0.065
"""0.05 and two standard errors of 1,000 trials."""


# --- FAIL means worse than the margin ---


@pytest.mark.parametrize("estimand", ESTIMANDS)
def test_a_change_inside_or_on_the_margin_rarely_fails(estimand):
    base = gate.spread(30, 0.2, 0.85, 0.6)
    for shift in (0.04, 0.05):
        found = gate.share(base, base + shift, 16, 0.3, estimand, trials=1000)
        assert found.failed_alone <= AT_MOST
        assert found.failed <= 0.02
        assert found.passed <= AT_MOST


def test_ten_points_are_found_at_the_n_that_the_docs_name():
    base = gate.spread(30, 0.3, 0.9, 0.6)
    few = gate.share(base, base + 0.1, 16, 0.3, trials=500)
    assert 0.5 <= few.failed_alone <= 0.8
    assert few.failed <= 0.5
    many = gate.share(base, base + 0.1, 64, 0.3, trials=500)
    assert many.failed >= 0.9
    same = gate.share(base, base, 64, 0.3, trials=500)
    assert same.passed >= 0.9
    apart = gate.spread(30, 0.0, 1.0, 0.5)
    away = np.clip(apart + 0.1 * np.sign(apart - 0.5), 0, 1)
    assert gate.distance(apart, away, 64, 0.3, trials=200).failed >= 0.8
    assert gate.distance(apart, apart, 64, 0.3, trials=200).failed_alone <= 0.02


@pytest.mark.parametrize("estimand", ESTIMANDS)
def test_a_family_on_its_margins_rarely_fails_any(estimand):
    """Five attributes, each with a share on its margin: 5 % for the whole gate."""
    rng = np.random.default_rng(5)
    base = gate.spread(30, 0.2, 0.85, 0.6)
    p = []
    for _ in range(5):
        arms = gate.draw(rng, base, base + 0.05, 16, 0.3, 1000)
        p.append(evidence(*arms, estimand, 2, 1.0, 0.5).p("away from the target", 0.05))
    assert (5 * np.min(p, axis=0) <= 0.05).mean() <= AT_MOST
    # The control: unadjusted, one in five such gates would fail
    assert (np.min(p, axis=0) <= 0.05).mean() >= 0.1 * (estimand == "this suite")


# --- a baseline on target, seeds strongly shared ---


@pytest.mark.parametrize("correlation", [0.3, 0.95, 0.99])
@pytest.mark.parametrize("base", [EVEN, gate.spread(24, 0.1, 0.9, 0.5)], ids=["even", "spread"])
def test_a_baseline_on_target_does_not_let_a_new_lean_pass(correlation, base):
    found = gate.share(base, base - 0.0505, 16, correlation, trials=1000)
    assert found.passed <= AT_MOST
    assert gate.share(base, base, 64, correlation, trials=200).passed >= 0.7


def test_the_bound_is_that_of_the_candidates_own_gap_where_that_is_smaller():
    """From 0.47 to 0.51 at a target of 0.5: the difference is 0.04, the new lean only 0.01."""
    base, other = np.zeros((10, 100)), np.zeros((10, 100))
    base[:, :47], other[:, :51] = 1, 1
    found = evidence(base, other, "this suite", 2, 1.0, 0.5)
    # Ten prompts of 100 cells at 0.51, on the margin 0.55: 0.01 + 2.054 sqrt(0.55 0.45 / 990)
    assert float(found.bound("away from the target", 0.05)) == pytest.approx(0.0426, abs=2e-4)
    assert float(found.bound("rise", 0.05)) > 0.05


def test_few_changed_cells_do_not_make_a_narrow_interval():
    """10 of 384 cells rose: by their own variance at most 0.043, by that on the margin more."""
    base, other = np.zeros((24, 16)), np.zeros((24, 16))
    other[:10, 0] = 1
    found = evidence(base, other, "this suite", 2, 1.0)
    own = 10 / 384 + 1.96 * float(found.error)
    high = float(found.bound("rise", 0.05))
    assert own < 0.043 < high
    expected = 10 / 384 + stats.t.isf(0.025, float(found.df)) * np.sqrt(0.05 * 0.95 / 384)
    assert high == pytest.approx(expected)


# --- one prompt ---


def test_one_prompt_that_flips_fails_and_nothing_else_does():
    moved = np.where(np.arange(24) == 0, 1.0, EVEN)
    for correlation in (0.0, 0.3):
        found = gate.guard(EVEN, moved, 80, correlation, trials=300)
        assert found.guard_failed >= 0.9
        assert found.share_passed >= 0.5  # the mean does not see it
        same = gate.guard(EVEN, EVEN, 80, correlation, trials=300)
        assert same.guard_failed == 0
        assert same.share_passed - same.passed <= 0.05


def test_the_guard_holds_its_error_on_its_own_margin():
    rng = np.random.default_rng(3)
    for n in (8, 30, 80, 150):
        for fall in (0.0, 0.05, 0.3):
            rose, fell, _ = rng.multinomial(n, [0.15 + fall, fall, 0.85 - 2 * fall], 4000).T
            p = p_of_rise(rose, fell, n, 0.15)
            for level in (0.05, 0.01):
                assert (p <= level).mean() <= level + 0.01


def test_the_guards_p_by_hand():
    # 3 of 3 rise, on the margin the share that falls may be anything up to 0.425: 0.575³
    assert p_of_rise(3, 0, 3, 0.15) == pytest.approx(0.575**3)
    assert p_of_rise(0, 0, 3, 0.15) == pytest.approx(1)
    # All of ten images of the class at a target of 0.5: two sides, the larger of two p
    base, other = np.zeros((1, 10)), np.ones((1, 10))
    own = max(0.575**10, 0.65**10)
    assert p_of_prompts(base, other, "away from the target", 0.15, [0.5])[0] == pytest.approx(
        2 * own
    )
    # Its own target at 0.9: all of the class is no more than 0.1 from it
    assert p_of_prompts(base, other, "away from the target", 0.15, [0.9])[0] == 1


def test_the_move_that_could_not_be_seen_shrinks_with_the_seeds():
    missed = [unseen(n, 0.5, 0.15, 1e-4) for n in (8, 64, 80, 128, 200, 201, 1000)]
    assert missed[0] == 0.5  # all that a prompt on target can move
    assert missed == sorted(missed, reverse=True)
    assert missed[-1] < 0.3
    # And it is right: a move this large is found in nine of ten runs, a smaller one is not
    rng = np.random.default_rng(0)
    for move, low, high in ((missed[3] + 0.01, 0.88, 1.0), (missed[3] - 0.03, 0.0, 0.93)):
        arms = gate.draw(rng, [0.5], [0.5 + move], 128, 0.0, 3000)
        p = p_of_prompts(*arms, "away from the target", 0.15, [0.5])
        assert low <= (p <= 1e-4).mean() <= high


# --- losses ---


def test_nothing_lost_passes_for_prompts_like_these_and_clustered_losses_do_not():
    assert gate.losses(0.0, 0.0, trials=10).passed == 1
    for correlation in (0.0, 0.05, 0.1):
        found = gate.losses(0.05, correlation, trials=1000)
        assert found.passed <= AT_MOST
        assert found.failed_alone <= AT_MOST


def test_what_nothing_lost_says_and_needs():
    rng = np.random.default_rng(0)
    for prompts, seeds in ((24, 32), (24, 2), (20, 4)):
        none = np.zeros((prompts, seeds))
        metric = Metric("not-counted/x", none, none, "rise", 0.05, span=1.0, counts=True)
        found = judge([metric], "prompts like these", 0.9, draws=10).results[0]
        independent = prompts * seeds / (1 + 0.1 * (seeds - 1))
        assert found.worse_high == pytest.approx(1 - 0.025 ** (1 / independent))
        assert f"{1 - 0.025 ** (1 / prompts):.0%} of prompts like these" in found.note
        assert "intra-prompt correlation of 0.1" in found.note
        if found.verdict == "PASS":
            assert found.worse_high < 0.05
            continue
        # It scales as the bound does: with so many prompts it just passes
        n = int(found.needs.split()[1])
        for more, word in ((n, "PASS"), (n - 2, "INCONCLUSIVE")):
            wide = metric._replace(
                baseline=np.zeros((more, seeds)), candidate=np.zeros((more, seeds))
            )
            assert judge([wide], "prompts like these", 0.9, draws=10).results[0].verdict == word
    # 'This suite' too, in seeds
    none = np.zeros((4, 10))
    metric = Metric("not-counted/x", none, none, "rise", 0.05, span=1.0, counts=True)
    found = judge([metric], "this suite", 0.9, draws=10).results[0]
    assert found.needs == "about 18 seeds a prompt"  # 72 cells: log 0.025 / log 0.95 = 71.9
    # Identical candidates pass every share, for both questions
    same = (rng.random((24, 32)) < 0.5) * 1.0
    metric = Metric("share/x/y", same, same, "away from the target", 0.05, 0.5, 1.0, counts=True)
    for estimand in ESTIMANDS:
        assert judge([metric], estimand, 0.9, draws=10).results[0].verdict == "PASS"


# --- the whole gate ---


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spec")
    prompts = {"list": [f"a portrait of a {job}" for job in "abcdefghijklmnopqrstuvwx"]}
    return load_spec(write_spec(folder, attributes=["world-gender"], prompts=prompts))


def side(spec, arm, shown, seed=0, **changes) -> Side:
    """An arm whose images show women where `shown` (24, S) is 1, with scores of no effect."""
    rng = np.random.default_rng(seed)
    prompts, seeds = shown.shape
    vectors = rng.normal(size=(prompts, seeds, 8))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    cosines = np.einsum("psk,ptk->pst", vectors, vectors)
    rows = [
        {
            "prompt": spec.prompts.list[i],
            "seed": s,
            "cell": f"{arm}-{i}-{s}",
            "made": True,
            "likeness:small": 0.8 + 0.01 * float(rng.normal()),
            "cosines:small": cosines[i, s].tolist(),
            "outcome:small.world-gender": "woman" if shown[i, s] else "man",
        }
        for i in range(prompts)
        for s in range(seeds)
    ]
    return Side(
        arm=arm,
        cells=pd.DataFrame(rows),
        settings={"negative": "", "sampler": "own", "steps": 2, "guidance": 1.0}
        | {"width": 64, "height": 64},
        targets={},
        spec=spec,
        instruments={"small.likeness": "small.likeness@1", "small.world-gender": "g@1"},
        made_with={},
        audited=[],
        findings=[],
    )._replace(**changes)


def by_id(record):
    return {m["id"]: m for m in record["metrics"]}


SHARE = "share/small.world-gender/woman"


def test_the_gate_fails_one_prompt_that_flips_and_names_it(spec):
    base, other = (x[0] for x in gate.draw(np.random.default_rng(1), EVEN, EVEN, 80, 0.3, 1))
    flipped = other.copy()
    flipped[3] = 1
    before = side(spec, "a,own", base)
    record = decide(before, side(spec, "b,own", flipped, seed=1))
    assert record["verdict"] == "FAIL"
    assert record["message"] == f"worse than its margin: prompt/{SHARE}"
    rows = by_id(record)
    assert rows[SHARE]["verdict"] != "FAIL"
    guard = rows[f"prompt/{SHARE}"]
    assert guard["prompt"] == spec.prompts.list[3]
    assert {p["prompt"] for p in guard["worst"]} == {spec.prompts.list[3]}
    assert guard["candidate"] == 1
    same = decide(before, side(spec, "b,own", other, seed=1))
    guards = [m for m in same["metrics"] if m["id"].startswith("prompt/")]
    assert [(g["id"], g["verdict"]) for g in guards] == [(f"prompt/{SHARE}", "PASS")]
    moves = np.abs(other.mean(axis=1) - 0.5) - np.abs(base.mean(axis=1) - 0.5)
    assert guards[0]["worse"] >= moves.max()
    assert same["verdict"] == "PASS"
    assert same["prompt_move_unseen"] == pytest.approx(0.47, abs=0.02)
    assert "a share of one prompt may move by up to 0.4" in same["message"]
    assert any("false FAIL at the margin" in line for line in lines(same))
    assert same["false_fail_rate"] <= 0.01
    assert same["false_fail_rate_at_margin"] <= AT_MOST


def test_the_guard_never_blocks_a_pass_and_can_be_told_its_margin(spec):
    base, other = (x[0] for x in gate.draw(np.random.default_rng(2), EVEN, EVEN, 80, 0.3, 1))
    flipped = other.copy()
    flipped[3] = 1
    wide = spec.gate.model_copy(update={"margins": {"prompt": 0.6}})
    record = decide(
        side(spec.model_copy(update={"gate": wide}), "a,own", base), side(spec, "b,own", flipped)
    )
    assert by_id(record)[f"prompt/{SHARE}"]["verdict"] == "PASS"
    assert record["verdict"] in ("PASS", "INCONCLUSIVE")
    # Three seeds say nothing of one prompt; the guard is still no reason to be inconclusive
    few = decide(side(spec, "a,own", base[:, :3]), side(spec, "b,own", other[:, :3]))
    guards = [m for m in few["metrics"] if m["id"].startswith("prompt/")]
    assert [g["verdict"] for g in guards] == ["PASS"]


def test_prompts_own_targets_decide_what_is_worse(spec):
    """Half of the prompts aim at 0.9, half at 0.1: going there is better, away from it worse."""
    aims = np.where(np.arange(24) % 2, 0.9, 0.1)
    targets = {
        p: {"world-gender": {"woman": float(t)}}
        for p, t in zip(spec.prompts.list, aims, strict=True)
    }
    rng = np.random.default_rng(3)
    even, towards, back = (
        x for x in (gate.draw(rng, s, s, 80, 0.0, 1)[0][0] for s in (EVEN, aims, 1 - aims))
    )
    before = side(spec, "a,own", even, targets=targets)
    better = decide(before, side(spec, "b,own", towards, targets=targets))
    rows = by_id(better)
    distance = "distance/small.world-gender"
    assert rows[distance]["verdict"] == "PASS"
    assert rows[distance]["value"] < -0.1
    assert not [m for m in better["metrics"] if m["verdict"] == "FAIL"]
    worse = decide(before, side(spec, "c,own", back, targets=targets))
    rows = by_id(worse)
    assert rows[distance]["verdict"] == "FAIL"
    assert rows[f"prompt/{SHARE}"]["verdict"] == "FAIL"
    # Without targets of their own both candidates lie equally far from one half
    plain = decide(side(spec, "a,own", even), side(spec, "b,own", towards))
    assert by_id(plain)[distance]["verdict"] == "FAIL"
    # The mean's target is that of the prompts: all women where three of four should be
    three = {p: {"world-gender": {"woman": 0.75}} for p in spec.prompts.list}
    moved = gate.draw(rng, EVEN + 0.25, EVEN + 0.25, 80, 0.0, 1)[0][0]
    record = decide(
        side(spec, "a,own", even, targets=three), side(spec, "b,own", moved, targets=three)
    )
    assert by_id(record)[SHARE]["verdict"] == "PASS"
    assert by_id(record)[SHARE]["target"] == 0.75


def test_margins_of_diversity_and_likeness_are_parts_of_the_baselines_mean(spec):
    """Diversity 0.05 of images that are all alike: a tenth of it is 0.005, not 0.1."""
    shown = gate.draw(np.random.default_rng(4), EVEN, EVEN, 48, 0.0, 1)[0][0]
    before, after = side(spec, "a,own", shown), side(spec, "b,own", shown, seed=1)
    rng = np.random.default_rng(5)
    for one, spread in ((before, 0.05), (after, 0.03)):
        # 1 - cosine of pairs: about `spread`, which a symmetric matrix of its own noise varies
        for _, own in one.cells.groupby("prompt", sort=False):
            noise = rng.normal(scale=0.002, size=(len(own), len(own)))
            cosines = 1 - spread - np.triu(noise, 1) - np.triu(noise, 1).T
            np.fill_diagonal(cosines, 1)
            one.cells.loc[own.index, "cosines:small"] = pd.Series(cosines.tolist(), own.index)
    after.cells["likeness:small"] += -0.02
    rows = by_id(decide(before, after))
    diversity, likeness = rows["diversity/small"], rows["likeness/small"]
    assert diversity["margin"] == pytest.approx(0.1 * diversity["baseline"])
    assert diversity["margin"] == pytest.approx(0.005, rel=0.05)
    assert diversity["verdict"] == "FAIL"  # 0.02 less of 0.05
    assert likeness["margin"] == pytest.approx(0.05 * likeness["baseline"])
    assert likeness["verdict"] == "PASS"  # 0.02 less of 0.8


def test_the_gate_decides_as_the_simulation_does(spec):
    """Near the margin, on target, and for prompts like these with nothing lost."""
    rng = np.random.default_rng(6)
    seen = {}
    cases = {
        "on target to 0.45": (EVEN, EVEN - 0.0505, 0.95),
        "0.60 to 0.64": (EVEN + 0.1, EVEN + 0.14, 0.3),
        "0.60 to 0.80": (EVEN + 0.1, EVEN + 0.3, 0.3),
    }
    for name, (base, other, correlation) in cases.items():
        words = []
        for _ in range(2):
            a, b = (x[0] for x in gate.draw(rng, base, other, 32, correlation, 1))
            record = decide(side(spec, "a,own", a), side(spec, "b,own", b, seed=1))
            row, found = by_id(record)[SHARE], evidence(a, b, "this suite", 2, 1.0, 0.5)
            assert row["worse_high"] == pytest.approx(
                float(found.bound("away from the target", 0.05))
            )
            assert row["p"] == pytest.approx(float(found.p("away from the target", 0.05)))
            assert row["p_adjusted"] >= row["p"]
            lost = by_id(record)["not-counted/small.world-gender"]
            assert lost["verdict"] == "PASS"
            assert lost["other estimand"]["verdict"] == "PASS"
            words.append(row["verdict"])
        seen[name] = words
    assert seen["0.60 to 0.80"] == ["FAIL"] * 2
    assert "FAIL" not in seen["on target to 0.45"] + seen["0.60 to 0.64"]
