import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_data import BREAKOUT, SCRIPT, png

from reports.grids import (
    MAX_COLUMNS,
    MAX_ROWS,
    Place,
    file_name,
    picture,
    read_grid,
    sheet,
    thumbnail,
)

PLACE = Place("cell", "", "")


def grid(rows, columns=("row", "column", "cell", "caption")):
    return read_grid(pd.DataFrame(rows, columns=columns))


def solid(colour, size=(64, 64)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_headings_keep_their_order_and_places_their_cells():
    read = grid([("b", "y", "1", ""), ("a", "y", "2", ""), ("b", "x", "3", "note")])
    assert read.rows == ["b", "a"]
    assert read.columns == ["y", "x"]
    assert read.places["b", "x"] == ("3", "note", "")
    assert ("a", "x") not in read.places


def test_a_column_that_is_missing_is_named():
    with pytest.raises(ValueError, match="lacks column 'cell'; it has row, column"):
        grid([("a", "b")], ("row", "column"))


def test_a_sheet_shows_each_image_in_its_place():
    colours = {"red": (200, 0, 0), "blue": (0, 0, 200)}
    read = grid([("r", "left", "red", ""), ("r", "right", "blue", "")])
    pixels = np.asarray(Image.open(io.BytesIO(sheet(read, "T", lambda c: solid(colours[c])))))
    red = np.argwhere((pixels == colours["red"]).all(axis=-1))
    blue = np.argwhere((pixels == colours["blue"]).all(axis=-1))
    # 64 px images are drawn twice as large: 128 x 128 each, blue 6 px to the right of red.
    assert len(red) == len(blue) == 128 * 128
    assert blue[:, 1].min() - red[:, 1].max() == 7
    assert (red[:, 0].min(), red[:, 0].max()) == (blue[:, 0].min(), blue[:, 0].max())


def test_gaps_say_why():
    assert picture(None, png).startswith("missing: not part")
    assert picture(Place("", "", "NaN latents"), png) == "missing: NaN latents"
    assert picture(PLACE, lambda _: None) == "missing: no image in the run"
    assert picture(PLACE, lambda _: b"<svg/>").startswith("missing: not a readable PNG")
    whole = solid("red", (300, 300))
    assert picture(PLACE, lambda _: whole[: len(whole) // 2]).startswith("missing: not a readable")
    assert isinstance(picture(PLACE, lambda _: whole), Image.Image)


def test_only_png_is_opened():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")
    assert picture(PLACE, lambda _: buffer.getvalue()).startswith("missing: not a readable PNG")


def test_a_sheet_with_hostile_and_endless_headings_is_drawn():
    read = grid([(SCRIPT * 20, BREAKOUT * 20, "", "x" * 500), ("\x00\u202e", "", "c", "")])
    data = sheet(read, SCRIPT * 50, lambda _: None)
    assert Image.open(io.BytesIO(data)).width < 1000


def test_a_sheet_has_an_end():
    rows = [(f"r{i}", f"c{i % 40}", "", "") for i in range(80)]
    image = Image.open(io.BytesIO(sheet(grid(rows), "T", lambda _: None)))
    assert image.height < 110 * (MAX_ROWS + 3)
    assert image.width < 110 * (MAX_COLUMNS + 3)


def test_thumbnails_are_small_and_carry_no_text():
    image = Image.open(io.BytesIO(thumbnail(Image.new("RGB", (256, 128), "red"))))
    assert (image.format, image.size, image.info.get("parameters")) == ("WEBP", (176, 88), None)
    assert Image.open(io.BytesIO(thumbnail(Image.new("RGB", (64, 64))))).size == (64, 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "x" * 300, BREAKOUT, "nul\x00"])
def test_file_names_never_leave_their_folder(name):
    made = file_name(name)
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
    assert made.endswith(".png")
    assert not made.startswith(".")
    assert len(made) < 100
    assert ".." not in made


def test_different_ids_have_different_files():
    assert file_name("grid-1") == "grid-1.png"
    assert len({file_name(n) for n in ("a/b", "a-b", "a b", "a.b")}) == 4
