"""Blind pairs: sides and order, what is kept, and from judgements to the report's finding."""

import json

import numpy as np
import pandas as pd
import pytest

from audit.pipeline import analyse
from audit.pipeline.session import reopen
from benchmarks.synthetic_run import make
from harness.errors import SpecError
from harness.plan.cells import arm_labels
from harness.store.run import Run
from probes.preference import trials
from probes.preference.estimate import for_arm, for_left, table
from reports.verdicts import verdict


@pytest.fixture
def plan():
    rows = [
        (f"{arm}-{prompt}-{seed}", f"prompt {prompt}", seed, arm)
        for prompt in range(30)
        for seed in range(4)
        for arm in ("a", "b", "c")
    ]
    return pd.DataFrame(rows, columns=["cell", "prompt", "seed", "arm"])


def judge(plan, pairs, rater, choose):
    arm = plan.set_index("cell")["arm"]
    rows = [(t.id, rater, t.left, t.right, choose(arm[t.left], arm[t.right])) for t in pairs]
    return pd.DataFrame(rows, columns=["id", *trials.COLUMNS])


def test_pairs_share_prompt_and_seed_sides_are_even_and_controls_are_mixed_in(plan):
    pairs = trials.trials(plan, ("a", "b"), "ann")
    known = plan.set_index("cell")
    real = [t for t in pairs if not t.control]
    assert len(real) == 120
    for t in real:
        both = known.loc[[t.left, t.right]]
        assert both["seed"].nunique() == both["prompt"].nunique() == 1
        assert set(both["arm"]) == {"a", "b"}
    controls = [t for t in pairs if t.control]
    assert len(controls) == 120 // 5
    for t in controls:
        both = known.loc[[t.left, t.right]]
        assert both["arm"].nunique() == both["prompt"].nunique() == 1
        assert both["seed"].nunique() == 2
    at_left = sum(known["arm"][t.left] == "a" for t in real)
    assert 42 <= at_left <= 78  # 99.9 % of Binomial(120, 1/2)
    assert pairs == trials.trials(plan, ("a", "b"), "ann")
    assert [t.id for t in pairs] != [t.id for t in trials.trials(plan, ("a", "b"), "ben")]
    with pytest.raises(SpecError, match="share no prompt and seed"):
        trials.trials(plan[plan["arm"] == "a"], ("a", "b"), "ann")


def test_who_always_takes_b_gives_one_and_who_always_takes_left_gives_a_half(plan):
    pairs = trials.trials(plan, ("a", "b"), "ann")
    fond = judge(plan, pairs, "ann", lambda left, right: "left" if left == "b" else "right")
    found = for_arm(table(fond, plan), "b", "a")
    assert (found.value, found.n, found.prompts, found.raters) == (1.0, 120, 30, 1)
    assert for_arm(table(fond, plan), "a", "b").value == 0.0
    lazy = judge(plan, pairs, "ann", lambda left, right: "left")
    found = for_arm(table(lazy, plan), "b", "a")
    assert found.low < 0.5 < found.high
    assert found.needed > 30 or found.value == 0.5
    assert for_left(table(lazy, plan)).value == 1.0
    none = for_arm(table(judge(plan, pairs, "ann", lambda *_: "same"), plan), "b", "a")
    assert (none.value, none.undecided) == (0.5, 1.0)
    assert np.isnan(none.low)


def test_the_last_judgement_counts_and_others_are_refused(plan, tmp_path):
    run = Run(tmp_path)
    trial = trials.trials(plan, ("a", "b"), "ann")[0]
    trials.keep(run, "ann", trial, "left")
    trials.keep(run, "ann", trial, "both bad")
    assert trials.judged(run)["choice"].tolist() == ["both bad"]
    for rater, choice in (("ann", "best"), (" ", "left")):
        with pytest.raises(SpecError, match="a choice is one of left, right, same, both bad"):
            trials.keep(run, rater, trial, choice)


@pytest.mark.parametrize("value", [[], {"rater": "ann"}, None, "left"])
def test_a_file_that_is_no_judgement_is_named_in_one_line(value, tmp_path):
    run = Run(tmp_path)
    run.write_json("preferences/odd.json", value)
    with pytest.raises(SpecError, match=r"odd\.json: no judgement"):
        trials.judged(run)
    row = {"rater": "ann", "left": "a", "right": "b", "choice": ["left"]}
    run.write_json("preferences/odd.json", row)
    with pytest.raises(SpecError, match="delete the file or judge the pair again"):
        trials.judged(run)


def test_judgements_reach_the_report(tmp_path):
    make(tmp_path / "run", prompts=6, seeds=2)
    audit = reopen(tmp_path / "run")
    plan = audit.run.read_plan()
    seen = plan.assign(arm=arm_labels(plan))
    arms = list(dict.fromkeys(seen["arm"]))
    arm_of = seen.set_index("cell")["arm"]
    for trial in trials.trials(seen, (arms[0], arms[1]), "ann"):
        side = "left" if arm_of[trial.left] == arms[1] else "right"
        trials.keep(audit.run, "ann", trial, side)
    findings, figures = analyse.analyse(audit)
    analyse.report(audit, findings, figures)
    (found,) = [f for f in findings if f.metric.name == "preference"]
    assert found.value == 0.5
    assert np.isnan(found.low)  # nothing varies
    assert verdict(found) == "cannot tell"
    page = audit.run.folder / "report" / "report.json"
    assert any(f["probe"] == "preference" for f in json.loads(page.read_text())["findings"])
