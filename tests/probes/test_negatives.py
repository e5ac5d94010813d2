import numpy as np
import pandas as pd
import pytest
from conftest import analysed_by, quiet, write_spec

from audit.pipeline.plan import plan_audit
from audit.pipeline.session import open_audit
from harness.spec.attributes import AttributeSpec
from probes.negatives.dose_response import responses
from probes.negatives.options import NegativesOptions
from probes.negatives.probe import diversity, dose_name
from probes.statistics.variance import explained_variance

GENDER = AttributeSpec(
    name="gender",
    classes=[{"name": c, "prompts": [f"a photo of a {c}"]} for c in ("man", "woman")],
)


def frame(share_by_dose: dict[int, float], prompts: int = 4, seeds: int = 60, seed: int = 0):
    """One arm; an image shows a woman where its own number lies below the dose's share."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(prompts):
        for s in range(seeds):
            u = rng.random()
            for k, share in share_by_dose.items():
                rows.append((f"p{p}", s, dose_name(k), "woman" if u < share else "man", float(k)))
    table = pd.DataFrame(rows, columns=["prompt", "seed", "negative", "outcome", "dose"])
    return table.assign(
        checkpoint="a",
        adapters="none",
        sampler="own",
        steps=4,
        guidance=3.0,
        width=64,
        height=64,
        kind="dose",
    )


def test_doses_by_name():
    assert [dose_name(k) for k in (0, 1, 12)] == [
        "no negatives",
        "first 1 negatives",
        "first 12 negatives",
    ]
    assert NegativesOptions(negatives=("a", "b", "c")).doses() == [0, 1, 2, 3]
    assert NegativesOptions(negatives=("a", "b", "c"), at=(2, 9)).doses() == [0, 2, 3]


def test_effects_are_paired_differences_from_no_negatives():
    findings, (figure,) = responses(
        frame({0: 0.5, 1: 0.7, 2: 0.9}), "dose", GENDER, "clip.gender", None
    )
    changes = {f.subject["dose"]: f for f in findings if f.metric.name == "difference of share"}
    assert set(changes) == {"1", "2"}
    assert changes["1"].low < 0.2 < changes["1"].high
    assert changes["2"].low < 0.4 < changes["2"].high
    assert all(f.n == 240 and f.n_clusters == 4 and f.p < 0.01 for f in changes.values())
    assert figure.table["x"].tolist() == [0, 1, 2]
    turn = next(f for f in findings if "turns" in f.metric.name)
    assert turn.status == "not-measured"


def test_shares_of_a_dose_are_corrected_for_measured_errors():
    # One woman in five is taken for a man: .4 counted is .5. With negatives nobody is.
    errors = pd.DataFrame(
        [
            ("man", "man", None, 400),
            ("woman", "man", "no negatives", 80),
            ("woman", "woman", "no negatives", 320),
            ("woman", "woman", "first 1 negatives", 400),
        ],
        columns=["true", "outcome", "negative", "count"],
    ).assign(attribute="gender", instrument="x")
    shown = frame({0: 0.4, 1: 0.8})
    findings, (figure,) = responses(shown, "dose", GENDER, "x", errors)
    counted, corrected = (
        {f.subject["dose"]: f for f in findings if f.metric.name == metric}
        for metric in ("mean share", "corrected share")
    )
    for dose, found in corrected.items():
        right = {"0": 0.8, "1": 1}[dose]
        assert found.value == pytest.approx(counted[dose].value / right, abs=1e-6)
        assert found.low < found.value <= found.high
        assert (found.n, found.n_clusters) == (240, 4)
    assert figure.table["value"].tolist() == [f.value for f in corrected.values()]
    assert "corrected" in figure.caption


def test_the_dose_where_it_turns_is_found():
    findings, _ = responses(
        frame({0: 0.5, 1: 0.8, 2: 0.9, 3: 0.4}), "dose", GENDER, "clip.gender", None
    )
    turn = next(f for f in findings if "turns" in f.metric.name)
    assert (turn.value, turn.status) == (3, "measured")


def test_negatives_without_effect_are_rarely_told_apart_and_rarely_turn():
    apart, turned = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        table = frame({0: 0.5, 1: 0.5, 2: 0.5}, seeds=20, seed=seed)
        table["outcome"] = rng.choice(["man", "woman"], len(table))
        findings, _ = responses(table, "dose", GENDER, "clip.gender", None)
        apart += [f.p < 0.05 for f in findings if f.metric.name == "difference of share"]
        turned += any(f.status == "measured" and "turns" in f.metric.name for f in findings)
    assert np.mean(apart) < 0.13
    assert turned <= 4  # of 40: a middle dose that is high by chance goes up and comes down


def test_one_class_alone_changes_by_exactly_nothing():
    findings, _ = responses(frame({0: 0.0, 1: 0.0}), "dose", GENDER, "clip.gender", None)
    change = next(f for f in findings if f.metric.name == "difference of share")
    assert change.value == 0
    assert change.low < 0 < change.high


def test_diversity_by_hand():
    part = pd.DataFrame(
        {
            "prompt": ["p"] * 3 + ["q"],
            "dose": [0.0] * 4,
            "embedding": [[1.0, 0], [2.0, 0], [0, 1.0], [1.0, 0]],
        }
    )
    np.testing.assert_allclose(diversity(part), [0.5, 0.5, 1, np.nan])


def crossed(effect, prompts=30, seeds=4, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        (f"p{p}", s, n, v, float(effect(p, s, n, v, rng)))
        for p in range(prompts)
        for s in range(seeds)
        for n in ("none", "some")
        for v in ("own", "pale")
    ]
    table = pd.DataFrame(rows, columns=["prompt", "seed", "negative", "vae", "y"])
    return table.assign(guidance=3.0)


FACTORS = ("prompt", "negative", "vae", "guidance", "seed")


def shares(table: pd.DataFrame):
    return {e.factor: e for e in explained_variance(table, FACTORS)}


def test_one_factor_alone_explains_everything():
    found = shares(crossed(lambda p, s, n, v, rng: n == "some"))
    assert found["negative"].share == pytest.approx(1)
    assert found["vae"].share == pytest.approx(0)
    assert "guidance" not in found  # it does not vary
    assert shares(crossed(lambda p, s, n, v, rng: p % 2))["prompt"].share == pytest.approx(1)
    assert shares(crossed(lambda p, s, n, v, rng: s % 2))["seed"].share == pytest.approx(1)


def test_two_equal_factors_and_what_they_do_only_together():
    found = shares(crossed(lambda p, s, n, v, rng: (n == "some") + (v == "pale")))
    assert found["negative"].share == pytest.approx(0.5)
    assert found["vae"].share == pytest.approx(0.5)
    together = shares(crossed(lambda p, s, n, v, rng: (n == "some") == (v == "pale")))
    assert together["together"].share == pytest.approx(1)
    assert sum(e.share for e in together.values()) == pytest.approx(1)


def test_noise_explains_what_chance_says():
    runs = [shares(crossed(lambda p, s, n, v, rng: rng.random() < 0.5, seed=i)) for i in range(12)]
    for factor in ("prompt", "seed", "negative", "together"):
        mean = np.mean([r[factor].share for r in runs])
        assert mean == pytest.approx(runs[0][factor].chance, abs=0.03)


def test_incomplete_crossings_are_left_out():
    table = crossed(lambda p, s, n, v, rng: n == "some")
    cut = table.drop(index=0)
    assert shares(cut)["negative"].n == len(table) - 4
    assert explained_variance(table.assign(y=1.0), FACTORS) == []


def test_the_plan_holds_every_dose_once(tmp_path):
    path = write_spec(
        tmp_path,
        probes={"attributes": {}, "negatives": {"negatives": ["a man", "a beard"]}},
        vaes={"own": "own", "pale": "reference:pale"},
    )
    audit = open_audit(path, tmp_path / "run")
    plan, _ = plan_audit(audit, quiet)
    doses = plan[plan["requested_by"] == "negatives"]
    grid = plan[plan["requested_by"] == ""]
    assert doses.groupby("negative")["cell"].nunique().to_dict() == {
        "no negatives": 6,
        "first 1 negatives": 6,
        "first 2 negatives": 6,
    }
    assert set(doses["negative_text"]) == {"", "a man", "a man, a beard"}
    none = doses[doses["negative"] == "no negatives"]
    assert set(none["cell"]) <= set(grid["cell"])  # the grid's own images are not made twice
    assert doses["trajectory"].nunique() == 18
    assert doses["noise"].nunique() == grid["noise"].nunique()


def test_without_guidance_there_is_nothing_to_ask_for(tmp_path):
    path = write_spec(
        tmp_path, probes={"attributes": {}, "negatives": {"negatives": ["a"]}}, guidance=1
    )
    plan, _ = plan_audit(open_audit(path, tmp_path / "run"), quiet)
    assert (plan["requested_by"] == "").all()


def test_without_a_classifier_it_is_not_measured(tmp_path):
    path = write_spec(tmp_path, probes=["negatives"], attributes=[], classifiers={})
    spec = open_audit(path, tmp_path / "run").spec
    nothing = pd.DataFrame()
    found, _ = analysed_by("negatives", {}, nothing, nothing, spec)
    assert [f.status for f in found] == ["not-measured"]
