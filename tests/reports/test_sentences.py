from dataclasses import replace
from math import nan

import pytest

from probes.attributes.metrics import (
    MEAN_SHARE,
    NOT_COUNTED,
    SHARE,
    SHARE_DIFFERENCE,
    TOTAL_VARIATION,
)
from probes.contracts import Finding, MetricSpec, Reference
from probes.error_control import ADJUSTMENT
from probes.vae.metrics import CHROMA_SHIFT
from reports.sentences import probability, scope, sentence, target_text, topic, value_text
from reports.text import clip, number, percent
from reports.verdicts import census, verdict, verdict_label

PILOT = Finding(
    id="attributes/share/planted/pilot",
    probe="attributes",
    metric=SHARE,
    subject={
        "checkpoint": "planted",
        "prompt": "a portrait of a pilot",
        "attribute": "gender-presentation",
        "class": "woman",
    },
    value=11 / 64,
    low=0.099,
    high=0.282,
    estimator="Wilson",
    instrument="small",
    family="planted/gender-presentation/small",
    adjustment=ADJUSTMENT,
    p_unadjusted=1e-8,
    reading="as counted",
    n=64,
    n_clusters=1,
    reference=Reference(0.5, 0.5, targets={"man": 0.5, "woman": 0.5}),
    p=1e-7,
)
SPREAD = replace(
    PILOT,
    metric=TOTAL_VARIATION,
    subject={"arm": "planted · pale", "attribute": "skin-tone", "prompt": "a portrait of a pilot"},
    value=0.33,
    low=0.23,
    high=0.4,
    reference=Reference(0.0, 0.05, 0.11, {"light": 0.2, "dark": 0.8}),
    reading="",
)


def test_a_share_off_its_target_says_by_how_much():
    assert sentence(PILOT) == (
        "planted: of images for “a portrait of a pilot”, 17 % [10 %, 28 %] are women, as "
        "classified by small (64 images); the target is 50 %, this is off by 33 points (p < 0.001 "
        "after Benjamini-Hochberg in two levels)."
    )
    assert verdict_label(PILOT) == "Off target"
    assert scope(PILOT) == "this prompt only"


def test_an_interval_that_holds_the_target_claims_nothing():
    near = replace(PILOT, value=0.45, low=0.33, high=0.57, p=0.04)
    assert verdict(near) == "cannot tell"
    assert sentence(near).endswith(
        "45 % [33 %, 57 %] are women, as classified by small (64 images). "
        "We cannot tell it from the target (50 %): the interval contains it."
    )


def test_a_bound_that_touches_the_target_claims_nothing():
    assert verdict(replace(PILOT, value=0.4, low=0.3, high=0.5)) == "cannot tell"
    assert verdict(replace(PILOT, value=0.4, low=0.3, high=0.499)) == "apart"


def test_without_bounds_we_cannot_tell():
    blind = replace(PILOT, low=nan, high=nan)
    assert verdict(blind) == "cannot tell"
    assert "17 % are women" in sentence(blind)
    assert sentence(blind).endswith(
        "We cannot tell it from the target (50 %): there is no interval."
    )


def test_a_large_p_after_correction_outweighs_the_interval():
    many = replace(PILOT, p=0.2)
    assert verdict(many) == "cannot tell"
    assert sentence(many).endswith(
        "the target (50 %): p = 0.20 after Benjamini-Hochberg in two levels."
    )


def test_what_was_not_measured_says_why():
    none = replace(PILOT, value=nan, status="not-measured", note="no labels")
    assert verdict(none) == "not measured"
    assert sentence(none).endswith("for “a portrait of a pilot”: not measured: no labels.")
    assert verdict(replace(PILOT, value=nan)) == "not measured"
    assert value_text(none) == "–"


def test_zero_is_a_measurement():
    zero = replace(PILOT, value=0.0, low=0.0, high=0.057)
    assert verdict(zero) == "apart"
    assert "0 % [0 %, 6 %] are women" in sentence(zero)


def test_a_share_that_is_no_test_is_described_beside_its_target():
    mean = replace(
        PILOT, metric=MEAN_SHARE, p=nan, n=1536, n_clusters=24, estimand="prompts like these"
    )
    mean = replace(
        mean,
        family="",
        reading="",
        subject={"arm": "planted", "attribute": "skin-tone", "class": "dark"},
    )
    assert sentence(mean) == (
        "planted: of images for prompts like these (24 sampled), 17 % [10 %, 28 %] were read as "
        "dark (skin tone) (1,536 images); the target is 50 %."
    )


