"""Labelled X/Y grids of images: one PNG sheet a grid, and thumbnails for the page.

Any two factors: the figure's table says which cell stands in which row and column. An image
that is not there is drawn as a frame that says why, so that a grid never closes up over a gap.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from harness.images.stored import UnreadableImageError, opened
from probes.contracts import Figure
from reports.text import clip

Images = Callable[[str], bytes | None]

MAX_ROWS, MAX_COLUMNS = 60, 24
"""Of a sheet: 60 x 24 images of 256 px are 94 million pixels at most."""
SHEET_SIDES = (96, 256)
"""Smallest and largest side of an image on a sheet, px."""
THUMBNAIL = 176
MARGIN, GAP, SIDE_LABEL = 24, 6, 200
INK, MUTED, LINE, PAPER, HOLE = "#1c2128", "#5c6570", "#c9ced6", "#ffffff", "#f4f5f7"


class Place(NamedTuple):
    """One place of a grid: the cell that stands there, a word on it, and why it may be empty."""

    cell: str
    caption: str
    reason: str


class Grid(NamedTuple):
    """A grid with its headings.

    Attributes:
        rows, columns: headings, in the order of first appearance.
        places: by (row, column); the first one where the table has several.
    """

    rows: list[str]
    columns: list[str]
    places: dict[tuple[str, str], Place]


def is_grid(figure: Figure) -> bool:
    """Whether a figure is drawn as a grid: heat maps and strips are, where they name cells."""
    named = {"row", "column", "cell"} <= set(figure.table.columns)
    return figure.kind == "grid" or (figure.kind in ("heat-over-image", "strip") and named)


def read_grid(table: pd.DataFrame) -> Grid:
    """Read a figure's table: columns row, column, cell and optionally caption and reason.

    Raises:
        ValueError: a column is missing.
    """
    for column in ("row", "column", "cell"):
        if column not in table:
            have = ", ".join(map(str, table.columns))
            raise ValueError(f"a grid's table lacks column '{column}'; it has {have}")
    places: dict[tuple[str, str], Place] = {}
    for record in table.to_dict("records"):
        key = (_text(record["row"]), _text(record["column"]))
        words = (_text(record.get("caption")), _text(record.get("reason")))
        places.setdefault(key, Place(_text(record["cell"]), *words))
    rows = list(dict.fromkeys(r for r, _ in places))
    columns = list(dict.fromkeys(c for _, c in places))
    return Grid(rows, columns, places)


def file_name(figure_id: str) -> str:
    """A safe file name of a figure's id: plain ids as they are, others with their digest."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", figure_id).strip("-")[:80]
    if plain and plain == figure_id:
        return f"{plain}.png"
    return f"{plain or 'grid'}-{hashlib.sha256(figure_id.encode()).hexdigest()[:8]}.png"


def picture(place: Place | None, images: Images) -> Image.Image | str:
    """The image at a place, or the reason why there is none: 'missing: …'.

    Returns:
        RGB, at most 256 px a side, so that a large grid fits into memory.
    """
    if place is None:
        return "missing: not part of this grid"
    data = images(place.cell) if place.cell else None
    if data is None:
        return f"missing: {place.reason or 'no image in the run'}"
    try:
        image = opened(data)
    except UnreadableImageError as error:
        return f"missing: {clip(error, 100)}"
    image.thumbnail((SHEET_SIDES[1], SHEET_SIDES[1]), Image.Resampling.LANCZOS)
    return image


