"""Which layer of CLIP is read, as the WebUIs count it, against diffusers' own argument."""

import pytest
import torch
from conftest import make, write_spec  # tests/conftest.py
from tiny_pipelines import flux, sd1, sd2, sdxl

from audit.pipeline.session import open_audit
from harness.errors import AuditError, SpecError
from harness.generate.sampling import Extras, Generator
from harness.models.families import family

TEXT = "a portrait of a judge"


@pytest.mark.parametrize(("pipeline", "counts"), [(sd1, {1: None, 2: 1}), (sd2, {1: None, 2: 1})])
def test_a_skip_is_one_more_than_that_of_diffusers(pipeline, counts):
    pipe = pipeline()
    if not hasattr(pipe.text_encoder, "text_model"):  # where diffusers looks for the norm
        pipe.text_encoder.text_model = torch.nn.ModuleDict()
        pipe.text_encoder.text_model.final_layer_norm = pipe.text_encoder.final_layer_norm
    for clip_skip, own in counts.items():
        made = Generator(pipe, 1, Extras(clip_skip=clip_skip)).embed(TEXT)["prompt_embeds"]
        wanted = pipe.encode_prompt(TEXT, "cpu", 1, False, clip_skip=own)[0]
        assert torch.equal(made, wanted)
    one, two = (
        Generator(pipe, 1, Extras(clip_skip=k)).embed(TEXT)["prompt_embeds"] for k in (1, 2)
    )
    assert not torch.equal(one, two)


def test_sdxl_reads_the_second_last_layer_by_1_and_2():
    pipe = sdxl()
    made = [Generator(pipe, 1, Extras(clip_skip=k)).embed(TEXT) for k in (1, 2)]
    assert torch.equal(made[0]["prompt_embeds"], made[1]["prompt_embeds"])
    wanted = pipe.encode_prompt(TEXT, do_classifier_free_guidance=False)[0]
    assert torch.equal(made[0]["prompt_embeds"], wanted)
    own = family(pipe)
    own.skipped = 1  # three layers from the end, where a whole model has them: diffusers' 1
    wanted = pipe.encode_prompt(TEXT, do_classifier_free_guidance=False, clip_skip=1)[0]
    assert torch.equal(own.encode(TEXT)["prompt_embeds"], wanted)
    assert not torch.equal(made[0]["prompt_embeds"], wanted)


def test_what_has_no_such_layer_is_refused_in_a_line():
    with pytest.raises(AuditError, match="clip_skip: 2: of a Flux no layer is left out"):
        Generator(flux(), 1, Extras(clip_skip=2))
    with pytest.raises(AuditError, match="clip_skip: 3: its text encoder has 2 layers"):
        Generator(sd1(), 1, Extras(clip_skip=3))


def test_it_makes_other_images_of_the_same_noise_and_leaves_the_plan_without_it_alone(tmp_path):
    few = {
        "seeds": 1,
        "vaes": {"own": "own"},
        "attributes": [],
        "classifiers": {},
        "probes": ["vae"],
    }
    both = {"one": "reference:balanced", "two": {"source": "reference:balanced", "clip_skip": 2}}
    plan = make(tmp_path / "both", **few, checkpoints=both).run.read_plan()
    one, two = (plan[plan["checkpoint"] == c] for c in both)
    assert list(one["noise"]) == list(two["noise"])
    assert not set(one["cell"]) & set(two["cell"])
    before = make(tmp_path / "before", **few, checkpoints={"one": "reference:balanced"}).run
    assert list(before.read_plan()["cell"]) == list(one["cell"])


def test_a_skip_of_zero_is_refused(tmp_path):
    path = write_spec(tmp_path, clip_skip=0)
    with pytest.raises(SpecError, match="clip_skip"):
        open_audit(path, tmp_path / "run")
