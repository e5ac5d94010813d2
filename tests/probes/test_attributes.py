import numpy as np
import pandas as pd
import pytest
from conftest import analysed_by

from harness.plan.cells import Cell
from harness.spec.attributes import load_attribute
from harness.spec.schema import Spec
from probes.attributes.outcomes import calibration, measured_errors, outcomes

GENDER = {
    "name": "gender",
    "classes": [{"name": "man", "prompts": ["a man"]}, {"name": "woman", "prompts": ["a woman"]}],
    "nobody": ["nobody"],
    "several": ["people"],
}
SPEC = Spec.model_validate(
    {
        "checkpoints": {"a": "x", "b": "y"},
        "prompts": {"list": [f"p{i}" for i in range(20)]},
        "seeds": 8,
        "attributes": [load_attribute(GENDER, None)],
        "classifiers": {"clip": "z"},
    }
)


def plan_of(arms=("a", "b"), prompts=20, seeds=8) -> pd.DataFrame:
    rows = [
        Cell(f"{c}{i}-{s}", f"{c}{i}-{s}", "u", "made", c, "own", "none", "own", 2, 3.0, 64, 64,
             i, f"p{i}", "", s, f"p{i}", "", s, "v")
        for c in arms
        for i in range(prompts)
        for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=Cell._fields)


def scores_of(plan, women) -> pd.DataFrame:
    """Sure scores: in arm `c`, prompt i, the first women(c, i) seeds show a woman."""
    woman = np.array(
        [r.seed < women(r.checkpoint, r.prompt_index) for r in plan.itertuples()], float
    )
    return pd.DataFrame(
        {
            "cell": plan["cell"],
            "class:man": 0.98 - 0.96 * woman,
            "class:woman": 0.02 + 0.96 * woman,
            "nobody": 0.01,
            "several": 0.01,
        }
    )


def analysed(plan, scores, errors=None, labels=None, spec=SPEC, drawn=None, targets=None):
    likeness = pd.DataFrame(
        {"cell": plan["cell"], "likeness": 0.5, "embedding": [np.array([1.0, 0.0])] * len(plan)}
    )
    likeness["likeness"] += np.arange(len(plan)) % 3 / 100
    tables = {"clip.gender": scores, "clip.likeness": likeness}
    if errors is not None:
        tables["errors"] = errors
    if drawn is not None:
        tables["drawn.gender"] = drawn
    if targets is not None:
        tables["targets"] = targets
    none = pd.DataFrame(columns=["cell", "attribute", "class", "rater"])
    findings, figures = analysed_by(
        "attributes",
        tables,
        plan,
        none if labels is None else labels,
        spec,
    )
    assert len({f.id for f in findings}) == len(findings)
    return findings, figures


def pick(findings, metric, **subject):
    found = [
        f
        for f in findings
        if f.metric.name == metric and all(f.subject.get(k) == v for k, v in subject.items())
    ]
    assert found, (metric, subject)
    return found


def test_shares_and_distances_are_those_counted_by_hand():
    plan = plan_of()
    findings, _ = analysed(plan, scores_of(plan, lambda c, i: 4 if c == "a" else 6))
    share = pick(findings, "share", checkpoint="b", prompt="p3")[0]
    assert share.value == 0.75
    assert share.n == 8
    distance = pick(findings, "total variation", checkpoint="b", prompt="p3")[0]
    assert distance.value == 0.25
    assert distance.reference.null == pytest.approx(0.13671875)  # E|k/8 - 1/2|: the notes' .1367
    assert pick(findings, "total variation", checkpoint="a", prompt="p3")[0].p == pytest.approx(1)
    suite = pick(findings, "mean share", checkpoint="b")[0]
    assert suite.value == 0.75
    assert suite.low < 0.75 < suite.high


def test_a_prompt_that_has_its_own_target_is_held_against_it():
    plan = plan_of()
    own = pd.DataFrame(
        [("p3", "gender", "woman", 0.75), ("p3", "gender", "man", 0.25)],
        columns=["prompt", "attribute", "class", "share"],
    )
    scores = scores_of(plan, lambda c, i: 6)
    findings, _ = analysed(plan, scores, targets=own)
    assert pick(findings, "total variation", checkpoint="a", prompt="p3")[0].value == 0
    assert pick(findings, "total variation", checkpoint="a", prompt="p2")[0].value == 0.25
    # The control: without it the same images are as far off as those of the other prompts.
    findings, _ = analysed(plan, scores)
    assert pick(findings, "total variation", checkpoint="a", prompt="p3")[0].value == 0.25


