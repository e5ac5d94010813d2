"""Samplers with schedules and arguments, rescaled guidance and SDXL's sizes, from spec to image."""

import pytest
import torch
import yaml
from conftest import make, write_spec  # tests/conftest.py
from tiny_pipelines import flux, plainly, rows_of, sd1, sdxl

from audit.pipeline.session import open_audit
from harness.errors import AuditError, SpecError
from harness.generate.sampling import Extras, Generator
from harness.spec.schema import load_spec
from harness.spec.sections import SamplerSpec

FEW = {
    "seeds": 1,
    "vaes": {"own": "own"},
    "attributes": [],
    "classifiers": {},
    "probes": ["vae"],
    "steps": 3,
}
SAMPLERS = {
    "own": "own",
    "beta": "DPM++ 2M Beta",
    "third order": {
        "sampler": "dpm++ 2m",
        "schedule": "Karras",
        "arguments": {"solver_order": 3},
    },
}


def test_a_spec_names_samplers_in_every_way(tmp_path):
    one = load_spec(write_spec(tmp_path, samplers="Euler SGM Uniform"))
    assert one.samplers == {
        "euler sgm uniform": SamplerSpec(sampler="euler", schedule="sgm uniform")
    }
    two = load_spec(write_spec(tmp_path, samplers=["own", "DPM++ 2M Karras"]))
    assert list(two.samplers) == ["own", "dpm++ 2m karras"]
    assert two.samplers["dpm++ 2m karras"].schedule is None  # a short name of its own
    three = load_spec(write_spec(tmp_path, samplers=SAMPLERS))
    assert three.samplers["beta"] == SamplerSpec(sampler="dpm++ 2m", schedule="beta")
    assert three.samplers["third order"].schedule == "karras"
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(three.model_dump(mode="json")))
    assert load_spec(again) == three


@pytest.mark.parametrize(
    ("samplers", "said"),
    [
        (["eulr"], r"samplers\.eulr.*'eulr' is no sampler; available: own, ddim"),
        ({"a": {"sampler": "euler", "schedule": "karas"}}, r"'karas' is no schedule; available"),
        ({"a": {"sampler": "euler", "schedul": "beta"}}, "unknown key; the nearest is 'schedule'"),
        (["own karras"], "'own karras' is no sampler"),
        ([3], r"samplers\.3"),
        ([], "samplers"),
    ],
)
def test_what_is_no_sampler_is_quoted(tmp_path, samplers, said):
    with pytest.raises(SpecError, match=said) as found:
        load_spec(write_spec(tmp_path, samplers=samplers))
    assert "Traceback" not in str(found.value)


def test_schedules_and_arguments_reach_the_images_and_their_names(tmp_path):
    audit = make(tmp_path, **FEW, samplers=SAMPLERS)
    plan = audit.run.read_plan()
    by_sampler = {name: set(rows["cell"]) for name, rows in plan.groupby("sampler")}
    assert set(by_sampler) == set(SAMPLERS)
    assert len(set().union(*by_sampler.values())) == len(plan)
    assert plan.groupby("prompt")["noise"].nunique().eq(1).all()
    generator = audit.checkpoints.load("balanced").generator
    made = generator.sampler("third order")
    assert (made.config.solver_order, made.config.schedule) == (3, "karras")


def test_an_argument_that_a_class_lacks_ends_the_plan_in_a_line(tmp_path):
    samplers = {"mine": {"sampler": "ddim", "arguments": {"solver_order": 3}}}
    with pytest.raises(SpecError, match="'solver_order': DDIMScheduler has no such argument"):
        make(tmp_path, **FEW, samplers=samplers)


def test_rescaled_guidance_is_what_the_pipeline_makes_of_it(tmp_path):
    pipe = sd1()
    plain, rescaled = (
        Generator(pipe, 1, Extras(arguments=a)).denoise(rows_of(["a cat"], side=16)).clone()
        for a in ({}, {"guidance_rescale": 0.7})
    )
    assert not torch.equal(plain, rescaled)
    wanted = plainly(pipe, 16, prompt="a cat", negative_prompt="", guidance_rescale=0.7)
    assert torch.equal(rescaled, wanted)
    with pytest.raises(AuditError, match=r"guidance_rescale: a Flux does not take"):
        Generator(flux(), 1, Extras(arguments={"guidance_rescale": 0.7}))


def test_sdxl_is_told_sizes(tmp_path):
    spec = load_spec(
        write_spec(tmp_path, size_conditioning={"original_size": [16, 8], "crop": [4, 2]})
    )
    told = spec.arguments_of("balanced")
    assert told == {"original_size": (8, 16), "crops_coords_top_left": (2, 4)}
    pipe = sdxl()
    plain, made = (
        Generator(pipe, 1, Extras(arguments=a)).denoise(rows_of(["a cat"], side=16)).clone()
        for a in ({}, told)
    )
    assert not torch.equal(plain, made)
    with pytest.raises(AuditError, match=r"size_conditioning: .* does not take original_size"):
        Generator(sd1(), 1, Extras(arguments=told))


def test_what_is_not_set_leaves_every_image_its_name(tmp_path):
    before = make(tmp_path / "a", **FEW).run.read_plan()
    both = {
        "balanced": "reference:balanced",
        "snr": {
            "source": "reference:balanced",
            "zero_terminal_snr": True,
            "guidance_rescale": 0.7,
        },
    }
    plan = make(tmp_path / "b", **FEW, checkpoints=both).run.read_plan()
    assert list(plan.loc[plan["checkpoint"] == "balanced", "cell"]) == list(before["cell"])
    assert not set(plan.loc[plan["checkpoint"] == "snr", "cell"]) & set(before["cell"])


def test_wrong_values_are_quoted(tmp_path):
    for key, value in (("guidance_rescale", 2), ("size_conditioning", {"crop": [1]})):
        with pytest.raises(SpecError, match=key):
            open_audit(write_spec(tmp_path, **{key: value}), tmp_path / "run")