def thumbnail(image: Image.Image) -> bytes:
    """A WebP of at most 176 px a side; smaller images keep their size."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()


def sheet(grid: Grid, title: str, images: Images) -> bytes:
    """The whole grid as one labelled PNG on white; at most 60 rows and 24 columns."""
    rows, columns = grid.rows[:MAX_ROWS], grid.columns[:MAX_COLUMNS]
    pictures = {(r, c): picture(grid.places.get((r, c)), images) for r in rows for c in columns}
    side = _side([p for p in pictures.values() if isinstance(p, Image.Image)])
    label, head = font(15), font(20)
    headings = [wrap(c, label, side, 3) for c in columns]
    heading = 20 * max((len(h) for h in headings), default=1) + GAP
    tiny = font(12)
    captions = {k: wrap(p.caption, tiny, side, 2) for k, p in grid.places.items() if p.caption}
    pitch = side + GAP + 16 * max((len(lines) for lines in captions.values()), default=0)
    width = 2 * MARGIN + SIDE_LABEL + len(columns) * (side + GAP)
    words = wrap(title, head, width - 2 * MARGIN, 3)
    left_out = _left_out(grid)
    words += [left_out] if left_out else []
    top = MARGIN + 28 * len(words) + MARGIN // 2 + heading
    out = Image.new("RGB", (width, top + len(rows) * pitch + MARGIN), PAPER)
    draw = ImageDraw.Draw(out)
    draw.multiline_text((MARGIN, MARGIN), "\n".join(words), INK, head, spacing=6)
    for i, lines in enumerate(headings):
        x = MARGIN + SIDE_LABEL + i * (side + GAP)
        draw.multiline_text((x, top - 20 * len(lines) - GAP), "\n".join(lines), INK, label)
    for j, row in enumerate(rows):
        y = top + j * pitch
        lines = wrap(row, label, SIDE_LABEL - 2 * GAP, max(1, side // 20))
        draw.multiline_text((MARGIN, y + 2), "\n".join(lines), INK, label)
        for i, column in enumerate(columns):
            corner = (MARGIN + SIDE_LABEL + i * (side + GAP), y)
            _place(out, draw, pictures[row, column], corner, side)
            below = "\n".join(captions.get((row, column), []))
            draw.multiline_text((corner[0], y + side + 3), below, MUTED, tiny, spacing=2)
    buffer = io.BytesIO()
    out.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _place(
    out: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: Image.Image | str,
    corner: tuple[int, int],
    side: int,
) -> None:
    x, y = corner
    if isinstance(image, str):
        draw.rectangle((x, y, x + side - 1, y + side - 1), HOLE, LINE)
        lines = wrap(image, font(12), side - 16, max(1, (side - 16) // 16))
        draw.multiline_text((x + 8, y + 8), "\n".join(lines), MUTED, font(12))
        return
    # Whole multiples of small images keep their pixels square and sharp.
    factor = side / max(image.size)
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    out.paste(image.resize(size, how), corner)


def _side(images: list[Image.Image]) -> int:
    longest = max((max(i.size) for i in images), default=SHEET_SIDES[0])
    if longest < SHEET_SIDES[0]:
        return longest * -(-SHEET_SIDES[0] // longest)
    return longest


def _left_out(grid: Grid) -> str:
    if len(grid.rows) <= MAX_ROWS and len(grid.columns) <= MAX_COLUMNS:
        return ""
    shown = f"{min(len(grid.rows), MAX_ROWS)} of {len(grid.rows)} rows"
    return f"First {shown}, {min(len(grid.columns), MAX_COLUMNS)} of {len(grid.columns)} columns."


def wrap(
    text: str, face: ImageFont.FreeTypeFont, width: int, lines: int, letters: int = 400
) -> list[str]:
    """Break text at blanks, and inside words where it must be, into lines that fit.

    Args:
        text: Any text.
        face: What it is set in.
        width: Pixels of a line.
        lines: Lines at most; the last ends in '…' where there would be more.
        letters: Letters at most.
    """
    out = [""]
    for word in re.findall(r"\S+\s*", clip(text, letters)):
        rest = word
        if out[-1] and face.getlength((out[-1] + word).rstrip()) > width:
            out.append("")
        while rest:
            room = len(rest)
            while room > 1 and face.getlength((out[-1] + rest[:room]).rstrip()) > width:
                room -= 1
            out[-1] += rest[:room]
            rest = rest[room:]
            if rest:
                out.append("")
    if len(out) > lines:
        last = out[lines - 1].rstrip()
        while len(last) > 1 and face.getlength(last + "…") > width:
            last = last[:-1]
        out = [*out[: lines - 1], last + "…"]
    return [line.rstrip() for line in out]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own typeface in a size of pixels."""
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return face


def _text(value: object) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)