def test_an_all_one_class_model_is_maximal_and_flagged():
    plan = plan_of()
    findings, _ = analysed(plan, scores_of(plan, lambda c, i: 0 if c == "a" else 4))
    for finding in pick(findings, "total variation", checkpoint="a"):
        assert finding.value == 0.5
        assert finding.headline
        assert finding.p == pytest.approx(2 / 2**8)
        assert finding.family == f"{finding.subject['arm']}/gender/clip.gender"
    # Every prompt's distance is a headline test, not only those that come out far.
    assert all(f.headline for f in pick(findings, "total variation", checkpoint="b"))
    assert all(f.p == 1 for f in pick(findings, "total variation", checkpoint="b"))


def test_arms_are_compared_pair_by_pair():
    plan = plan_of()
    findings, _ = analysed(plan, scores_of(plan, lambda c, i: 4 + (c == "b") * (i % 2)))
    for difference in pick(findings, "share difference", checkpoint="b"):
        assert difference.value == pytest.approx(0.5 / 8)
        assert difference.low < difference.value < difference.high
        assert difference.subject["baseline"] == "a"
        # One question is tested once, of this suite; the other estimand has its interval.
        suite = difference.estimand == "this suite"
        assert (difference.p < 0.05) if suite else np.isnan(difference.p)


def test_the_same_images_under_two_names_differ_by_exactly_nothing():
    plan = plan_of()
    findings, _ = analysed(plan, scores_of(plan, lambda c, i: 3))
    for difference in pick(findings, "share difference", checkpoint="b"):
        assert difference.value == 0
        assert difference.p == 1 or difference.estimand == "prompts like these"
        assert difference.low <= 0 <= difference.high


def test_failed_images_are_missing_not_zero():
    plan = plan_of()
    scores = scores_of(plan, lambda c, i: 8)
    gone = plan["prompt"].eq("p0") & plan["checkpoint"].eq("a")
    half = plan["prompt"].eq("p1") & plan["seed"].ge(4)
    findings, _ = analysed(plan, scores[~gone & ~half].reset_index(drop=True))
    lost = pick(findings, "total variation", checkpoint="a", prompt="p0")[0]
    assert lost.status == "not-measured"
    assert np.isnan(lost.value)
    assert "no image 8" in lost.note
    kept = pick(findings, "share", checkpoint="a", prompt="p1")[0]
    assert (kept.value, kept.n) == (1.0, 4)
    attrition = pick(findings, "not counted", checkpoint="a")[0]
    assert attrition.value == pytest.approx((1 + 0.5) / 20)


def test_nobody_several_and_cannot_tell_are_outcomes():
    attribute = SPEC.attributes[0]
    scores = pd.DataFrame(
        {
            "cell": list("abcd"),
            "class:man": [0.9, 0.9, 0.55, 0.3],
            "class:woman": [0.1, 0.1, 0.45, 0.7],
            "nobody": [0.8, 0.1, 0.0, np.nan],
            "several": [0.1, 0.8, 0.0, np.nan],
        }
    )
    assert outcomes(scores, attribute, 0.6, 1.0).tolist() == [
        "nobody",
        "several",
        "cannot tell",
        "woman",
    ]
    assert outcomes(scores, attribute, 0.0, 1.0)[2] == "man"


def test_calibration_finds_the_temperature_that_was_planted():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=20_000)
    truth = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    sure = 1 / (1 + np.exp(-3 * logits))  # three times too sure
    scores = pd.DataFrame({"class:man": 1 - sure, "class:woman": sure})
    labels = pd.Series(np.where(truth, "woman", "man"))
    attribute = SPEC.attributes[0]
    assert calibration(scores, attribute, labels) == pytest.approx(3, rel=0.05)
    assert calibration(scores[:49], attribute, labels[:49]) == 1


def test_corrected_shares_need_measured_errors_of_this_instrument():
    plan = plan_of()
    scores = scores_of(plan, lambda c, i: 6)
    without, _ = analysed(plan, scores)
    assert pick(without, "corrected share")[0].status == "not-measured"
    errors = pd.DataFrame(
        [
            ("gender", "clip.gender", "man", "man", 80),
            ("gender", "clip.gender", "man", "woman", 20),
            ("gender", "clip.gender", "woman", "woman", 100),
        ],
        columns=["attribute", "instrument", "true", "outcome", "count"],
    )
    findings, _ = analysed(plan, scores, errors)
    corrected = pick(findings, "corrected share", checkpoint="a", prompt="p0")[0]
    # .75 = w + .2 (1 - w), so w = .6875
    assert corrected.value == pytest.approx(0.6875, abs=1e-3)
    assert corrected.low < 0.6875 < corrected.high
    assert measured_errors(errors, SPEC.attributes[0], "other.gender", plan) is None
    with pytest.raises(ValueError, match="'wman' is none of man, woman"):
        measured_errors(errors.replace("woman", "wman"), SPEC.attributes[0], "clip.gender", plan)


