"""`audit grid`: three axes at native size, labels whole, the settings inside, images as files."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from audit.commands.main import main
from harness.errors import SpecError
from harness.plan.cells import ARM
from reports.grids import font, wrap
from reports.native_grids import TALLEST, USER_COMMENT, choose, drawn, pages_of


def run(*arguments):
    return CliRunner().invoke(main, ["grid", *map(str, arguments)])


def plan_of(prompts, seeds, checkpoints=("a", "b")):
    rows = [
        dict.fromkeys(ARM, "none")
        | {"steps": 12, "guidance": 3.0, "width": 64, "height": 64, "vae": "own"}
        | {"checkpoint": c, "prompt": p, "seed": s, "cell": f"{c}|{p}|{s}"}
        for c in checkpoints
        for p in prompts
        for s in seeds
    ]
    return pd.DataFrame(rows)


def png(colour, size=(64, 48)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_axes_pages_and_fixed_levels_are_chosen_by_what_varies():
    axes, shown = choose(plan_of(["x", "y"], [0, 1, 2]), None, None, "seed")
    assert axes[:3] == ("prompt", "checkpoint", "seed")
    assert axes.fixed["vae"] == "own"
    assert axes.hidden == {}
    assert len(shown) == 12
    axes, shown = choose(plan_of(["x", "y"], [0, 1, 2]), None, "checkpoint", None, ["seed=2"])
    assert axes.hidden == {"seed": ["0", "1"]}
    assert {*shown["seed"]} == {2}
    pages = list(pages_of(axes, shown, order=["y"]))
    assert [p.rows for p in pages] == [["y", "x"]]
    assert pages[0].cells["y", "b"] == "b|y|2"


def test_images_keep_their_pixels_and_what_is_missing_is_a_frame():
    axes, shown = choose(plan_of(["x", "y"], [0]), None, None, None)
    (page,) = pages_of(axes, shown)
    cells = {"a|x|0": png("red"), "b|x|0": png("blue"), "a|y|0": png("lime")}
    (data,) = drawn(page, axes, "run", cells.get)
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
        held = json.loads(image.text["parameters"])
    for colour in ((255, 0, 0), (0, 0, 255), (0, 255, 0)):
        assert (pixels == colour).all(axis=2).sum() == 64 * 48
    assert held["rows"] == {"prompt": ["x", "y"]}
    assert held["cells"] == [["a|x|0", "b|x|0"], ["a|y|0", "b|y|0"]]
    (data,) = drawn(page, axes, "run", cells.get, webp=True)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "WEBP"
        comment = image.getexif().get_ifd(0x8769)[USER_COMMENT]
        again = json.loads(comment.removeprefix(b"UNICODE\0").decode("utf-16-be"))
        assert (np.asarray(image.convert("RGB")) == pixels).all()
    assert again == held


def test_labels_are_never_cut():
    long = "a portrait of " + "very " * 60 + "Donaudampfschifffahrtsgesellschaftskapitänswitwe"
    lines = wrap(long, font(15), 200, 1000, 10_000)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", long)
    assert all(font(15).getlength(line) <= 200 for line in lines)
    assert wrap(long, font(15), 200, 2)[1].endswith("…")


def test_a_page_too_tall_goes_on_in_a_second_file():
    prompts = [f"p{i}" for i in range(20)]
    axes, shown = choose(plan_of(prompts, [0]), None, None, None)
    (page,) = pages_of(axes, shown)
    parts = list(drawn(page, axes, "run", lambda cell: png("red", (1024, 1024))))
    sizes, rows = [], []
    for data in parts:
        with Image.open(io.BytesIO(data)) as image:
            sizes.append(image.size)
            rows += json.loads(image.text["parameters"])["rows"]["prompt"]
    assert len(parts) == 2
    assert max(map(max, sizes)) <= TALLEST
    assert rows == prompts
    wide, shown = choose(plan_of(["x"], range(20)), None, "seed", None)
    (page,) = pages_of(wide, shown)
    with pytest.raises(SpecError, match=r"20 columns of 1024 x 1024 pixels .* --only"):
        list(drawn(page, wide, "run", lambda cell: png("red", (1024, 1024))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "promt"], "--rows 'promt': no such factor; the nearest is 'prompt'"),
        (["--rows", "seed", "--pages", "seed"], "name another factor for each axis"),
        (["--only", "vae"], "--only 'vae': give FACTOR=LEVEL"),
        (["--only", "vae=pal"], "--only 'vae=pal': no such vae; the nearest is 'pale'"),
        (["--columns", "seed", "--only", "vae=own", "--only", "vae=pale"], "which is no axis"),
        (["--worst"], "no report to order by; run `audit report` first"),
    ],
)
def test_mistakes_are_one_line(small_audit, arguments, message):
    result = run(small_audit.run.folder, *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_a_run_s_grid_and_files(small_audit, tmp_path):
    folder = small_audit.run.folder
    result = run(folder, "--columns", "vae", "--pages", "seed", "--export", "--out", tmp_path / "g")
    assert result.exit_code == 0, result.output
    assert [p.name for p in sorted((tmp_path / "g").glob("*.png"))] == [
        f"prompt-vae-seed-{i}.png" for i in range(3)
    ]
    one = tmp_path / "g/a portrait of a doctor/pale/0.png"
    plan = small_audit.run.read_plan()
    row = plan.query("vae == 'pale' and seed == 0 and prompt == 'a portrait of a doctor'").iloc[0]
    assert one.read_bytes() == small_audit.run.image(row["unit"], row["vae_file"], row["cell"])
    assert len(list((tmp_path / "g").rglob("[0-9].png"))) == 2 * 3 * 3


def test_no_run_is_one_line(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "name the folder of a run" in result.stderr
