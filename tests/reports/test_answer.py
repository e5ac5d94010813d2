"""The answer is a function of the findings: what is off, which way, the worst case, in order."""

from dataclasses import replace
from math import nan

import pytest
from report_data import fake_report

from probes.attributes.metrics import (
    CORRECTED_SHARE,
    CORRECTED_TOTAL_VARIATION,
    MEAN_SHARE,
    SHARE,
    SHARE_DIFFERENCE,
)
from probes.contracts import Finding, MetricSpec, Reference
from probes.error_control import ADJUSTMENT
from reports.answer import answer
from reports.off_target import worst
from reports.summary import _drawable

EVEN = {"man": 0.5, "woman": 0.5}


def prompt(arm, name, women, distance, p=1e-6, reading="corrected"):
    """The test of a prompt and its share of women."""
    subject = {"checkpoint": arm, "vae": "own", "arm": arm, "attribute": "gender"}
    subject |= {"prompt": f"a portrait of a {name}"}
    test = Finding(
        id=f"test/{arm}/{name}", probe="attributes", metric=CORRECTED_TOTAL_VARIATION,
        subject=subject, value=distance, low=max(0.0, distance - 0.1) + 1e-3, high=distance + 0.1,
        p=p, headline=True, family=f"{arm}/gender/clip", adjustment=ADJUSTMENT, n=80,
        reference=Reference(0.0, 0.05, 0.11, EVEN), instrument="clip", reading=reading,
    )  # fmt: skip
    share = Finding(
        id=f"share/{arm}/{name}", probe="attributes", metric=CORRECTED_SHARE,
        subject=subject | {"class": "woman"}, value=women, low=women - 0.04, high=women + 0.04,
        n=80, reference=Reference(0.5, 0.5, nan, EVEN), instrument="clip", reading=reading,
    )  # fmt: skip
    return [test, share]


BIASED = [
    *prompt("mine", "mechanic", 0.04, 0.46),
    *prompt("mine", "judge", 0.3, 0.2),
    *prompt("mine", "parent", 0.9, 0.4),
    *prompt("mine", "doctor", 0.52, 0.02, p=0.7),
]


def test_opposite_stereotypes_are_both_told_with_direction_and_worst_prompt():
    (only,) = answer(BIASED)
    assert only.lead == "mine: gender is off target for 3 of 4 prompts"
    assert only.details == (
        "men too often for 2 (most for “a portrait of a mechanic”: 96 % [92 %, 100 %] men, target "
        "50 %); women too often for 1 (most for “a portrait of a parent”: 90 % [86 %, 94 %] women, "
        "target 50 %)"
    )
    assert only.apart
    assert only.findings[0] == "test/mine/mechanic"
    assert only.effect == pytest.approx((0.46 + 0.2 + 0.4 + 0.02) / 4 - 0.05)


def test_a_class_swapped_turns_the_sentence_round():
    turned = [
        replace(f, value=1 - f.value, low=1 - f.high, high=1 - f.low)
        if f.metric == CORRECTED_SHARE
        else f
        for f in BIASED
    ]
    (only,) = answer(turned)
    assert only.details.startswith("women too often for 2 (most for “a portrait of a mechanic”")


def test_what_is_not_off_target_says_so_without_praise_and_comes_last():
    fair = [f for name in ("cook", "chef") for f in prompt("fair", name, 0.5, 0.03, p=0.6)]
    first, last = answer([*fair, *BIASED])
    assert first.lead.startswith("mine: gender is off target for 3")
    assert last.lead == "fair: gender is off target for none of 2 prompts"
    assert last.details == "at this n sampling error alone puts a prompt up to 11 points off"
    assert not last.apart
    assert not any(w in last.text for w in ("unbiased", "fair model", "no bias"))


def test_arms_of_a_checkpoint_that_say_the_same_are_told_once():
    more = [
        replace(f, id=f"{f.id}/{vae}", subject=f.subject | {"vae": vae, "arm": f"mine · {vae}"})
        for vae in ("a", "b")
        for f in BIASED
    ]
    (only,) = answer([*BIASED, *more])
    assert only.lead == ("mine, mine · a and mine · b: gender is off target for 3 of 4 prompts")


def test_corrected_shares_go_before_counted_ones_in_any_order():
    counted = [
        replace(f, id=f"{f.id}/counted", metric=SHARE, reading="as counted", value=0.2)
        for f in BIASED
        if f.metric == CORRECTED_SHARE
    ]
    assert answer([*BIASED, *counted]) == answer([*counted, *BIASED]) == answer(BIASED)


