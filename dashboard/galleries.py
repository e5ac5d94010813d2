"""Images of a run in lines that wrap, each with a caption that opens its history."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.escaping import count, plain
from dashboard.images import crisp
from dashboard.queries import RunView
from harness.images.image_ref import read_ref
from probes.contracts import Figure
from reports.grids import read_grid

SIDE = 176
GRID_ROWS, GRID_COLUMNS = 12, 12
PICTURES = ("grid", "heat-over-image", "strip")
"""Kinds of figures that are images in rows and columns."""


def frame(png: bytes | None, width: int, alt: str, why: str = "no image in the run") -> None:
    """One image, or a frame that says why there is none."""
    data = crisp(png, 2 * width if width > SIDE else SIDE) if png else b""
    if data:
        st.image(data, width=width, alt=alt)
    else:
        with st.container(border=True, width=width, height=width):
            st.caption(plain(f"missing: {why}", 90))


def gallery(
    run: RunView, cells: Sequence[str], captions: Sequence[str], key: str, width: int = 132
) -> None:
    """Images in lines that wrap; a caption opens its image's history."""
    pictures = run.images(cells)
    with st.container(horizontal=True, gap="small", key=f"gallery-{abs(hash(key))}"):
        for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
            with st.container(width=width, gap="xxsmall"):
                frame(pictures.get(cell), width, caption or "a picture of the run")
                image_button(cell, caption, f"{key} {i}")


def image_button(cell: str, caption: str, key: str) -> None:
    """A caption that opens the image it stands under."""
    own = read_ref(cell).cell  # the image that was changed, or under a map
    if len(own) == 64:
        st.button(
            plain(caption or own[:12], 44),
            key=f"open {key}",
            type="tertiary",
            on_click=open_image,
            args=(own,),
            help="How this image was made",
            wrap=True,
        )
    elif caption:
        st.caption(plain(caption, 60))


def grid(run: RunView, one: Figure, key: str) -> None:
    """Images in rows and columns: a line a row, each image under its column's name."""
    held = read_grid(one.table)
    columns = held.columns[:GRID_COLUMNS]
    for i, row in enumerate(held.rows[:GRID_ROWS]):
        st.markdown(plain(row, 160))
        places = [(c, held.places[row, c]) for c in columns if (row, c) in held.places]
        captions = [" · ".join(t for t in (c, p.caption) if t) for c, p in places]
        gallery(run, [p.cell for _, p in places], captions, f"{key} {i}")
    left = len(held.rows) * len(held.columns) - min(len(held.rows), GRID_ROWS) * len(columns)
    if left > 0:
        st.caption(f"More in the data: {count(left, 'place')}.")


def open_image(cell: str) -> None:
    """Have the dialog show an image."""
    st.query_params["cell"] = cell
