from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make

import reference
from audit.pipeline import analyse
from harness.generate.sampling import Generator
from harness.models.families import family
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec
from harness.taps.activations import ActivationsTap, blocks_of
from probes.statistics.linear_probe import linear_probe
from reference.world import GENDERS, ROLES, STYLES, TONES, picture_grid


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("latents"),
        prompts={"list": ["a portrait of a doctor", "a portrait of an elf", "a portrait of a man"]},
        probes={"attributes": {}, "latents": {"watch": 2, "umap": False}},
        vaes={"own": "own"},
        attributes=["world-gender"],
    )


def test_every_image_has_features_at_every_level(followed):
    folder = followed.run.read_json("instruments.json")["latents"]
    plan = followed.run.read_plan()
    table = followed.run.read_scores(folder, set(plan["unit"]))
    wide = table.groupby("feature")["cell"].nunique()
    assert set(wide.index) == {"starting noise", "final latents"} | {
        f"{block}, step {step}"
        for block in ("down 1", "down 2", "middle", "up 1", "up 2")
        for step in (1, 2)
    }
    assert (wide == plan["cell"].nunique()).all()
    sizes = table.groupby("feature")["values"].agg(lambda v: {len(x) for x in v})
    assert sizes["starting noise"] == sizes["final latents"] == {8 * 8 * 8}
    assert sizes["middle, step 1"] == {128}
    # Noise goes by prompt and seed, and differs between them.
    noise = np.stack(list(table.loc[table["feature"] == "starting noise", "values"]))
    assert np.abs(np.corrcoef(noise) - np.eye(len(noise))).max() < 0.3


def test_findings_and_planes(followed):
    findings, figures = analyse.analyse(followed)
    own = [f for f in findings if f.probe == "latents"]
    assert len({f.id for f in own}) == len(own) == 13
    for found in own:
        assert found.status == "not-measured" or 0.5 <= found.reference.null <= 1
    planes = [e for e in figures if e.kind == "scatter+image"]
    assert [e.id for e in planes] == ["latents/pca"]
    assert set(planes[0].table["cell"]) == set(followed.run.read_plan()["cell"])
    page = analyse.report(followed, findings, figures).read_text()
    assert "one point an image" in page


def test_the_tap_holds_what_the_blocks_put_out_and_changes_nothing():
    source = CheckpointSpec(source="reference:balanced")
    generator = Generator(load_checkpoint("b", source, Path(), "cpu", torch.float32).pipe, 2)
    rows = pd.DataFrame({"text": ["a man", "a woman"], "negative_text": "", "noise": [3, 4]})
    rows = rows.assign(sampler="own", steps=2, guidance=3.0, width=64, height=64)
    seen: list[torch.Tensor] = []
    unet = generator.pipe.unet
    handle = unet.mid_block.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    tap = ActivationsTap(2)
    tapped = generator.denoise(rows, [tap])
    handle.remove()
    assert torch.equal(tapped, generator.denoise(rows))
    record = tap.records()[1]
    assert record.notes["steps"] == [0, 1]
    wanted = torch.stack([s[3].mean(dim=(1, 2)) for s in seen])  # second image, prompt's half
    np.testing.assert_allclose(record.arrays["middle"], wanted.numpy(), rtol=1e-6)
    first = torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(4))[0]
    np.testing.assert_allclose(record.arrays["noise"], first.numpy(), rtol=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    assert list(blocks_of(family(generator.pipe))) == ["down 1", "down 2", "middle", "up 1", "up 2"]


def test_gender_is_read_from_latents_of_prompts_and_of_roles_left_out():
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(reference.component("vae", "faithful"))
    pictures = np.concatenate([picture_grid(s)[: len(ROLES)] for s in STYLES])
    pixels = torch.from_numpy(pictures.reshape(-1, 64, 64, 3)).permute(0, 3, 1, 2)
    with torch.no_grad():
        latents = vae.float().encode(pixels.float() / 127.5 - 1).latent_dist.mode().flatten(1)
    shape = (len(STYLES), len(ROLES), len(GENDERS), len(TONES))
    style, role, gender, tone = (g.ravel() for g in np.indices(shape))
    names, x = np.array(GENDERS)[gender], latents.numpy().astype(float)
    prompts = (100 * role + 10 * style + tone).astype(str)
    known = linear_probe(x, names, prompts)
    assert known.right.mean() > 0.9
    assert known.majority == 0.5
    assert abs(known.chance - 0.5) < 0.12
    # Harder: a role whose man and woman were never seen, of 24 that dress alike.
    assert linear_probe(x, names, role.astype(str)).right.mean() > 0.7
    noise = np.random.default_rng(0).normal(size=x.shape)
    assert abs(linear_probe(noise, names, prompts).right.mean() - 0.5) < 0.1
