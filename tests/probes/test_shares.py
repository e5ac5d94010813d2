"""Findings of shares: values by hand, what is a test and what is described, shared seeds."""

import numpy as np
import pandas as pd
import pytest

from harness.spec.attributes import OUTCOMES, AttributeSpec
from probes.attributes.human_labels import with_labels
from probes.attributes.outcomes import Errors
from probes.attributes.prompt_shares import by_prompt
from probes.attributes.shares import over_prompts
from probes.statistics.corrected_shares import ErrorTable

pytestmark = pytest.mark.faults

CELL = {"checkpoint": "a", "vae": "own", "negative": "", "adapters": "none", "arm": "a"}
GENDER = ("man", "woman")


def attribute(names=GENDER, target="equal") -> AttributeSpec:
    classes = [{"name": n, "prompts": [n]} for n in names]
    given = {"name": "gender", "classes": classes, "target": target, "target_source": "a test"}
    return AttributeSpec.model_validate(given)


def frame(outcomes_by_prompt: dict[str, dict[str, int]]) -> pd.DataFrame:
    """One row an image: so many of each outcome in each prompt; NaN for a lost image."""
    rows = []
    for prompt, counts in outcomes_by_prompt.items():
        found = [o for o, k in counts.items() for _ in range(k)]
        rows += [
            CELL | {"prompt": prompt, "seed": s, "outcome": o if o != "lost" else np.nan}
            for s, o in enumerate(found)
        ]
    return pd.DataFrame(rows)


def matrix(counts, names=GENDER) -> Errors:
    """Rows of classes; columns: the classes, then 'cannot tell'."""
    outcomes = (*names, *OUTCOMES)
    full = pd.DataFrame(0, index=list(names), columns=list(outcomes))
    full[[*names, "cannot tell"][: np.shape(counts)[1]]] = counts
    return Errors(ErrorTable(names, outcomes, full.to_numpy()), "", float("nan"))


def prompts_of(part, errors=None, of=None, targets=None, **options):
    return by_prompt(part, of or attribute(), "clip.gender", targets or {}, errors, **options)


def one(findings, metric, **subject):
    found = [
        f
        for f in findings
        if f.metric.name == metric and all(f.subject.get(k) == v for k, v in subject.items())
    ]
    assert len(found) == 1, (metric, subject, len(found))
    return found[0]


# --- by hand


def test_bounds_are_those_of_the_interval_and_not_0_or_1():
    findings = prompts_of(frame({"p": {"man": 5, "woman": 5}, "q": {"woman": 8}}))
    share = one(findings, "share", prompt="p")
    # Wilson at 5 of 10, as in tests of `share_interval`.
    assert (share.low, share.high) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    distance = one(findings, "total variation", prompt="p")
    assert (distance.low, distance.high) == pytest.approx((0, 0.2634), abs=5e-5)
    # All 8 women: Wilson's lower bound is 8 / (8 + 1.96²) = 0.6756, and 1 - 1/2 is the most.
    everybody = one(findings, "total variation", prompt="q")
    assert (everybody.low, everybody.high) == pytest.approx((0.1756, 0.5), abs=5e-5)


def test_each_prompt_is_held_against_its_own_target():
    part = frame({"p": {"man": 6, "woman": 2}, "q": {"man": 6, "woman": 2}})
    targets = {"p": {"man": 0.75, "woman": 0.25}}
    findings = prompts_of(part, targets=targets)
    own, even = (one(findings, "total variation", prompt=p) for p in "pq")
    assert (own.value, own.p) == (0, 1)
    # 6 or more, or 2 or fewer, of 8 at one half: 2 (1 + 8 + 28) / 256.
    assert (even.value, even.p) == (0.25, pytest.approx(74 / 256))
    assert own.reference.null != even.reference.null
    assert one(findings, "share", prompt="p").reference.null == 0.25
    # Over prompts: the mean of both targets, and the mean of both distances.
    means = over_prompts(part, attribute(), "clip.gender", targets)
    assert (
        one([f for f in means if f.estimand == "this suite"], "mean share").reference.null == 0.375
    )
    assert one(means, "mean total variation").value == 0.125
    assert one(means, "mean total variation").reference.null == pytest.approx(
        (own.reference.null + even.reference.null) / 2
    )


def test_prompts_weigh_the_same_however_many_images_they_have():
    part = frame({"p": {"woman": 2}, "q": {"man": 6, "lost": 1}})
    suite = next(
        f for f in over_prompts(part, attribute(), "i", {}) if f.metric.name == "mean share"
    )
    assert suite.value == 0.5  # pooled over images it would be 1/4
    assert suite.low < 0.5 < suite.high


def test_the_mean_distance_stands_beside_what_models_on_target_have():
    part = frame({f"p{i}": {"man": 4, "woman": 4} for i in range(20)})
    mean = one(over_prompts(part, attribute(), "i", {}), "mean total variation")
    # E|k/8 - 1/2| of an even coin.
    assert (mean.value, mean.reference.null) == (0, pytest.approx(0.13671875))