def swap(arm, base, cls, value, **subject):
    about = {"arm": arm, "attribute": "tone", "class": cls, "baseline": base} | subject
    return Finding(
        id=f"swap/{arm}/{cls}", probe="attributes", metric=SHARE_DIFFERENCE, subject=about,
        value=value, low=value - 0.02, high=value + 0.02, p=1e-9, headline=True,
        family=f"{arm} against {base}", adjustment=ADJUSTMENT, n=1920,
        reference=Reference(0.0, 0.0), instrument="clip", reading="as counted",
    )  # fmt: skip


def mean(arm, cls, value, **subject):
    about = {"arm": arm, "attribute": "tone", "class": cls} | subject
    return Finding(
        id=f"mean/{arm}/{cls}", probe="attributes", metric=MEAN_SHARE, subject=about, value=value,
        low=value - 0.02, high=value + 0.02, n=1920, instrument="clip", reading="as counted",
    )  # fmt: skip


OWN = {"checkpoint": "m", "vae": "own"}
PALE = {"checkpoint": "m", "vae": "pale"}
OTHER = {"checkpoint": "n", "vae": "pale"}


def test_what_a_vae_alone_moves_is_said_and_two_exchanges_at_once_are_not():
    found = [
        mean("m · own", "dark", 0.16, **OWN),
        mean("m · pale", "dark", 0.0, **PALE),
        swap("m · pale", "m · own", "dark", -0.16, **PALE),
        swap("m · pale", "m · own", "light", 0.1, **PALE),
        swap("n · pale", "m · own", "dark", -0.16, **OTHER),
    ]
    (only,) = answer(found)
    assert only.lead == "m · pale against m · own: the VAE alone moves tone"
    assert only.details == "dark −16 points (16 % to 0 %), light +10 points"
    assert only.findings == ("swap/m · pale/dark", "swap/m · pale/light")


def test_other_tests_and_failures_are_told_and_order_is_by_effect():
    shift = Finding(
        id="shift", probe="spectrum", metric=MetricSpec("fine detail", "shift", "dB"),
        subject={"arm": "m · pale"}, value=9.0, low=8.0, high=10.0, p=1e-9, headline=True,
        family="vae", adjustment=ADJUSTMENT, n=99, reference=Reference(0.4, 0.0),
    )  # fmt: skip
    broken = Finding(
        id="b", probe="spectrum", metric=MetricSpec("analysis"), status="failed", note="KeyError: x"
    )
    said = answer([broken, shift, replace(shift, id="less", p=1e-3), *BIASED])
    assert [s.lead.split(":")[0] for s in said] == ["1 analysis failed", "mine", "m · pale"]
    assert said[2].findings == ("shift", "less")
    assert said[2].details == "and in 1 more comparison"
    assert said[0].details == "spectrum: KeyError: x"
    assert answer([]) == []


def test_the_worst_prompts_are_drawn_never_a_mean_in_which_they_cancel():
    cases = worst(BIASED, 12)
    assert [(c.prompt.split()[-1], c.name) for c in cases] == [
        ("mechanic", "man"),
        ("parent", "woman"),
        ("judge", "man"),
    ]
    assert [c.value for c in cases] == pytest.approx([0.96, 0.9, 0.7])
    assert all(c.low <= c.value <= c.high and c.target == 0.5 for c in cases)
    everywhere = mean("mine", "woman", 0.5, checkpoint="mine", vae="own")
    everywhere = replace(everywhere, headline=True, reference=Reference(0.5, 0.5))
    rows = _drawable(fake_report()._replace(findings=[everywhere, *BIASED]))
    assert [r["label"] for r in rows] == [
        "mine: mechanic, men",
        "mine: parent, women",
        "mine: judge, men",
    ]


def test_what_could_not_be_read_is_never_said_to_be_on_target():
    test, _ = prompt("mine", "judge", 0.5, 0.0)
    unread = replace(test, subject=test.subject | {"arm": "other"}, id="unread")
    unread = unread.not_measured("no image has a class; not counted: nobody 6")
    alone = answer([unread])
    assert [s.text for s in alone] == [
        "other: gender could not be read: we cannot tell: no image has a class; not counted: "
        "nobody 6."
    ]
    both = answer([unread, *prompt("mine", "doctor", 0.52, 0.02, p=0.7)])
    assert {s.lead for s in both} == {
        "other: gender could not be read: we cannot tell",
        "mine: gender is off target for none of 1 prompts",
    }


def test_a_swap_is_found_though_another_probe_knows_less_of_the_arm():
    """A probe of latents names no negative: the arm's factors are put together from all."""
    found = swap("mine · pale", "mine · own", "dark", -0.2, vae="pale", negative="none")
    own = mean("mine · own", "dark", 0.2, vae="own", negative="none")
    other = replace(own, id="latents/x", metric=MetricSpec("probe accuracy", "level"))
    thin = {k: v for k, v in other.subject.items() if k in ("checkpoint", "vae", "arm")}
    told = answer([found, own, replace(other, subject=thin)])
    assert any("the VAE alone moves" in s.lead for s in told)
