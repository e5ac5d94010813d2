import numpy as np
import pandas as pd
import pytest

from probes.contracts import MetricSpec
from probes.vae.effects import Measure, mean_effect
from probes.vae.group_disparity import against, describe, disparities, of_groups

ERROR = Measure(MetricSpec("error", "shift", "", "lower", "error", resolution=0.01))


def rows(errors, vae="a", cluster=None) -> pd.DataFrame:
    names = [f"t{i}" for i in range(len(errors))]
    return pd.DataFrame(
        {
            "trajectory": names,
            "arm": vae,
            "checkpoint": "c",
            "vae": vae,
            "cluster": cluster or names,
            "error": errors,
        }
    )


def labels(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"t{i}" for i in range(n)])


def test_the_mean_and_its_t_interval():
    errors = np.linspace(0.1, 0.3, 21)
    (finding,) = describe(rows(errors), [ERROR], "vae", "pixels")
    assert finding.value == pytest.approx(0.2)
    half = 2.0860 * errors.std(ddof=1) / np.sqrt(21)
    assert finding.low == pytest.approx(0.2 - half, rel=1e-4)
    assert finding.estimand == "images like these"
    assert finding.n == finding.n_clusters == 21


def test_prompts_with_seeds_are_a_suite():
    errors = [0.1, 0.3, 0.5, 0.7]
    (finding,) = describe(rows(errors, cluster=["p", "p", "q", "q"]), [ERROR], "vae", "pixels")
    assert finding.estimand == "this suite"
    assert finding.value == pytest.approx(0.4)
    assert finding.n_clusters == 2


def test_a_shift_within_the_resolution_is_no_claim():
    small = mean_effect(rows(0.005 + 0.0001 * np.arange(30)), ERROR)
    large = mean_effect(rows(0.05 + 0.0001 * np.arange(30)), ERROR)
    assert small.low > 0
    assert small.p == 1
    assert large.p < 1e-6


def test_images_that_are_all_the_same_have_no_interval():
    effect = mean_effect(rows([0.0] * 25), ERROR)
    assert effect.value == 0
    assert np.isnan(effect.low)
    assert "every one of 25" in effect.note


def test_groups_are_matched_by_their_other_labels():
    # tone t adds 10 * t to the error, a beard adds 1: matched by tone, only the beard is left.
    tones = np.repeat(np.arange(12), 2)
    beard = ["yes", "no"] * 12
    errors = 10.0 * tones + np.array([b == "yes" for b in beard]) + 1e-4 * np.arange(24) ** 2
    groups = labels(beard=beard, tone=[f"tone {t:02d}" for t in tones])
    found = disparities(rows(errors), groups, [ERROR], "vae", "pixels")
    beards = next(f for f in found if f.subject["group"] == "beard")
    assert beards.subject["class"] == "yes"
    assert beards.value == pytest.approx(1 - 1e-4 * 23)
    assert beards.low > 0.99
    assert "matched by tone: 12 matches" in beards.estimator


def test_without_enough_matches_all_are_compared_with_all():
    errors = [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]
    found = disparities(rows(errors), labels(g=list("aaabbb")), [ERROR], "vae", "pixels")
    assert found[0].value == 4
    assert "not matched" in found[0].estimator
    # Welch: 4 ± 2.776 * sqrt(1/3 + 1/3)
    assert found[0].low == pytest.approx(4 - 2.7764 * np.sqrt(2 / 3), abs=1e-3)


def test_a_group_that_hardly_varies_is_compared_all_the_same():
    few = rows([0.1, 0.1 + 1e-15, 0.1, 0.3, 0.5, 0.7])
    group = labels(beard=["yes"] * 3 + ["no"] * 3)
    (found,) = disparities(few, group, [ERROR], "vae", "pixels")
    assert found.value == pytest.approx(0.1 - 0.5)
    assert found.low < found.value < found.high


def test_a_group_of_one_is_not_measured_and_says_why():
    found = disparities(rows([1.0, 2.0, 3.0]), labels(g=["a", "a", "b"]), [ERROR], "v", "p")
    assert found[0].status == "not-measured"
    assert found[0].note.startswith("images of 'b': 1, others: 2")
    own = of_groups(rows([1.0, 2.0, 3.0]), labels(g=["a", "a", "b"]), [ERROR], "v", "p")
    assert [f.value for f in own] == [1.5, 3.0]


def test_one_vae_against_its_copy_is_exactly_zero_and_against_another_is_not():
    errors = np.random.default_rng(0).random(30)
    frame = pd.concat([rows(errors, "a"), rows(errors, "copy"), rows(errors + 0.5, "b")])
    apart = against(frame, [ERROR], "a")
    found = {f.subject["vae"]: f for f in describe(apart, [ERROR], "vae", "pixels")}
    assert found["copy"].value == 0
    assert found["b"].value == pytest.approx(0.5)
    assert found["b"].metric.name == "error difference"
    assert found["b"].subject["baseline"] == "a"


def test_shuffled_groups_are_rarely_flagged():
    rng = np.random.default_rng(1)
    errors = rng.random(200)
    flagged = 0
    for _ in range(40):
        groups = labels(g=list(rng.permutation(["a", "b"] * 100)))
        flagged += disparities(rows(errors), groups, [ERROR], "vae", "pixels")[0].p <= 0.05
    assert flagged <= 5


def test_a_level_has_no_zero_to_be_held_against_even_with_one_image_a_prompt():
    level = Measure(ERROR.metric._replace(kind="level"))
    sparse = rows([0.1, 0.2, 0.3], cluster=["p", "p", "q"])
    assert np.isnan(mean_effect(sparse, level).p)
    assert np.isfinite(mean_effect(sparse, ERROR).p)
    assert np.isfinite(mean_effect(sparse.assign(against="b"), level).p)