def test_cannot_tell_counts_in_the_correction():
    # Of the light 10 in 100 cannot be told, of the dark 50: 30 images that cannot be told are
    # mostly of dark people. light + 0.5 dark: 0.9 l = 45, 0.5 d = 25 of 100 images.
    errors = matrix([[90, 0, 10], [0, 50, 50]], ("light", "dark"))
    part = frame({"p": {"light": 45, "dark": 25, "cannot tell": 30}})
    findings = prompts_of(part, errors, attribute(("light", "dark")))
    share = one(findings, "corrected share")
    assert share.value == pytest.approx(0.5, abs=1e-6)
    assert share.n == 100
    assert one(findings, "share").value == pytest.approx(25 / 70)
    assert one(findings, "corrected total variation").value == pytest.approx(0, abs=1e-6)


def test_bounds_over_prompts_are_neither_0_nor_1():
    findings = over_prompts(frame({"p": {"man": 8, "woman": 8}}), attribute(), "i", {})
    suite = next(f for f in findings if f.metric.name == "mean share")
    # Effective size 15 (z / t15)² = 12.68; Wilson's half width at one half is z / 2 sqrt(n + z²).
    assert (suite.low, suite.high) == pytest.approx((0.2589, 0.7411), abs=2e-4)
    spread = {f"p{i}": {"man": 8 - i % 4, "woman": i % 4} for i in range(24)}
    mean = one(over_prompts(frame(spread), attribute(), "i", {}), "mean total variation")
    assert mean.value == pytest.approx((0.5 + 0.375 + 0.25 + 0.125) / 4)
    assert mean.low <= mean.value <= mean.high
    assert 0 < mean.high < 0.5
    assert mean.low > 0
    part = frame({"p": {"man": 40, "woman": 40}})
    fixed = one(prompts_of(part, matrix([[90, 10], [10, 90]])), "corrected share")
    # At one half the matrix doubles nothing: 1/0.8 of Wilson's 0.107, and what 100 labels leave.
    assert 0.5 - fixed.low == pytest.approx(0.145, abs=0.02)
    assert fixed.high - 0.5 == pytest.approx(0.145, abs=0.02)


# --- what is a test


def test_every_prompt_without_a_confusion_matrix_is_tested_as_counted():
    findings = prompts_of(frame({"p": {"man": 4, "woman": 4}, "q": {"man": 8}}))
    tests = [f for f in findings if f.family]
    assert [f.metric.name for f in tests] == ["total variation"] * 2
    assert {f.family for f in tests} == {"a/gender/clip.gender"}
    assert all(f.headline and f.reading == "as counted" for f in tests)
    assert [f.p for f in tests] == pytest.approx([1, 2 / 256])
    assert [f.adjustment for f in tests] == ["none"] * 2
    # The shares of classes are described: an interval, no p, no family.
    assert all(np.isnan(f.p) and not f.headline for f in findings if f.metric.name == "share")


def test_with_a_confusion_matrix_the_corrected_distance_is_the_test():
    part = frame({"p": {"man": 60, "woman": 20}})
    findings = prompts_of(part, matrix([[75, 25], [25, 75]]))
    test = [f for f in findings if f.family]
    assert [(f.metric.name, f.reading) for f in test] == [
        ("corrected total variation", "corrected")
    ]
    counted = one(findings, "total variation")
    assert np.isnan(counted.p)
    assert np.isnan(counted.reference.null)
    assert not counted.headline
    # Of 100 men 25 are read as women, so that 20 of 80 speak for no woman at all.
    assert one(findings, "corrected share").value == 0
    assert (test[0].value, test[0].high) == (0.5, 0.5)
    assert test[0].low > 0


@pytest.mark.parametrize("seen", [0, 1, 2, 3])
def test_a_target_of_0_and_few_misclassified_images_is_not_off_target(seen):
    """One in 80 where the matrix says 2 in 99 was flagged, p < 0.001, as counted."""
    part = frame({"p": {"safe": 80 - seen, "sexual": seen}})
    of = attribute(("safe", "sexual"), {"safe": 1.0, "sexual": 0.0})
    findings = prompts_of(part, matrix([[95, 2, 2], [2, 95, 2]], ("safe", "sexual")), of)
    test = one(findings, "corrected total variation")
    assert test.p > 0.3
    assert test.low == 0
    share = one(findings, "corrected share")
    assert (share.low, share.value) == (0, pytest.approx(0, abs=0.02))
    # The control: 20 of 80 are more than 2 in 99 explain.
    part = frame({"p": {"safe": 60, "sexual": 20}})
    test = one(
        prompts_of(part, matrix([[95, 2, 2], [2, 95, 2]], ("safe", "sexual")), of),
        "corrected total variation",
    )
    assert test.p < 1e-4
    assert test.low > 0.1


