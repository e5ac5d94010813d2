"""The answer held against what the reference checkpoints truly draw, `reference/truth.yaml`.

Outcomes are drawn from the oracle's counts, read by a classifier that errs on nothing, and told by
the real probe: what is wrong here is wrong in the sentence, not in the reading.
"""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SPEC

import reference
from harness.plan.cells import ARM, arm_labels
from harness.spec.schema import parse_spec
from probes.attributes.probe import analyse_attribute
from probes.error_control import adjusted
from reports.answer import answer
from validation.train.shares import planted_role

SEEDS = 80
CLASSES = {
    "gender": ["man", "woman"],
    "tone": ["light", "medium-light", "medium", "medium-dark", "dark"],
}
PALE = {"dark": "medium", "medium-dark": "medium"}
"""What a lightening VAE makes of a tone."""


@cache
def truth():
    path = Path(reference.__file__).with_name("truth.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def shares(model, role, kind, pale=False):
    if model == "even":
        return dict.fromkeys(CLASSES[kind], 1 / len(CLASSES[kind]))
    if model == "planted-text":  # known by its plan alone
        women, tones = planted_role(model, role)
        values = [1 - women, women] if kind == "gender" else tones
        return dict(zip(CLASSES[kind], values, strict=True))
    counts = dict(zip(CLASSES[kind], truth()[model]["1"][role][kind], strict=True))
    if pale and kind == "tone":
        for dark, light in PALE.items():
            counts[light] += counts.pop(dark)
    total = sum(counts.values())
    return {c: counts.get(c, 0) / total for c in CLASSES[kind]}


def distance(model, role, kind, pale=False):
    even = 1 / len(CLASSES[kind])
    return sum(abs(s - even) for s in shares(model, role, kind, pale).values()) / 2


def roles():
    return list(truth()["balanced"]["1"])


def told(models, vaes=("own",), rename=None, seed=0):
    """The answer of a run of some models: {name: key of the truth}, VAEs 'own' and 'pale'.

    `rename` maps class names, so that a model drawn for one class is told of another.
    """
    rng = np.random.default_rng(seed)
    rename = rename or {}
    rows, read = [], {kind: [] for kind in CLASSES}
    for name, model in models.items():
        for role in roles():
            drawn = {
                kind: rng.choice(CLASSES[kind], SEEDS, p=list(shares(model, role, kind).values()))
                for kind in CLASSES
            }
            for vae in vaes:
                for i in range(SEEDS):
                    cell = f"{name}/{vae}/{role}/{i}"
                    fixed = {"steps": 12, "guidance": 3.0, "width": 64, "height": 64}
                    factors = dict.fromkeys(ARM, "none") | fixed
                    factors |= {"checkpoint": name, "vae": vae, "sampler": "own"}
                    rows.append(
                        {"cell": cell, "prompt": f"a portrait of a {role}", "seed": i}
                        | {"noise": i, "kind": "made", "trajectory": f"{name}/{role}/{i}"}
                        | {"unit": name}
                        | factors
                    )
                    for kind in CLASSES:
                        seen = drawn[kind][i]
                        seen = PALE.get(seen, seen) if vae == "pale" else seen
                        seen = rename.get(seen, seen)
                        read[kind].append(seen)
    spec = parse_spec(
        SPEC
        | {
            "checkpoints": dict.fromkeys(models, "reference:balanced"),
            "vaes": {v: "own" if v == "own" else "reference:pale" for v in vaes},
            "prompts": {"list": [f"a portrait of a {r}" for r in roles()]},
            "seeds": SEEDS,
        },
        Path("t.yaml"),
    )
    plan = pd.DataFrame(rows)
    plan["arm"] = arm_labels(plan)
    labels = pd.DataFrame(columns=["cell", "attribute", "class", "rater"])
    found = []
    for attribute in spec.attributes:
        kind = attribute.name.removeprefix("world-")
        frame = plan.assign(outcome=read[kind], label=np.nan)
        name = f"small.{attribute.name}"
        found += analyse_attribute({}, frame, attribute, name, spec, labels)[0]
    return answer(adjusted(found))


def effects(models, vaes):
    """True mean distance from target over the prompts by (arm, attribute), the largest first."""
    found = {
        (f"{name} · {vae}" if len(vaes) > 1 else name, kind): np.mean(
            [distance(model, role, kind, vae == "pale") for role in roles()]
        )
        for name, model in models.items()
        for vae in vaes
        for kind in CLASSES
    }
    return sorted(found.items(), key=lambda item: -item[1])


def place(stated, arm, kind):
    """Where the answer says that an arm is off target of an attribute."""
    (at,) = [
        i
        for i, s in enumerate(stated)
        if s.apart and f"world {kind} is off target" in s.lead and arm in s.lead.partition(":")[0]
    ]
    return at


WORST = re.compile(r"([\w-]+) too often for \d+ \(most for “a portrait of a ([^”]+)”")


def test_a_biased_text_encoder_is_off_under_both_vaes_and_a_vae_without_beards_moves_nobody():
    models, vaes = {"even": "even", "text": "planted-text"}, ("own", "no-beards")
    stated = told(models, vaes)
    kinds = [
        kind for (arm, kind), size in effects(models, vaes) if arm == "text · own" and size > 0.1
    ]
    assert kinds
    for kind in kinds:
        one = stated[place(stated, "text · own", kind)]
        assert place(stated, "text · no-beards", kind) == place(stated, "text · own", kind)
        for plural, role in WORST.findall(one.details):
            cls = {"men": "man", "women": "woman"}.get(plural, plural)
            true = {r: shares("planted-text", r, kind)[cls] for r in roles()}
            assert true[role] > max(true.values()) - 0.16
    assert not any("the VAE alone" in s.lead for s in stated)
    assert not any(s.apart and s.lead.startswith("even") for s in stated)


@pytest.mark.parametrize(
    "models",
    [
        {"balanced": "balanced", "planted": "planted-unet"},
        {"zeta": "planted-unet", "alpha v1.2": "balanced"},
    ],
    ids=["the demo", "renamed and reordered"],
)
def test_the_largest_true_effects_come_first_in_order_with_direction_and_worst_prompt(models):
    vaes = ("own", "pale")
    stated = told(models, vaes)
    (vae, *_) = [i for i, s in enumerate(stated) if "the VAE alone moves world tone" in s.lead]
    assert "dark −" in stated[vae].details
    assert "to 0 %" in stated[vae].details
    largest = effects(models, vaes)[:5]
    places = [place(stated, arm, kind) for (arm, kind), _ in largest]
    assert {*places, vae} <= set(range(6))  # arms that say the same are told once
    for (one, size), (other, less) in pairwise(largest):
        if size - less > 0.05:  # sampling error of a mean over 24 prompts of 80 images
            assert place(stated, *one) <= place(stated, *other)
    for (arm, kind), _ in largest:
        (name,) = [n for n in models if arm.startswith(n)]
        pale = arm.endswith("pale")
        named = WORST.findall(stated[place(stated, arm, kind)].details)
        assert named
        for plural, role in named:
            cls = {"men": "man", "women": "woman"}.get(plural, plural)
            true = {r: shares(models[name], r, kind, pale)[cls] for r in roles()}
            assert true[role] > max(true.values()) - 0.16  # two intervals at n = 80
            assert true[role] > 1 / len(CLASSES[kind])


def test_where_the_biased_class_is_the_other_one_the_sentence_turns_round():
    models = {"balanced": "balanced", "planted": "planted-unet"}
    plain = told(models)
    turned = told(models, rename={"man": "woman", "woman": "man"})
    one, other = (s[place(s, "planted", "gender")] for s in (plain, turned))
    swap = {"men": "women", "women": "men"}
    assert {(swap[c], r) for c, r in WORST.findall(one.details)} == set(
        WORST.findall(other.details)
    )


def test_two_draws_of_one_model_do_not_differ_and_a_fair_one_is_not_off():
    assert not [s for s in told({"balanced": "balanced", "b": "balanced"}) if "against" in s.lead]
    fair = told({"fair": "even", "fair-b": "even"})
    assert [s.lead for s in fair if s.apart] == []
    assert len(fair) == 2
