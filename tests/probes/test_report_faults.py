"""Shares and comparisons of arms by hand: what mutants of their arithmetic would change."""

from math import nan

import numpy as np
import pandas as pd
import pytest

from harness.plan.cells import Cell, arm_labels
from harness.spec.attributes import load_attribute
from harness.spec.schema import Spec
from probes.attributes.arm_comparison import attrition, compare_arms
from probes.attributes.prompt_shares import by_prompt
from probes.attributes.shares import over_prompts
from probes.error_control import adjusted
from probes.statistics.pairing import compared
from reports.sentences import sentence
from reports.verdicts import verdict

pytestmark = pytest.mark.faults
GENDER = load_attribute(
    {
        "name": "gender",
        "classes": [
            {"name": "man", "prompts": ["a man"]},
            {"name": "woman", "prompts": ["a woman"]},
        ],
    },
    None,
)
SPEC = Spec.model_validate(
    {
        "checkpoints": {"a": "x", "b": "y"},
        "prompts": {"list": ["p"]},
        "seeds": 2,
        "attributes": [GENDER],
        "classifiers": {"clip": "z"},
    }
)
Z2 = 1.959964**2


def frame_of(women, kind="made", pair=None) -> pd.DataFrame:
    """Rows of arms: {arm: [(women, images) of each prompt]}; a list of outcomes also goes."""
    rows = []
    for arm, prompts in women.items():
        for i, (k, n) in enumerate(prompts):
            for s in range(n):
                cell = f"{arm}-{i}-{s}"
                rows.append(
                    Cell(cell, cell, "u", kind, arm, "own", "none", "", 2, 3.0, 64, 64,
                         i, f"p{i}", "", s, f"p{i}", "", s, "v")._asdict()
                    | {"adapters": "none", "pair": pair(i, s) if pair else "",
                       "outcome": "woman" if s < k else "man"}
                )  # fmt: skip
    made = pd.DataFrame(rows)
    return made.assign(arm=arm_labels(made))


def of(findings, metric, estimand="this suite"):
    return next(f for f in findings if f.metric.name == metric and f.estimand == estimand)


def wilson(k, n):
    centre = (k + Z2 / 2) / (n + Z2)
    half = np.sqrt(Z2) / (n + Z2) * np.sqrt(k * (n - k) / n + Z2 / 4)
    return centre - half, centre + half


def test_a_prompts_share_and_distance_have_both_bounds():
    part = frame_of({"a": [(6, 8)]})
    found = by_prompt(part, GENDER, "clip.gender", {}, None)
    share, distance = of(found, "share"), of(found, "total variation")
    assert (share.low, share.high) == pytest.approx(wilson(6, 8), abs=1e-5)
    assert 0 < share.low < share.high < 1
    assert distance.high == pytest.approx(wilson(6, 8)[1] - 0.5, abs=0.02)
    assert 0 < distance.high < 0.5
    sure = of(by_prompt(frame_of({"a": [(8, 8)]}), GENDER, "c", {}, None), "total variation")
    assert 0.1 < sure.low < sure.value == 0.5


def test_a_prompts_own_target_is_what_its_distance_and_p_are_from():
    part = frame_of({"a": [(2, 8), (4, 8)]})
    targets = {"p0": {"man": 0.75, "woman": 0.25}}
    found = by_prompt(part, GENDER, "clip.gender", targets, None)
    own, even = (f for f in found if f.metric.name == "total variation")
    assert (own.value, own.p) == (0, pytest.approx(1))
    assert own.reference.targets == {"man": 0.75, "woman": 0.25}
    assert (even.value, even.reference.targets) == (0, {"man": 0.5, "woman": 0.5})
    mean = of(over_prompts(part, GENDER, "clip.gender", targets), "mean share")
    assert mean.reference.value == mean.reference.null == pytest.approx((0.25 + 0.5) / 2)
    assert of(found, "share").reference.null == 0.25
    without = by_prompt(part, GENDER, "clip.gender", {}, None)
    assert of(without, "total variation").value == 0.25


def test_prompts_weigh_the_same_in_the_mean_share():
    part = frame_of({"a": [(8, 8), (0, 24)]})
    mean = of(over_prompts(part, GENDER, "clip.gender", {}), "mean share")
    assert mean.value == pytest.approx(0.5)  # pooled it would be 8 / 32
    assert 0 < mean.low < 0.5 < mean.high < 1


def test_the_mean_distance_has_its_null_and_both_bounds():
    part = frame_of({"a": [(4, 8), (5, 8)] * 12})
    found = of(over_prompts(part, GENDER, "c", {}), "mean total variation", "prompts like these")
    assert found.value == pytest.approx(0.0625)
    assert found.reference.null == pytest.approx(0.13671875)  # E|k/8 - 1/2| of 8 fair coins
    assert found.low == 0
    assert found.value < found.high < 0.2
    biased = frame_of({"a": [(8, 8), (7, 8)] * 12})
    off = of(over_prompts(biased, GENDER, "c", {}), "mean total variation", "prompts like these")
    assert 0.3 < off.low < off.value < off.high


