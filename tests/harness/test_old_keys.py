"""Specs of earlier versions are read: their keys move to where they stand today, and say so."""

import pytest
from conftest import quiet, write_spec

from audit.pipeline.plan import plan_audit
from audit.pipeline.session import open_audit
from harness.errors import SpecMistakes
from harness.spec.old_keys import moved, named


def test_options_move_to_their_probe():
    raw = {"probes": ["attributes", "steps"], "trajectory": {"watch": 3}, "latents": {"watch": 9}}
    spec, said = moved(raw)
    # Options of a probe that is not named had no effect.
    assert spec == {"probes": {"attributes": {}, "steps": {"watch": 3}}}
    assert said[0].startswith("trajectory: options of a probe stand under its name now")
    assert len(said) == 2
    assert moved(spec) == (spec, [])


def test_keys_have_new_names_and_the_old_ones_are_read():
    raw = {
        "checkpoints": {"a": {"source": "x", "parts": "p", "prediction": "v"}, "b": "y"},
        "speed": {"low_memory": True},
        "errors": "e.csv",
        "weighting": "a1111",
        "other_latent_spaces": True,
    }
    spec, said = moved(raw)
    assert spec == {
        "checkpoints": {
            "a": {"source": "x", "components_from": "p", "prediction_type": "v"},
            "b": "y",
        },
        "runtime": {"cpu_offload": True},
        "confusion_matrix": "e.csv",
        "prompt_syntax": "a1111",
        "allow_latent_space_mismatch": True,
    }
    assert len(said) == 7
    assert "checkpoints.a.parts is now called checkpoints.a.components_from" in said[5]
    assert moved(spec) == (spec, [])
    # With both spellings there, the old one is an unknown key: nobody guesses which is meant.
    both = {"speed": {}, "runtime": {}}
    assert moved(both) == (both, [])


@pytest.mark.parametrize(
    ("probes", "wanted"),
    [
        ("vae", {"vae": {}}),
        (["vae", "steps"], {"vae": {}, "steps": {}}),
        (["vae", {"steps": {"watch": 2}}], {"vae": {}, "steps": {"watch": 2}}),
        ({"vae": None, "steps": {"watch": 2}}, {"vae": {}, "steps": {"watch": 2}}),
        (3, 3),
        ([["vae"]], [["vae"]]),
    ],
)
def test_probes_may_be_named_or_carry_options(probes, wanted):
    assert named(probes) == wanted


def test_a_spec_with_old_keys_is_planned_and_says_what_to_write(tmp_path):
    path = write_spec(tmp_path, probes=["steps"], trajectory={"watch": 2}, vaes={"own": "own"})
    said = []
    audit = open_audit(path, tmp_path / "run")
    plan, _ = plan_audit(audit, said.append)
    assert audit.probes[0].options.watch == 2
    assert plan["step"].nunique() == 3
    assert any("'probes: {steps: {…}}'" in line for line in said)
    new = write_spec(tmp_path, probes={"steps": {"watch": 2}}, vaes={"own": "own"})
    again, _ = plan_audit(open_audit(new, tmp_path / "again"), quiet)
    assert again.equals(plan)


def test_all_mistakes_of_a_spec_are_said_at_once(tmp_path):
    path = write_spec(
        tmp_path,
        probes={"attention": {"stags": 1, "maps": -1}, "sharpness": {}},
        seeds=0,
        baselin="balanced",
    )
    with pytest.raises(SpecMistakes) as found:
        open_audit(path, tmp_path / "run")
    said = [line.removeprefix(f"{path}: ") for line in found.value.lines]
    assert "probes.attention.stags: unknown key; the nearest is 'stages'" in said
    assert any(line.startswith("probes.attention.maps: Input should be greater") for line in said)
    assert any(
        line.startswith("probes: unknown probe 'sharpness'; available: att") for line in said
    )
    assert "baselin: unknown key; the nearest is 'baseline'" in said
    assert any(line.startswith("seeds") and "greater than or equal to 1" in line for line in said)
