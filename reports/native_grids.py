"""Grids at native size: three factors as rows, columns and pages, nothing scaled, no label cut.

A page is a PNG or WebP that carries what it shows (factors, fixed levels, cell ids) in its
metadata. A page that would be too tall for viewers goes on in a second file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from PIL import Image, ImageDraw, PngImagePlugin

from harness.errors import SpecError
from harness.images.stored import UnreadableImageError, opened
from harness.text import nearest
from reports.grids import GAP, HOLE, INK, LINE, MARGIN, MUTED, PAPER, font, wrap
from reports.image_grids import FACTORS

LABEL, MOST_LINES, LETTERS = 220, 1000, 10_000
TALLEST, MOST_PIXELS = 16_000, 160_000_000
"""Pixels of a page's longer side (WebP ends at 16,383) and of all of it."""
LINE_HEIGHT = 20
USER_COMMENT = 0x9286
"""The EXIF tag that A1111 keeps settings of a WebP in."""


class Axes(NamedTuple):
    """Which factor is laid out where, and which level the others have.

    Attributes:
        rows, columns: names of factors.
        pages: a factor, or '' for one page.
        fixed: level by factor of all others.
        hidden: levels that are not shown, by factor: those beside the fixed one.
    """

    rows: str
    columns: str
    pages: str
    fixed: dict[str, str]
    hidden: dict[str, list[str]]

    def title(self, page: str) -> str:
        """What a page shows, in words."""
        fixed = [f"{k} {v}" for k, v in self.fixed.items()]
        own = [f"{self.pages} {page}"] if self.pages else []
        return f"{self.rows} by {self.columns}: " + ", ".join([*own, *fixed])


class Page(NamedTuple):
    """One page: the level that it is of, and its cells by row and column, in order."""

    name: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], str]


def choose(
    plan: pd.DataFrame,
    rows: str | None,
    columns: str | None,
    pages: str | None,
    only: Sequence[str] = (),
) -> tuple[Axes, pd.DataFrame]:
    """Name the axes of a grid and the cells that it shows.

    Args:
        plan: The plan.
        rows: Factor of the rows; None: the prompt.
        columns: Factor of the columns; None: the first that varies and is not used.
        pages: Factor of the pages; None: one page.
        only: 'FACTOR=LEVEL': levels that are shown; several of one factor are all shown where it
            is an axis.

    Returns:
        The axes, and the plan's rows that they show.

    Raises:
        SpecError: A factor or level that is not there, or a factor named twice.
    """
    varying = [f for f in FACTORS if plan[f].nunique() > 1]
    rows = rows or "prompt"
    free = [f for f in (*varying[2:], *varying[:2], *FACTORS) if f not in (rows, pages)]
    columns = columns or free[0]
    named = [
        (f"--{n}", f) for n, f in (("rows", rows), ("columns", columns), ("pages", pages)) if f
    ]
    for option, factor in named:
        if factor not in FACTORS:
            raise SpecError(f"{option} {factor!r}: no such factor; {nearest(factor, FACTORS)}")
    used = [factor for _, factor in named]
    if len(set(used)) < len(used):
        raise SpecError(f"{' and '.join(used)}: name another factor for each axis")
    wanted: dict[str, list[str]] = {}
    for text in only:
        factor, equals, level = (part.strip() for part in text.partition("="))
        if not equals or factor not in FACTORS:
            raise SpecError(f"--only {text!r}: give FACTOR=LEVEL; factors: {', '.join(FACTORS)}")
        known = list(dict.fromkeys(plan[factor].astype(str)))
        if level not in known:
            raise SpecError(f"--only {text!r}: no such {factor}; {nearest(level, known)}")
        wanted.setdefault(factor, []).append(level)
    shown = plan
    fixed: dict[str, str] = {}
    hidden: dict[str, list[str]] = {}
    for factor in FACTORS:
        levels = list(dict.fromkeys(shown[factor].astype(str)))
        keep = wanted.get(factor) or (levels if factor in used else levels[:1])
        shown = shown[shown[factor].astype(str).isin(keep)]
        if factor in used:
            continue
        if len(keep) > 1:
            raise SpecError(f"--only: {len(keep)} levels of {factor}, which is no axis; name one")
        fixed[factor] = keep[0]
        others = [v for v in levels if v != keep[0]]
        if others:
            hidden[factor] = others
    # A copy of a VAE has the cells of the first: each name keeps its place.
    shown = shown.drop_duplicates(list(FACTORS))
    return Axes(rows, columns, pages or "", fixed, hidden), shown


def pages_of(axes: Axes, shown: pd.DataFrame, order: Sequence[str] = ()) -> Iterator[Page]:
    """The pages, one a level of the pages' factor.

    Args:
        axes: The axes.
        shown: Rows of the plan that they show.
        order: Levels of the rows or columns that come first, the worst first.
    """
    place = {name: i for i, name in enumerate(order)}
    names = shown[axes.pages].astype(str) if axes.pages else pd.Series("", index=shown.index)
    for name, part in shown.groupby(names, sort=False):
        rows, columns = (
            sorted(
                dict.fromkeys(part[factor].astype(str)),
                key=lambda level: place.get(level, len(place)),
            )
            for factor in (axes.rows, axes.columns)
        )
        cells: dict[tuple[str, str], str] = {}
        for row in part.itertuples():
            key = (str(getattr(row, axes.rows)), str(getattr(row, axes.columns)))
            cells.setdefault(key, str(row.cell))
        yield Page(str(name), rows, columns, cells)