def test_shares_of_classes_are_described_and_distances_are_tested():
    part = frame_of({"a": [(8, 8)] * 24})
    found = by_prompt(part, GENDER, "clip.gender", {}, None)
    found = adjusted(found + over_prompts(part, GENDER, "clip.gender", {}))
    assert {verdict(f) for f in found if f.metric.name == "share"} == {"described"}
    assert {verdict(f) for f in found if f.metric.name == "total variation"} == {"apart"}
    assert {f.family for f in found if f.family} == {"a/gender/clip.gender"}
    assert verdict(of(found, "mean share")) == "apart"
    assert verdict(of(found, "mean share", "prompts like these")) == "described"
    assert sentence(of(found, "share")).endswith("the target is 50 %.")
    assert "as classified by clip.gender" in sentence(of(found, "mean share"))


def test_a_prompt_without_images_is_named_and_missing_images_are_told():
    part = frame_of({"a": [(4, 8)] * 3, "b": [(6, 8)] * 3})
    gone = (part["prompt"] == "p1") & (part["arm"] == "b")
    part["outcome"] = part["outcome"].where(~gone, nan)
    own = part[part["arm"] == "b"]
    mean = of(over_prompts(own, GENDER, "clip.gender", {}), "mean share")
    assert mean.n_clusters == 2
    assert "1 of 3 prompts has no counted image and is left out: “p1”" in mean.note
    assert "(16 images of 24 planned; 33 % were not counted)" in sentence(mean)
    change = of(compare_arms(part, GENDER, "clip.gender", SPEC), "share difference")
    assert change.n_clusters == 2
    assert change.value == pytest.approx(0.25)
    assert "1 of 3 prompts has no counted image in both arms and is left out: “p1”" in change.note
    assert "left out: 8 of b" not in change.note
    lost = attrition(own, GENDER, "clip.gender")[0]
    assert lost.value == pytest.approx(1 / 3)


def test_half_the_files_unreadable_is_said_in_every_headline():
    part = frame_of({"a": [(6, 12)] * 4})
    part["outcome"] = part["outcome"].where(part["seed"] % 2 == 0, nan)
    for finding in over_prompts(part, GENDER, "clip.gender", {}):
        assert "24 images of 48 planned; 50 % were not counted" in sentence(finding)


def test_generated_images_are_paired_by_prompt_and_seed():
    both = frame_of({"a": [(4, 8)] * 2, "b": [(6, 8)] * 2})
    found = of(compare_arms(both, GENDER, "clip.gender", SPEC), "share difference")
    assert (found.value, found.n, found.n_clusters) == (0.25, 16, 2)
    assert "paired differences" in found.estimator
    assert found.family == "b against a/gender/clip.gender"
    assert found.reference.value == 0
    assert -1 < found.low < 0.25 < found.high < 1


def test_imported_arms_of_144_and_36_images_are_all_compared():
    # 25 of 144 are women (.1736) and 2 of 36 (.0556).
    big = [(1, 4)] * 25 + [(0, 4)] * 11
    small = [(1, 1)] * 2 + [(0, 1)] * 34
    both = frame_of({"a": big, "b": small}, kind="given")
    found = of(compare_arms(both, GENDER, "clip.gender", SPEC), "share difference")
    assert found.value == pytest.approx(2 / 36 - 25 / 144)
    assert "not paired" in found.estimator
    assert "nothing pairs the images" in found.note
    held = compared(both.assign(hit=(both["outcome"] == "woman") * 1.0), "hit", "b", "a")
    assert (len(held.a), len(held.b), held.paired) == (36, 144, False)
    # The control: read as paired by file order, 108 images would be gone.
    wrong = frame_of({"a": big, "b": small})
    assert of(compare_arms(wrong, GENDER, "c", SPEC), "share difference").n == 36


def test_a_column_pairs_imported_images_and_what_has_no_partner_is_counted():
    rows = frame_of({"a": [(2, 4)], "b": [(3, 4)]}, "given", lambda i, s: f"pair {s}")
    held = compared(rows.assign(hit=(rows["outcome"] == "woman") * 1.0), "hit", "b", "a")
    assert held.paired
    assert held.notes == []
    fewer = rows[~((rows["arm"] == "a") & (rows["seed"] == 0))]
    held = compared(fewer.assign(hit=1.0), "hit", "b", "a")
    assert len(held.a) == 3
    assert held.notes == ["images without their pair in the other arm, left out: 1 of b, 0 of a"]
    some = rows.assign(pair=rows["pair"].where(rows["seed"] > 0, ""))
    assert not compared(some.assign(hit=1.0), "hit", "b", "a").paired


def test_one_image_through_two_vaes_is_paired_with_itself():
    rows = frame_of({"a": [(2, 4)], "b": [(3, 4)]}, "given")
    rows = rows.assign(checkpoint="given", trajectory=rows["seed"].astype(str), vae=rows["arm"])
    assert compared(rows.assign(hit=1.0), "hit", "b", "a").paired