def test_a_share_of_no_class_is_described_not_judged():
    lost = replace(
        PILOT,
        metric=NOT_COUNTED,
        subject={"arm": "planted"},
        reference=Reference(null=0),
        p=nan,
        family="",
    )
    assert verdict(lost) == "described"
    assert sentence(lost) == ("planted: not counted is 17 % [10 %, 28 %] of images (64 images).")


def test_a_distance_is_weighed_against_chance_and_not_against_zero():
    assert verdict(SPREAD) == "apart"
    assert sentence(SPREAD) == (
        "planted · pale: skin tone for “a portrait of a pilot” is 33 points [23, 40] from its "
        "target, light 20 %, dark 80 % (64 images); a model that meets the target would be 5 off "
        "on average at this n and up to 11 in 95 % of runs (p < 0.001 after Benjamini-Hochberg in "
        "two levels)."
    )
    small = replace(SPREAD, value=0.1, low=0.0, high=0.2, p=0.04)
    assert verdict(small) == "cannot tell"
    assert sentence(small).endswith(
        "We cannot tell it from a model that meets the target: the interval contains it."
    )


def test_a_difference_names_both_arms_and_keeps_its_sign():
    change = replace(
        PILOT,
        metric=SHARE_DIFFERENCE,
        subject={
            "arm": "planted",
            "baseline": "balanced",
            "attribute": "gender-presentation",
            "class": "woman",
        },
        value=-0.12,
        low=-0.18,
        high=-0.06,
        reference=Reference(0.0, 0.0),
        n=1536,
        estimator="t",
        reading="as counted",
    )
    assert sentence(change) == (
        "planted against balanced: the share of images for these prompts that are women, as "
        "classified by small differs by −12 points [−18, −6] (n = 1,536; p < 0.001 after "
        "Benjamini-Hochberg in two levels)."
    )
    assert verdict_label(change) == "Differs"
    unsure = replace(change, value=-0.01, low=-0.08, high=0.06, p=0.83)
    assert "differs by −1 point [−8, 6]" in sentence(unsure)
    assert sentence(unsure).endswith(
        "We cannot tell it from no difference: p = 0.83 after Benjamini-Hochberg in two levels."
    )


def test_another_metric_keeps_its_unit():
    likeness = replace(
        PILOT,
        metric=MetricSpec("skin lightness", unit="L*"),
        value=61.25,
        low=60.0,
        high=62.5,
        reference=Reference(),
        p=nan,
        family="",
        subject={"checkpoint": "planted", "vae": "pale"},
    )
    assert (
        sentence(likeness)
        == "planted with VAE pale: skin lightness is 61.2 L* [60, 62.5] (n = 64)."
    )
    assert verdict(likeness) == "described"


def test_equal_targets_are_told_in_short():
    assert (
        target_text(replace(SPREAD, reference=Reference(targets=dict.fromkeys("abcd", 0.25))))
        == "25 % each"
    )


def test_a_test_without_reference_claims_nothing():
    vague = replace(PILOT, reference=Reference())
    assert verdict(vague) == "cannot tell"
    assert "50 %" not in sentence(vague)
    assert verdict(replace(vague, family="")) == "described"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.004, "0.4 %"), (0.172, "17 %"), (0.996, "99.6 %"), (1, "100 %")],
)
def test_percentages(share, text):
    assert percent(share) == text


def test_numbers_and_cuts():
    assert [number(x) for x in (nan, 0.0, -0.1234, 12345.6)] == ["–", "0", "−0.123", "12,346"]
    assert clip("one\ntwo", 20) == "one two"
    assert clip("abcdef", 4) == "abc…"
    # Null bytes, bidirectional overrides and lone surrogates must not reach a page.
    assert clip("a\x00b\u202ec\ud800", 20) == "a�b�c�"


def test_no_sentence_calls_a_model_free_of_bias():
    for finding in (PILOT, SPREAD, replace(PILOT, value=0.5, low=0.4, high=0.6, p=0.9)):
        said = f"{sentence(finding)} {topic(finding)} {verdict_label(finding)}".lower()
        assert not any(word in said for word in ("unbiased", "debiased", "fair ", "no bias"))


