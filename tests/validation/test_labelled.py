"""A classifier of one's own on one's own labelled images: numbers that can be counted by hand."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_onnx import linear

from audit.commands.main import main
from validation.labelled import Checked, calibration_error, faked, found

ATTRIBUTE = "name: light\nclasses: [{name: bright}, {name: dark}]\ninstrument: mine\n"
SPEC = """instruments:
  mine: {onnx: light.onnx, labels: [bright, dark], cannot_tell_below: 0.6}
"""


@pytest.fixture
def folder(tmp_path):
    """Group a: 12 of 12 images of each class as labelled; group b: 4 of 12 dark ones are bright."""
    linear(
        tmp_path / "light.onnx", side=8, weights=np.array([[9, 0], [9, 9], [0, 9.0]], np.float32)
    )
    (tmp_path / "light.yaml").write_text(ATTRIBUTE)
    (tmp_path / "audit.yaml").write_text(SPEC)
    rng = np.random.default_rng(0)
    for group, wrong in (("a", 0), ("b", 4)):
        for name in ("bright", "dark"):
            place = tmp_path / "images" / group / name
            place.mkdir(parents=True)
            for i in range(12):
                bright = (name == "bright") != (name == "dark" and i < wrong)
                pixels = rng.integers(0, 30, (8, 8, 3), dtype=np.uint8)
                pixels[..., 0 if bright else 2] += 220
                Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path


def validate(folder, *more):
    arguments = ["validate", "--classifier", "mine", "--labelled", folder / "images"]
    arguments += ["--attribute", folder / "light.yaml", "--instruments", folder / "audit.yaml"]
    return CliRunner().invoke(main, [*map(str, arguments), "--out", str(folder / "out"), *more])


def test_its_errors_are_counted_by_group_and_go_into_a_spec(folder):
    result = validate(folder)
    assert result.exit_code == 0, result.output
    counts = pd.read_csv(folder / "out" / "errors.csv")
    told = counts.set_index(["true", "outcome"])["count"].to_dict()
    assert told == {("bright", "bright"): 24, ("dark", "bright"): 4, ("dark", "dark"): 20}
    assert set(counts["instrument"]) == {"mine.light"}
    assert "group b" in result.stdout
    assert "told 67% [39%, 86%]" in result.stdout  # Wilson: 8 of 12
    assert "could fake up to 33 points" in result.stdout


def test_what_is_missing_is_said_in_a_line(folder):
    (folder / "images" / "a" / "bright").rename(folder / "images" / "a" / "hell")
    (folder / "images" / "b" / "bright").rename(folder / "images" / "b" / "hell")
    for name in ("a", "b"):
        (folder / "images" / name / "dark").rename(folder / "images" / name / "dunkel")
    result = validate(folder)
    assert result.exit_code == 2
    assert "no folder is named as a class (bright, dark)" in result.output
    alone = CliRunner().invoke(main, ["validate", "--classifier", "mine"])
    assert alone.exit_code == 2
    assert "--classifier NAME and --labelled FOLDER go together" in alone.output


def made(rates, n=200):
    """Rows of groups that tell class x at rates of x and of y."""
    rows = []
    for group, (hit, false) in rates.items():
        for true, rate in (("x", hit), ("y", false)):
            told = round(n * rate)
            rows += [(group, true, "x")] * told + [(group, true, "y")] * (n - told)
    frame = pd.DataFrame(rows, columns=["group", "true", "outcome"])
    return Checked(
        "a", "i.a", frame.assign(certainty=0.9, likeliest=frame["outcome"]), 1.0, ("x", "y")
    )


def test_a_difference_that_errors_fake_is_the_larger_of_hits_and_false_alarms():
    checked = made({"one": (0.95, 0.05), "two": (0.75, 0.10)})
    (x, y) = faked(checked)
    assert x.value == pytest.approx(0.20)
    assert y.value == pytest.approx(0.20)  # of the other class it is the same images
    assert x.low < 0.20 < x.high
    # A mixture at any share differs by at most that.
    for p in np.linspace(0, 1, 11):
        assert abs(p * (0.95 - 0.75) + (1 - p) * (0.05 - 0.10)) <= 0.20 + 1e-9
    alike = faked(made({"one": (0.9, 0.1), "two": (0.9, 0.1)}))
    assert all(f.low == 0 for f in alike)
    assert faked(made({"one": (0.9, 0.1)})) == []


def test_calibration_by_hand():
    rows = pd.DataFrame({
        "true": ["x", "x", "y", "y"],
        "likeliest": ["x", "x", "x", "y"],
        "certainty": [0.95, 0.95, 0.95, 0.55],
    })  # fmt: skip
    # .75 of the images at .95, of which 2/3 are right; .25 at .55, all right.
    assert calibration_error(rows) == pytest.approx(0.75 * abs(2 / 3 - 0.95) + 0.25 * 0.45)
    checked = made({"one": (0.9, 0.1)})
    assert found(checked.rows, "x").value == pytest.approx(0.9)