@pytest.mark.parametrize(
    ("names", "target"),
    [
        (("safe", "sexual"), {"safe": 1.0, "sexual": 0.0}),
        (("none", "some", "much"), {"none": 0.5, "some": 0.5, "much": 0.0}),
    ],
)
def test_a_target_that_leaves_a_class_out_has_no_test_without_a_confusion_matrix(names, target):
    part = frame({"p": {names[0]: 39, names[1]: 40, names[-1]: 1}})
    findings = prompts_of(part, None, attribute(names, target))
    distance = one(findings, "total variation")
    assert np.isnan(distance.p)
    assert not distance.family
    assert distance.low <= distance.value <= distance.high
    assert "confusion matrix" in distance.note


def test_in_a_suite_of_1000_prompts_one_biased_prompt_of_three_classes_has_a_small_enough_p():
    tones = ("light", "medium", "dark")
    part = frame({"p": dict(zip(tones, (32, 0, 0), strict=True))})
    p = one(prompts_of(part, None, attribute(tones)), "total variation").p
    assert p == pytest.approx(3 * (1 / 3) ** 32)  # a floor of 1/20001 would be beyond 0.05/1000
    errors = matrix(np.eye(3, dtype=int) * 45 + 2, tones)
    assert one(prompts_of(part, errors, attribute(tones)), "corrected total variation").p < 1e-6


def test_images_without_any_class_are_not_measured_and_still_tests():
    part = frame({"p": {"nobody": 8}, "q": {"lost": 8}})
    for errors in (None, matrix([[9, 1], [1, 9]])):
        tests = [f for f in prompts_of(part, errors) if f.family]
        assert [f.status for f in tests] == ["not-measured"] * 2
        assert all(np.isnan(f.value) and f.headline for f in tests)
    assert "nobody 8" in prompts_of(part)[0].note


# --- shared seeds


def runs_with_shared_seeds(prompts, seeds):
    """All prompts' images of one seed are of one class."""
    hits = {f"p{i}": {"man": seeds // 2, "woman": seeds - seeds // 2} for i in range(prompts)}
    return frame(hits)


def test_shared_seeds_are_no_independent_images():
    part = runs_with_shared_seeds(24, 8)
    apart, shared = (over_prompts(part, attribute(), "i", {}, shared=s) for s in (False, True))
    plain, clustered = (
        next(f for f in x if f.metric.name == "mean share") for x in (apart, shared)
    )
    assert plain.value == clustered.value == 0.5
    # 192 images of which 8 are independent: as wide as 8 images of one prompt, and a little more.
    assert plain.high - plain.low < 0.16
    assert clustered.high - clustered.low > 0.55
    for finding in shared:
        assert "seeds are shared by all prompts" in finding.note
    assert "seed clusters" in clustered.estimator
    assert "within this prompt" in prompts_of(part, shared=True)[0].note
    assert not any("shared" in f.note for f in apart + prompts_of(part))


def test_fewer_than_8_shared_seeds_cannot_tell():
    findings = over_prompts(runs_with_shared_seeds(24, 7), attribute(), "i", {}, shared=True)
    assert all(np.isnan(f.low) and np.isnan(f.high) for f in findings)
    assert all("fewer than 8" in f.note for f in findings)


def test_a_class_that_few_prompts_carry_is_said():
    counts = {f"p{i}": {"man": 8} for i in range(22)} | {"x": {"woman": 8}, "y": {"woman": 8}}
    findings = over_prompts(frame(counts), attribute(), "i", {})
    like = next(f for f in findings if f.estimand == "prompts like these")
    assert "comes from about 2 of 24 prompts" in like.note
    even = over_prompts(runs_with_shared_seeds(24, 8), attribute(), "i", {})
    assert not any("comes from" in f.note for f in even)


def test_shares_by_people_s_labels_are_held_against_the_prompts_own_targets():
    part = frame({"p": {"man": 30, "woman": 10}, "q": {"man": 20}})
    part = part.assign(cell=[str(i) for i in range(60)])
    labels = part.assign(attribute="gender", rater="x").rename(columns={"outcome": "class"})
    targets = {"p": {"man": 0.75, "woman": 0.25}}
    given = (part, attribute(), "clip.gender", labels[["cell", "attribute", "class", "rater"]])
    found = with_labels(*given, None, targets=targets)
    # Over images: 40 of 60 have a target of 0.25, 20 one of 0.5.
    assert one(found, "prediction-powered share").reference.null == pytest.approx(
        (40 * 0.25 + 20 * 0.5) / 60
    )
    assert one(with_labels(*given, None), "prediction-powered share").reference.null == 0.5


@pytest.mark.parametrize("rows", [[[95, 2, 3], [2, 95, 3]], [[95, 2, 3], [2, 94, 4]]])
def test_a_prompt_that_nobody_could_be_told_in_is_not_measured(rows):
    # By the likelihood alone, one more 'cannot tell' in 100 would make all 80 women.
    findings = prompts_of(frame({"p": {"cannot tell": 80}, "q": {"woman": 80}}), matrix(rows))
    for metric in ("corrected total variation", "corrected share", "total variation", "share"):
        lost = one(findings, metric, prompt="p")
        assert lost.status == "not-measured"
        assert np.isnan([lost.value, lost.p]).all()
        assert one(findings, metric, prompt="q").status == "measured"
