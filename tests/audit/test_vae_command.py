import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from audit.commands.main import main
from audit.pipeline import round_trip_inputs
from audit.pipeline.imported_images import NO_PROMPT
from audit.pipeline.round_trip import send, shrink
from audit.pipeline.vae_audit import named
from harness.models.vae_identity import codec, load_vae_alone
from harness.store.run import Run
from reference.world import HERE
from validation.export import export


def audit(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def photo(size=(64, 64), mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, export(folder, ("doctor",))


@pytest.fixture(scope="module")
def round_trip(world, tmp_path_factory):
    folder, labels = world
    out = tmp_path_factory.mktemp("out") / "run"
    copy = out.parent / "renamed"
    shutil.copytree(HERE / "models" / "vae" / "faithful", copy)
    arguments = ["vae", folder, "--csv", labels, "--out", out, "--batch-size", 10]
    arguments += ["--vae", "reference:faithful", "--vae", f"renamed={copy}"]
    arguments += ["--vae", "reference:pale"]
    return audit(*arguments), out, arguments


def test_the_table_and_the_report(round_trip):
    result, out, _ = round_trip
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["VAE", "PSNR"]
    assert [line.split()[0] for line in lines[1:4]] == ["faithful", "renamed", "pale"]
    report = json.loads((out / "report" / "report.json").read_text())
    ids = [f["id"] for f in report["findings"]]
    assert len(ids) == len(set(ids))
    assert "grid/vae/changed" in [e["id"] for e in report["figures"]]
    page = (out / "report" / "index.html").read_text()
    assert "<script" not in page


def test_the_answer_says_which_vae_shifts_what_and_whose_images_most(round_trip):
    result, out, _ = round_trip
    first, *others = [line for line in result.stdout.splitlines() if line.startswith("- ")]
    assert first.startswith("- VAEs by how close they come to the originals (PSNR of 20 images)")
    assert first.index("faithful 2") < first.index("pale 2")
    assert first.endswith("renamed makes the same images as faithful.")
    pale = next(line for line in others if line.startswith("- pale against faithful: "))
    assert re.search(r"skin \d\S* L\* \[[^]]*\] lighter", pale)
    assert re.search(r"most where tone is (medium )?dark: skin \S+ L\* \[[^]]*\] lighter", pale)
    assert not any(line.startswith("- renamed") for line in others)
    page = (out / "report" / "index.html").read_text()
    assert "Which VAE to ship" in page
    assert "makes the same images as faithful" in page
    assert "starting noise" not in page


def test_the_order_of_vaes_turns_the_sentence_round(world, tmp_path):
    folder, labels = world
    vaes = ["--vae", "reference:pale", "--vae", "reference:faithful"]
    said = audit("vae", folder, "--csv", labels, "--out", tmp_path / "run", *vaes).stdout
    (line,) = [x for x in said.splitlines() if x.startswith("- faithful against pale: ")]
    assert re.search(r"skin \d\S* L\* \[[^]]*\] darker", line)


def test_two_names_of_one_vae_differ_in_nothing(world, tmp_path):
    folder, _ = world
    vaes = ["--vae", "a=reference:faithful", "--vae", "b=reference:faithful"]
    said = audit("vae", folder, "--out", tmp_path / "run", *vaes).stdout
    assert "b makes the same images as a" in said
    assert "b against a" not in said
    assert "no clear shift over all images" in said


def test_images_without_a_prompt_go_by_their_file_names(world, tmp_path):
    folder, _ = world
    out = tmp_path / "run"
    audit("vae", folder, "--vae", "reference:faithful", "--out", out)
    assert set(Run(out).read_plan()["prompt"]) == {p.name for p in folder.glob("*.png")}


def test_more_images_than_prompts_may_be_share_a_name(world, tmp_path, monkeypatch):
    monkeypatch.setattr(round_trip_inputs, "MOST_PROMPTS", 19)
    found = round_trip_inputs.images_of_folder(world[0], None, [], print)
    assert {p.prompt for p in found} == {NO_PROMPT}


def test_a_renamed_copy_is_named_and_makes_the_same_pixels(round_trip):
    result, out, _ = round_trip
    assert "renamed has the same weights as faithful" in result.stderr
    report = json.loads((out / "report" / "report.json").read_text())
    apart = [
        f
        for f in report["findings"]
        if f["subject"].get("vae") == "renamed" and "baseline" in f["subject"]
    ]
    assert apart
    assert {f["value"] for f in apart if f["status"] == "measured"} == {0}


def test_pale_lightens_dark_skin_alone(round_trip):
    _, out, _ = round_trip
    findings = json.loads((out / "report" / "report.json").read_text())["findings"]
    shift = {
        f["subject"]["class"]: f["value"]
        for f in findings
        if f["metric"] == "skin lightness shift"
        and f["subject"]["vae"] == "pale"
        and f["subject"].get("group") == "tone"
        and "baseline" not in f["subject"]
    }
    assert shift["dark"] > 5
    assert shift["medium-dark"] > 3
    assert abs(shift["light"]) < 2


def test_running_again_does_nothing_and_other_settings_are_refused(round_trip):
    _, _, arguments = round_trip
    again = audit(*arguments)
    assert "round trip" not in again.stderr
    assert "score" not in again.stderr
    at = arguments.index("--batch-size") + 1
    other = [*arguments[:at], 5, *arguments[at + 1 :]]
    assert "batch size 10 -> 5" in audit(*other, code=2).stderr


def test_a_run_can_be_sent_round(small_audit, tmp_path):
    out = tmp_path / "run"
    audit("vae", small_audit.run.folder, "--vae", "reference:pale", "--out", out)
    plan = Run(out).read_plan()
    assert plan["kind"].value_counts().to_dict() == {"given": 6, "round trip": 6}
    assert set(plan["prompt"]) == {"a portrait of a doctor", "a portrait of a farmer"}


def test_images_of_all_kinds(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    photo((64, 64)).save(folder / "plain.png")
    photo((61, 83)).save(folder / "odd.png")
    photo((5, 3)).save(folder / "tiny.png")
    photo((200, 40)).save(folder / "wide.jpg")
    photo(mode="L").save(folder / "grey.png")
    photo(mode="RGBA").save(folder / "alpha.png")
    sixteen = np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(sixteen).save(folder / "sixteen.png")
    photo().save(folder / "moving.gif", save_all=True, append_images=[photo(seed=1)])
    turned = photo((64, 40))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes(b"no image")
    out = tmp_path / "run"
    audit("vae", folder, "--vae", "reference:faithful", "--out", out, "--max-side", 100)
    run = Run(out)
    tables = [run.read_images(u, v) for u, v in run.image_files()]
    images = pd.concat(tables)
    assert images["png"].notna().sum() == 2 * 9
    assert len(images) == 2 * 10
    reasons = set(images.loc[images["png"].isna(), "reason"])
    assert any("is not an image of a known kind" in reason for reason in reasons)
    assert "the original cannot be read" in reasons
    report = json.loads((out / "report" / "report.json").read_text())
    error = next(f for f in report["findings"] if f["metric"] == "squared error")
    assert error["n"] == 9


def test_labels_with_spaces_and_case_and_groups_of_one(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(5):
        photo(seed=i).save(folder / f"{i}.png")
    rows = [
        ["file", "beard"],
        *([f"{i}.png", v] for i, v in enumerate([" Yes ", "no", "NO", "No"])),
    ]
    labels = table(tmp_path / "labels.csv", rows)
    out = tmp_path / "run"
    audit("vae", folder, "--csv", labels, "--vae", "reference:faithful", "--out", out)
    report = json.loads((out / "report" / "report.json").read_text())
    groups = [f for f in report["findings"] if f["subject"].get("against") == "all others"]
    assert {f["subject"]["class"] for f in groups} == {"no"}
    assert {f["status"] for f in groups} == {"not-measured"}
    assert groups[0]["note"].startswith("images of 'no': 3, others: 1")
    rows[1][0] = "nobody.png"
    bad = audit("vae", folder, "--csv", table(labels, rows), "--vae", "reference:faithful", code=2)
    assert "'nobody.png'" in bad.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [("reference:fathful", "'faithful'"), ("nowhere", "no such VAE"), ("model.vae.pt", "convert")],
)
def test_a_vae_that_cannot_be_loaded_is_named(tmp_path, source, words):
    photo().save(tmp_path / "a.png")
    (tmp_path / "model.vae.pt").write_bytes(b"\x80\x04K\x01.")
    given = str(tmp_path / source) if source.startswith("model") else source
    line = audit("vae", tmp_path, "--vae", given, "--out", tmp_path / "run", code=2).stderr
    assert len(line.strip().splitlines()) == 1
    assert words in line
    assert not (tmp_path / "run").exists()


def test_names_of_vaes():
    assert named(("reference:pale", "a=some/vae", "models/mse.safetensors")) == {
        "pale": "reference:pale",
        "a": "some/vae",
        "mse.safetensors": "models/mse.safetensors",
    }
    with pytest.raises(ValueError, match="is taken"):
        named(("x/vae", "y/vae"))


def test_a_round_trip_is_plain_encode_and_decode():
    vae = load_vae_alone("faithful", "reference:faithful", HERE)
    pixels = np.stack([np.asarray(photo(seed=i)) for i in range(3)])
    images, latents = send(codec(vae), pixels, batch=3)
    with torch.no_grad():
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        mode = vae.encode(tensor).latent_dist.mode()
        drawn = (vae.decode(mode).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert torch.equal(latents, mode)
    assert np.array_equal(images, drawn.numpy())
    again, _ = send(codec(vae), pixels, batch=3)
    assert np.array_equal(again, images)
    alone, _ = send(codec(vae), pixels[:1], batch=3)  # a forward of one: other last bits
    assert np.allclose(alone, images[:1], atol=1e-5)


def test_any_object_with_encode_and_decode_is_a_vae():
    class Halves:
        def encode(self, images):
            return torch.nn.functional.avg_pool2d(images, 2)

        def decode(self, latents):
            return torch.nn.functional.interpolate(latents, scale_factor=2)

    pixels = np.asarray(photo((7, 5)))[None]
    images, latents = send(codec(Halves()), pixels, batch=1)
    assert images.shape == (1, 5, 7, 3)
    assert latents.shape == (1, 3, 3, 4)


def test_large_images_are_scaled_down_and_small_ones_left():
    pixels = np.zeros((300, 100, 3), np.uint8)
    assert shrink(pixels, 150).shape == (150, 50, 3)
    assert shrink(pixels, 300) is pixels


@pytest.mark.faults
@pytest.mark.parametrize(
    "option", [("--max-side", "0"), ("--max-side", "-5"), ("--batch-size", "0")]
)
def test_a_size_that_no_image_can_have_is_refused_at_once(tmp_path, option):
    where = ["vae", str(tmp_path), "--vae", "reference:pale", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*where, *option])
    assert result.exit_code == 2
    assert f"Invalid value for '{option[0]}'" in result.output
    assert not (tmp_path / "run").exists()