def drawn(
    page: Page, axes: Axes, run: str, images: Callable[[str], bytes | None], webp: bool = False
) -> Iterator[bytes]:
    """A page as one or several files, each below `TALLEST` and `MOST_PIXELS`.

    Args:
        page: What stands where.
        axes: What it shows, for the title.
        run: Name of the run, for the metadata.
        images: PNG bytes of a cell; None where there is none.
        webp: Whether to write WebP (lossless) instead of PNG.

    Raises:
        SpecError: One row is larger than a page may be.
    """
    first = next((opened(data) for c in page.cells.values() if (data := _read(images, c))), None)
    side = first.size if first else (96, 96)
    head = [wrap(c, font(15), side[0], MOST_LINES, LETTERS) for c in page.columns]
    width = 2 * MARGIN + LABEL + len(page.columns) * (side[0] + GAP)
    words = wrap(axes.title(page.name), font(20), width - 2 * MARGIN, MOST_LINES, LETTERS)
    top = MARGIN + 28 * len(words) + LINE_HEIGHT * max(map(len, head), default=1) + 2 * GAP
    labels = {r: wrap(r, font(15), LABEL - 2 * GAP, MOST_LINES, LETTERS) for r in page.rows}
    heights = {r: max(side[1], LINE_HEIGHT * len(labels[r])) + GAP for r in page.rows}
    if width > TALLEST or max(heights.values(), default=0) + top > TALLEST:
        raise SpecError(
            f"{len(page.columns)} columns of {side[0]} x {side[1]} pixels are {width:,} pixels "
            f"wide; at most {TALLEST:,}: name fewer with --only, or make them --rows"
        )
    parts: list[list[str]] = [[]]
    used = top
    for row in page.rows:
        tall = used + heights[row] + MARGIN
        if parts[-1] and (tall > TALLEST or tall * width > MOST_PIXELS):
            parts.append([])
            used = top
        parts[-1].append(row)
        used += heights[row]
    for rows in parts:
        out = Image.new("RGB", (width, top + sum(heights[r] for r in rows) + MARGIN), PAPER)
        draw = ImageDraw.Draw(out)
        draw.multiline_text((MARGIN, MARGIN), "\n".join(words), INK, font(20), spacing=6)
        for i, lines in enumerate(head):
            at = (MARGIN + LABEL + i * (side[0] + GAP), top - LINE_HEIGHT * len(lines) - GAP)
            draw.multiline_text(at, "\n".join(lines), INK, font(15))
        y = top
        for row in rows:
            draw.multiline_text((MARGIN, y + 2), "\n".join(labels[row]), INK, font(15))
            for i, column in enumerate(page.columns):
                x = MARGIN + LABEL + i * (side[0] + GAP)
                _put(out, draw, _read(images, page.cells.get((row, column), "")), (x, y), side)
            y += heights[row]
        yield _encoded(out, _facts(page, axes, run, rows), webp)


def _read(images: Callable[[str], bytes | None], cell: str) -> bytes | None:
    return images(cell) if cell else None


def _put(
    out: Image.Image,
    draw: ImageDraw.ImageDraw,
    data: bytes | None,
    corner: tuple[int, int],
    side: tuple[int, int],
) -> None:
    try:
        image = opened(data) if data else None
        why = "missing: no image in the run"
    except UnreadableImageError as error:
        image, why = None, f"missing: {error}"
    if image is None:
        x, y = corner
        draw.rectangle((x, y, x + side[0] - 1, y + side[1] - 1), HOLE, LINE)
        lines = wrap(why, font(12), side[0] - 16, max(1, (side[1] - 16) // 16))
        draw.multiline_text((x + 8, y + 8), "\n".join(lines), MUTED, font(12))
        return
    if image.width > side[0] or image.height > side[1]:  # of another size than the first
        image.thumbnail(side, Image.Resampling.LANCZOS)
    out.paste(image, corner)


def _facts(page: Page, axes: Axes, run: str, rows: Sequence[str]) -> str:
    cells = [[page.cells.get((r, c), "") for c in page.columns] for r in rows]
    return json.dumps(
        {"run": run, "rows": {axes.rows: list(rows)}, "columns": {axes.columns: page.columns}}
        | ({"page": {axes.pages: page.name}} if axes.pages else {})
        | {"fixed": axes.fixed, "cells": cells},
        ensure_ascii=False,
    )


def _encoded(image: Image.Image, facts: str, webp: bool) -> bytes:
    buffer = io.BytesIO()
    if webp:
        exif = Image.Exif()
        exif.get_ifd(0x8769)[USER_COMMENT] = b"UNICODE\0" + facts.encode("utf-16-be")
        image.save(buffer, "WEBP", lossless=True, method=4, exif=exif)
    else:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("parameters", facts)
        image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
