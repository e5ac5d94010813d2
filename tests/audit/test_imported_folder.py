"""A folder of images: copies, pairs, masks, links, names, and what is said of what is not read."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from audit.commands.main import main
from audit.pipeline.imported_images import given_audit, store_images
from audit.pipeline.plan import begin
from audit.pipeline.round_trip_inputs import images_of_folder
from harness.images.folder import GivenError, read_folder, warnings_of
from harness.images.pixels import readable
from harness.store.run import Run
from reference.world import GENDERS, ROLES, TONES, Person, picture
from reports.image_grids import grid_figures

pytestmark = pytest.mark.faults

SCORE = ["--attribute", "world-gender", "--classifier", "reference:balanced"]
PEOPLE = [Person(r, g, t, "noto") for r in ROLES[:3] for g in GENDERS for t in TONES[:4]]


def image(i: int) -> Image.Image:
    return Image.fromarray(picture(PEOPLE[i]))


def command(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def imported(folder: Path, csv: Path | None, out: Path, said: list[str]):
    return given_audit(folder, csv, out, ["world-gender"], ["reference:balanced"], said.append)


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows))
    return path


# --- copies ---


def copies(source: Image.Image, stem: Path) -> None:
    """Eight files of the same pixels."""
    source.save(stem.with_name(f"{stem.name}-0.png"))
    shutil.copy(stem.with_name(f"{stem.name}-0.png"), stem.with_name(f"{stem.name}-1.png"))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "another file")
    source.save(stem.with_name(f"{stem.name}-2.png"), pnginfo=text, compress_level=1)
    source.save(stem.with_name(f"{stem.name}-3.webp"), lossless=True)
    source.save(stem.with_name(f"{stem.name}-4.bmp"))
    source.save(stem.with_name(f"{stem.name}-5.tiff"))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side, shown upright
    source.transpose(Image.Transpose.ROTATE_90).save(
        stem.with_name(f"{stem.name}-6.png"), exif=exif
    )
    source.convert("RGBA").save(stem.with_name(f"{stem.name}-7.png"))


def findings(run: Path) -> list:
    """All that is said, numbers to six digits: other batches have other last bits."""
    report = json.loads((run / "report" / "report.json").read_text())
    keys = ("id", "value", "low", "high", "p", "n", "n_clusters", "note")
    return [
        [f"{f[k]:.5f}" if isinstance(f[k], float) else f[k] for k in keys]
        for f in report["findings"]
    ]


def test_twenty_four_images_eight_times_are_twenty_four_images(tmp_path):
    once, often = tmp_path / "once", tmp_path / "often"
    once.mkdir()
    often.mkdir()
    rows = ["file,prompt,world-gender"]
    for i, person in enumerate(PEOPLE):
        image(i).save(once / f"{i:02}-0.png")
        copies(image(i), often / f"{i:02}")
        # One copy has the label, another the prompt's spelling.
        rows += [
            f"{f.name},a portrait,{person.gender if f.stem.endswith('-5') else ''}"
            for f in sorted(often.glob(f"{i:02}-*"))
        ]
    labels = table(tmp_path / "often.csv", *rows)
    plain = [f"{i:02}-0.png,a portrait,{p.gender}" for i, p in enumerate(PEOPLE)]
    single = table(tmp_path / "once.csv", "file,prompt,world-gender", *plain)
    a = command("score", once, "--csv", single, "--out", tmp_path / "a", *SCORE)
    b = command("score", often, "--csv", labels, "--out", tmp_path / "b", *SCORE)
    assert (a.exit_code, b.exit_code) == (0, 0), (a.stderr, b.stderr)
    assert "168 of 192 files are copies" in b.stderr
    assert "24 images are counted" in b.stderr
    assert "copies" not in a.stderr
    assert findings(tmp_path / "b") == findings(tmp_path / "a")
    for run in (tmp_path / "a", tmp_path / "b"):
        assert len(Run(run).read_plan()) == 24
        assert len(Run(run).labels()) == 24
    again = command("score", often, "--csv", labels, "--out", tmp_path / "b", *SCORE)
    assert "168 of 192 files are copies" in again.stderr
    assert len(Run(tmp_path / "b").read_plan()) == 24


def test_copies_under_other_prompts_and_models_stay_apart_and_conflicts_are_said(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abcd":
        image(0).save(folder / f"{name}.png")
    Image.new("RGB", (64, 32), "white").save(folder / "flat.png")
    Image.new("RGB", (32, 64), "white").save(folder / "tall.png")
    rows = (
        "file,prompt,model,world-gender",
        *("a.png,p,x,man", "b.png,p,x,woman", "c.png,q,x,man", "d.png,p,y,man"),
        *("flat.png,p,x,", "tall.png,p,x,"),
    )
    said: list[str] = []
    found = imported(folder, table(tmp_path / "t.csv", *rows), tmp_path / "run", said)
    begin(found.audit, found.plan, found.provenance)
    plan = store_images(found, said.append)
    assert sorted(zip(plan["checkpoint"], plan["prompt"], strict=True)) == [
        ("x", "p"),
        ("x", "p"),
        ("x", "p"),
        ("x", "q"),
        ("y", "p"),
    ]
    assert plan.groupby("prompt")["cell"].nunique().to_dict() == {"p": 3, "q": 1}
    assert any("1 of 6 files are copies" in line for line in said)
    assert any("1 copies have another label" in line and "b.png" in line for line in said)


# --- pairs ---


def arms(folder: Path, first: int, second: int, pairs: bool) -> Path:
    folder.mkdir()
    rows = ["file,prompt,model,pair"]
    for i in range(first + second):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
        arm, number = ("x", i) if i < first else ("y", i - first)
        rows.append(f"{i:03}.png,a portrait,{arm},{number if pairs and number % 2 else ''}")
    return table(folder.parent / f"{folder.name}.csv", *rows)


@pytest.mark.parametrize("pairs", [False, True])
def test_only_a_column_pairs_imported_images(tmp_path, pairs):
    csv = arms(tmp_path / "images", 12, 5, pairs)
    plan = imported(tmp_path / "images", csv, tmp_path / "run", []).plan
    x, y = (set(plan.loc[plan["checkpoint"] == arm, "seed"]) for arm in "xy")
    assert len(x) == 12
    assert len(y) == 5
    assert len(x & y) == (2 if pairs else 0)
    assert plan["pair"].ne("").sum() == (8 if pairs else 0)
    if pairs:
        shared = plan[plan["seed"].isin(x & y)].groupby("pair")["checkpoint"].agg(sorted)
        assert shared.to_dict() == {"1": ["x", "y"], "3": ["x", "y"]}


def test_two_runs_share_seeds_only_for_the_same_file(tmp_path):
    csv = arms(tmp_path / "one", 4, 0, False)
    one = imported(tmp_path / "one", csv, tmp_path / "a", []).plan
    csv = arms(tmp_path / "two", 6, 0, False)
    (tmp_path / "two" / "000.png").unlink()
    csv.write_text(csv.read_text().replace("000.png,a portrait,x,\n", ""))
    two = imported(tmp_path / "two", csv, tmp_path / "b", []).plan
    both = one.merge(two, on=["prompt", "seed"])
    assert (both["cell_x"] == both["cell_y"]).all()
    assert len(both) == 3


def test_a_pair_is_one_image_of_each_model(tmp_path):
    csv = arms(tmp_path / "images", 2, 0, False)
    rows = ("file,prompt,pair", "000.png,a,1", "001.png,a,1")
    csv = table(tmp_path / "t.csv", *rows)
    with pytest.raises(GivenError, match=r"pair '1' is given to '000.png' and '001.png'"):
        imported(tmp_path / "images", csv, tmp_path / "run", [])


def test_grids_of_imported_images_show_every_model(tmp_path):
    csv = arms(tmp_path / "images", 3, 3, False)
    plan = imported(tmp_path / "images", csv, tmp_path / "run", []).plan
    grid = grid_figures(plan)[0]
    assert grid.table["column"].tolist() == ["x", "y"]
    assert "noise" not in grid.caption


# --- masks ---


def test_what_a_table_names_as_mask_is_no_image(tmp_path):
    folder = tmp_path / "images"
    (folder / "masks").mkdir(parents=True)
    rows = ["file,prompt,mask"]
    for i in range(3):
        image(i).save(folder / f"{i}.png")
        Image.new("L", (64, 64), 255).save(folder / "masks" / f"{i}.png")
        rows.append(f"{i}.png,a portrait,masks/{i}.png")
    csv = table(tmp_path / "t.csv", *rows)
    found = read_folder(folder, csv)
    assert [i.name for i in found.images] == ["0.png", "1.png", "2.png"]
    assert [i.mask for i in found.images] == [folder / "masks" / f"{i}.png" for i in range(3)]
    sent = images_of_folder(folder, csv, [], print)
    assert len(sent) == 3
    assert all(p.mask().shape == (64, 64, 3) for p in sent)
    assert len(read_folder(folder).images) == 6  # without a table nobody knows


@pytest.mark.parametrize("mask", ["../secret.png", "/etc/hostname", "link.png", "nowhere.png"])
def test_masks_come_from_the_folder_alone(tmp_path, mask):
    folder = tmp_path / "images"
    folder.mkdir()
    image(0).save(folder / "0.png")
    image(1).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    csv = table(tmp_path / "t.csv", "file,prompt,mask", f"0.png,a,{mask}")
    with pytest.raises(GivenError, match="no mask"):
        read_folder(folder, csv)


def test_a_mask_that_is_no_image_is_refused_before_anything_is_copied(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    image(0).save(folder / "0.png")
    (folder / "m.png").write_bytes(b"no image")
    csv = table(tmp_path / "t.csv", "file,prompt,mask", "0.png,a,m.png")
    result = command("score", folder, "--csv", csv, "--out", tmp_path / "run", *SCORE)
    assert result.exit_code == 2
    assert "the mask of '0.png' cannot be read" in result.stderr
    assert not (tmp_path / "run").exists()


# --- what lies in a folder ---


def test_what_is_passed_over_is_counted_by_kind(tmp_path):
    folder, other = tmp_path / "images", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    image(0).save(folder / "0.png")
    image(1).save(other / "1.png")
    (folder / "linked").symlink_to(other, target_is_directory=True)
    (folder / "file.png").symlink_to(other / "1.png")
    (folder / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.png")
    for name in ("a.jxl", "b.JXL", "c.txt", ".hidden.png", "noend"):
        (folder / name).write_bytes(b"x")
    found = read_folder(folder)
    assert [i.name for i in found.images] == ["0.png"]
    assert dict(found.passed) == {
        "folders that are links": 2,
        "broken links": 1,
        "files that are links": 1,
        "special files": 1,
        ".jxl": 2,
        ".txt": 1,
        "files without a suffix": 1,
    }
    assert "2 folders that are links" in warnings_of(found)[-1]
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "linked").symlink_to(other, target_is_directory=True)
    with pytest.raises(GivenError, match=r"no images .*there are 1 folders that are links"):
        read_folder(folder)


def test_heic_is_read_or_said_how(tmp_path):
    image(0).save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"no image")
    found = read_folder(tmp_path)
    if ".heic" in readable():
        assert [i.name for i in found.images] == ["a.png", "b.heic"]
    else:
        assert found.passed == {".heic (read with pip install 'diffusion-audit[heif]')": 1}


def test_avif_and_odd_suffixes_are_images(tmp_path):
    for name in ("a.avif", "b.jfif", "c.JPE"):
        image(0).save(tmp_path / name, "AVIF" if name == "a.avif" else "JPEG")
    assert [i.header.size for i in read_folder(tmp_path).images] == [(64, 64)] * 3


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_names_with_accents_match_however_they_are_composed(tmp_path, on_disk, in_table):
    folder = tmp_path / "images"
    folder.mkdir()
    image(0).save(folder / unicodedata.normalize(on_disk, "Zürich é.png"))
    name = unicodedata.normalize(in_table, "Zürich é.png")
    csv = table(tmp_path / "t.csv", "file,prompt", f"{name},a")
    assert [i.prompt for i in read_folder(folder, csv).images] == ["a"]


def test_an_unknown_classifier_is_refused_before_anything_is_copied(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    image(0).save(folder / "0.png")
    arguments = ("score", folder, "--out", tmp_path / "run", "--attribute", "world-gender")
    result = command(*arguments, "--classifier", "reference:nobody")
    assert result.exit_code == 2
    assert "nobody" in result.stderr
    assert not (tmp_path / "run").exists()
