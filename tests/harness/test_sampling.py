import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make
from PIL import Image

from harness.generate.sampling import Generator
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec

NEGATIVE = "a portrait of a man"


@pytest.fixture(scope="module")
def generator() -> Generator:
    spec = CheckpointSpec(source="reference:balanced")
    loaded = load_checkpoint("balanced", spec, Path(), "cpu", torch.float32)
    return Generator(loaded.pipe, 4)


def rows(count: int, sampler: str = "own", guidance: float = 3.0) -> pd.DataFrame:
    prompts = ["a portrait of a doctor", "a portrait of an elf", "a woman", "a cook"]
    return pd.DataFrame(
        {
            "text": [prompts[i % 4] for i in range(count)],
            "negative_text": NEGATIVE,
            "noise": range(100, 100 + count),
            "sampler": sampler,
            "steps": 3,
            "guidance": guidance,
            "width": 64,
            "height": 64,
        }
    )


def pixels(generator: Generator, wanted: pd.DataFrame) -> np.ndarray:
    images = generator.decode(generator.pipe.vae, generator.denoise(wanted))
    return (images * 255).round().astype(np.uint8)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["own", "euler a", "dpm++ 2m"])
def test_pixels_equal_a_plain_pipeline_bit_for_bit(generator, sampler, guidance):
    wanted = rows(4, sampler, guidance)
    ours = pixels(generator, wanted)
    pipe = generator.pipe
    own = pipe.scheduler
    from harness.models.schedulers import sampler as scheduler_of

    pipe.scheduler = scheduler_of(own, sampler)
    embed = [pipe.encode_prompt(t, pipe.device, 1, False)[0] for t in wanted["text"]]
    negative = pipe.encode_prompt(NEGATIVE, pipe.device, 1, False)[0]
    plain = pipe(
        prompt_embeds=torch.cat(embed),
        negative_prompt_embeds=negative.repeat(4, 1, 1) if guidance > 1 else None,
        generator=[torch.Generator().manual_seed(n) for n in wanted["noise"]],
        num_inference_steps=3,
        guidance_scale=guidance,
    ).images
    pipe.scheduler = own
    np.testing.assert_array_equal(ours, np.stack([np.asarray(i) for i in plain]))


def test_pixels_do_not_depend_on_neighbours_order_or_padding(generator):
    wanted = rows(4)
    whole = pixels(generator, wanted)
    np.testing.assert_array_equal(pixels(generator, wanted.iloc[::-1])[::-1], whole)
    np.testing.assert_array_equal(pixels(generator, wanted.iloc[[2]])[0], whole[2])
    other = pd.concat([rows(7).iloc[4:], wanted.iloc[[1]]])
    np.testing.assert_array_equal(pixels(generator, other)[3], whole[1])


def test_another_seed_gives_other_pixels(generator):
    wanted = rows(4)
    assert (pixels(generator, wanted) != pixels(generator, wanted.assign(noise=[1, 2, 3, 4]))).any()


def test_a_run_holds_every_planned_image_once_with_its_settings(small_audit):
    plan = small_audit.run.read_plan()
    assert plan is not None
    made = [c for u, v in small_audit.run.image_files() for c in small_audit.run.made_cells(u, v)]
    assert sorted(made) == sorted(plan["cell"].unique())
    assert len(made) == 2 * 3 * 2  # own and copy are one
    row = plan.iloc[0]
    png = small_audit.run.image(row["unit"], row["vae_file"], row["cell"])
    text = Image.open(io.BytesIO(png)).text["parameters"]
    assert text.startswith("a portrait of a doctor\n")
    assert f"Seed: {row['noise']}" in text


def test_more_seeds_and_vaes_add_images_and_touch_none(tmp_path):
    first = make(tmp_path, vaes={"own": "own"}, seeds=2)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*.parquet")}
    kept = {p: v for p, v in before.items() if p.parent.parent.name == "images"}
    assert kept
    second = make(tmp_path, vaes={"own": "own", "pale": "reference:pale"}, seeds=5)
    for path, (when, data) in kept.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (when, data)
    plan = second.run.read_plan()
    assert len(plan) == 2 * 5 * 2
    assert first.run.folder == second.run.folder


def test_nan_pixels_are_missing_with_a_reason(tmp_path, small_audit):
    from harness.images.png import write_images
    from harness.store.run import Run

    plan = small_audit.run.read_plan()
    part = plan[plan["vae"] == "own"].iloc[:3]
    images = np.zeros((3, 64, 64, 3), np.float32)
    images[0] = np.nan
    images[2] = 0.5
    write_images(Run(tmp_path), "u", "v", part, images, [True] * len(images))
    missing = Run(tmp_path).missing_images()
    assert list(missing["cell"]) == list(part["cell"][:2])
    assert missing["reason"].str.contains("NaN").tolist() == [True, False]
    assert missing["reason"].iloc[1] == "all black"
    assert Run(tmp_path).made_cells("u", "v") == [part["cell"].iloc[2]]
