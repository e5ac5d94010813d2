"""Seeds as other tools write them: the images that a plain pipeline makes of them."""

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from conftest import make, write_spec  # tests/conftest.py

from audit.pipeline.run import read_batch
from audit.pipeline.session import open_audit
from audit.pipeline.spec_schema import spec_schema
from harness.errors import SpecError
from harness.plan.cells import units_of
from harness.spec.schema import load_spec

FEW = {"vaes": {"own": "own"}, "attributes": [], "classifiers": {}, "probes": ["vae"]}


def test_the_image_of_a_literal_seed_is_that_of_a_plain_pipeline(tmp_path):
    audit = make(tmp_path, **FEW, seeds=[42, 7], batch_size=1, guidance=1)
    plan = audit.run.read_plan()
    assert sorted(set(plan["seed"])) == [7, 42]
    assert list(plan["noise"]) == list(plan["seed"])
    assert audit.spec.seeds.shared
    row = plan[plan["seed"] == 42].iloc[0]
    unit = next(u for u in units_of(plan) if row["cell"] in set(u.rows["cell"]))
    batch = read_batch(audit.run, unit, row["vae_file"])
    made = batch.images[batch.cells.index(row["cell"])]
    loaded = audit.checkpoints.load("balanced")
    pipe = loaded.generator.pipe
    pipe.set_progress_bar_config(disable=True)
    pipe.vae = loaded.vaes["own"]
    wanted = pipe(
        row["text"],
        num_inference_steps=2,
        guidance_scale=1,
        generator=torch.Generator("cpu").manual_seed(42),
        output_type="np",
    ).images[0]
    np.testing.assert_array_equal(made, (wanted * 255).round().astype(np.uint8))


def test_a_spec_written_again_says_the_same(tmp_path):
    spec = load_spec(write_spec(tmp_path, seeds=[42, 7]))
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    assert load_spec(again) == spec
    assert list(spec.seeds.numbers) == [42, 7]
    assert list(load_spec(write_spec(tmp_path, seeds={"count": 2, "start": 5})).seeds.numbers) == [
        5,
        6,
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": [-1]}, "seeds.literal"),
        ({"seeds": []}, "seeds.count"),
        ({"device": "cuda:x"}, "device"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_what_is_no_seed_or_device_is_said(tmp_path, changes, said):
    with pytest.raises(SpecError, match=said):
        open_audit(write_spec(tmp_path, **changes), tmp_path / "run")


def test_an_editor_takes_both_forms_and_a_second_gpu(tmp_path):
    validator = jsonschema.Draft202012Validator(spec_schema())
    spec = {"checkpoints": {"a": "b"}, "prompts": {"list": ["a"]}}
    for good in ({"seeds": [42]}, {"seeds": 8}, {"device": "cuda:1"}):
        validator.validate(spec | good)
    assert not validator.is_valid(spec | {"device": "cuda:one"})