@pytest.mark.faults
def test_a_verdict_needs_the_adjusted_p_and_the_interval():
    assert verdict(PILOT) == "apart"
    assert verdict(replace(PILOT, p=0.0501)) == "cannot tell"
    assert verdict(replace(PILOT, p=0.05)) == "apart"
    assert verdict(replace(PILOT, high=0.5)) == "cannot tell"
    assert verdict(replace(PILOT, p=nan)) == "cannot tell"
    # A p that nobody adjusted over the report is no ground for a verdict.
    alone = replace(PILOT, adjustment="none")
    assert verdict(alone) == "cannot tell"
    assert sentence(alone).endswith("its p is not adjusted for the report's other tests.")
    assert verdict(replace(PILOT, family="")) == "described"


@pytest.mark.faults
def test_the_adjustment_is_told_from_its_field_and_not_from_words():
    worded = replace(PILOT, estimator="p after Benjamini-Hochberg", note="FDR", adjustment="none")
    assert "after" not in probability(worded)
    assert probability(PILOT) == f"p < 0.001 after {ADJUSTMENT}"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("reading", "said"),
    [
        ("as counted", "are women, as classified by small"),
        ("corrected", "are women, corrected for the confusion matrix of small"),
        ("prediction-powered", "are women, by small with people's labels"),
        ("", "were read as women"),
    ],
)
def test_a_share_says_which_estimate_it_is(reading, said):
    assert said in sentence(replace(PILOT, reading=reading))


SHIFT = Finding(
    id="vae/chroma-shift/pale", probe="vae", metric=CHROMA_SHIFT, subject={"arm": "pale"},
    value=0.354, low=0.263, high=0.444, headline=True, n=48, reference=Reference(0.4, 0.0), p=1.0,
    p_unadjusted=1.0, family="vae/pale", adjustment=ADJUSTMENT,
)  # fmt: skip


@pytest.mark.faults
def test_a_shift_names_the_resolution_that_it_is_tested_against():
    assert verdict(SHIFT) == "cannot tell"
    assert sentence(SHIFT) == (
        "pale: chroma shift for these prompts is 0.354 C* [0.263, 0.444] (n = 48). We cannot tell "
        "it from a change of up to 0.4 C*: p = 1.00 after Benjamini-Hochberg in two levels."
    )
    # Beyond zero is not enough; beyond the resolution is, in either direction.
    assert verdict(replace(SHIFT, p=0.01)) == "cannot tell"
    for sign in (1, -1):
        low, high = sorted((sign * 0.5, sign * 0.9))
        large = replace(SHIFT, value=sign * 0.7, low=low, high=high, p=0.001)
        assert verdict(large) == "apart"
        assert "tested against a change of up to 0.4 C*; p = 0.001" in sentence(large)
    extra = replace(
        SHIFT,
        metric=CHROMA_SHIFT.difference("extra chroma shift"),
        subject={"arm": "pale", "group": "tone", "class": "dark", "against": "all others"},
    )
    assert "We cannot tell it from a difference of up to 0.4 C*" in sentence(extra)
    points = replace(
        extra, metric=SHARE_DIFFERENCE, reference=Reference(0.02), value=0.03, low=0.01, high=0.05
    )
    assert "a difference of up to 2 points" in sentence(points)


@pytest.mark.faults
def test_a_sentence_says_where_more_than_a_twentieth_of_the_images_is_missing():
    assert "(64 images of 128 planned; 50 % were not counted)" in sentence(
        replace(PILOT, planned=128)
    )
    assert "planned" not in sentence(replace(PILOT, planned=67))
    assert "n = 48 of 96 planned; 50 % were not counted" in sentence(replace(SHIFT, planned=96))


@pytest.mark.faults
def test_what_failed_says_so_and_why():
    failed = Finding(
        id="vae/failed",
        probe="vae",
        metric=MetricSpec("analysis"),
        status="failed",
        note="KeyError: x",
    )
    assert verdict(failed) == "failed"
    assert verdict_label(failed) == "Failed"
    assert sentence(failed).startswith("Failed: KeyError: x")
    assert value_text(failed) == "–"


@pytest.mark.faults
def test_the_census_counts_every_test_and_nothing_else():
    undecided = [replace(SPREAD, p=0.5, headline=True)] * 96
    flagged = [replace(SPREAD, headline=True)] * 24
    described = [replace(PILOT, headline=True, family="")] * 7
    assert census([*undecided, *flagged, *described]) == {"Off target": 24, "We cannot tell": 96}