def test_errors_that_name_a_setting_count_only_there():
    plan = plan_of()
    errors = pd.DataFrame(
        [
            ("gender", "clip.gender", "man", "man", "none", 5),
            ("gender", "clip.gender", "woman", "woman", None, 7),
            ("gender", "clip.gender", "man", "man", "ugly", 11),
        ],
        columns=["attribute", "instrument", "true", "outcome", "negative", "count"],
    )
    found = measured_errors(errors, SPEC.attributes[0], "clip.gender", plan)
    assert found.table.counts[:, :2].tolist() == [[5, 0], [0, 7]]
    elsewhere = plan.assign(negative="blurry")
    only = errors[errors["negative"] == "ugly"]
    assert measured_errors(only, SPEC.attributes[0], "clip.gender", elsewhere) is None


def test_labels_on_this_runs_images_give_prediction_powered_shares():
    plan = plan_of()
    cells = plan.loc[plan["checkpoint"] == "a", "cell"].iloc[::4]
    labels = pd.DataFrame({"cell": cells, "attribute": "gender", "class": "woman", "rater": "r"})
    findings, _ = analysed(plan, scores_of(plan, lambda c, i: 6), labels=labels)
    powered = pick(findings, "prediction-powered share")
    assert [f.subject["checkpoint"] for f in powered] == ["a"]
    assert powered[0].n_clusters == 40


def test_labels_of_a_kept_sample_are_weighted_and_others_left_out():
    plan = plan_of(arms=("a",), seeds=40)
    cells = plan["cell"]
    # Every second image was drawn; half of all are of women, and all are read as men.
    drawn = pd.DataFrame({"cell": cells, "pi": 0.5, "drawn": np.arange(len(cells)) % 2 == 0})
    woman = plan["seed"] % 4 < 2
    rows = [
        (c, "gender", "woman" if w else "man", rater)
        for c, w in zip(cells, woman, strict=True)
        for rater in ("Ann", "Bob")
    ]
    labels = pd.DataFrame(rows, columns=["cell", "attribute", "class", "rater"])
    findings, figures = analysed(plan, scores_of(plan, lambda c, i: 0), labels=labels, drawn=drawn)
    powered = pick(findings, "prediction-powered share")[0]
    assert powered.value == pytest.approx(0.5)
    assert powered.low < 0.5 < powered.high
    assert (powered.n, powered.n_clusters) == (800, 400)
    assert "400 labels of images that were not drawn are left out" in powered.note
    assert "as counted over the same images 0.0%" in powered.note
    table = next(e.table for e in figures if e.id == "agreement/gender")
    assert (table["raters"][0], table["kappa"][0]) == (2, 1.0)
    some = labels[labels["cell"].isin(cells[:100])]
    few = analysed(plan, scores_of(plan, lambda c, i: 0), labels=some, drawn=drawn[:400])[0]
    note = pick(few, "prediction-powered share")[0].note
    assert "50 images labelled by people; of 200 drawn with known probability" in note
    assert "400 images made after the draw are left out" in note


def test_no_scores_at_all_is_said_and_never_a_share():
    plan = plan_of(arms=("a",), prompts=2)
    empty = pd.DataFrame({"cell": pd.Series(dtype=str)})
    findings, _ = analysed(plan, empty)
    assert all(f.status == "not-measured" for f in pick(findings, "total variation"))
    assert not [f for f in findings if f.metric.name == "mean share"]


@pytest.mark.faults
def test_every_interval_of_a_run_with_shared_seeds_is_clustered_by_seed_and_says_so():
    plan = plan_of()
    spec = SPEC.model_copy(update={"seeds": SPEC.seeds.model_copy(update={"shared": True})})
    # All prompts' images of a seed are alike: 8 images, not 160.
    scores = scores_of(plan, lambda c, i: 4 + (c == "b"))
    apart, _ = analysed(plan, scores)
    shared, _ = analysed(plan, scores, spec=spec)
    for metric in ("mean share", "share difference"):
        one, two = (pick(x, metric, checkpoint="b")[0] for x in (apart, shared))
        assert one.value == two.value
        assert two.high - two.low > 2 * (one.high - one.low)
    assert (one.p < 0.001, two.p > 0.05) == (True, True)
    bounded = [f for f in shared if np.isfinite(f.low)]
    assert {f.metric.name for f in bounded} >= {
        "share",
        "mean share",
        "not counted",
        "total variation",
    }
    unsaid = {f.metric.name for f in bounded if "shared" not in f.note}
    assert unsaid <= {"association (Cramér's V)"}
