"""Attention: where in the image each word of a prompt was looked at, and when."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from dashboard import components, figures, galleries
from probes.contracts import Figure

run = components.view()
components.headline(
    "Attention",
    "Cross-attention of the denoiser: where each word went, and at which steps. Attention shows "
    "what was looked at, not what caused the image.",
)
mine = [e for e in run.figures if e.kind in ("heat-over-image", "strip") or e.probe == "attention"]
if not mine:
    components.empty(
        "This run followed no attention",
        "Add a probe that taps it to `probes:` in the spec (such as `attention`) and run it "
        "again. Images are the same, bit for bit, with and without the tap.",
    )
    st.stop()


def of_row(one: Figure, row: str) -> Figure:
    """One row of a figure of images; an image with a caption stands under that alone."""
    part = one.table[one.table["row"].astype(str) == row]
    words = part["caption"].astype(str)
    if one.kind == "heat-over-image":
        part = part.assign(column=words.where(words != "", part["column"]), caption="")
    return replace(one, table=part)


def lines_of(one: Figure, row: str) -> Figure:
    """The lines of one arm and prompt; all of them where none is named like the row."""
    facets = one.table.get("facet", pd.Series("", one.table.index)).astype(str)
    own = facets.map(lambda name: bool(name) and (row == name or row.startswith(f"{name} · ")))
    return replace(one, table=one.table[own].assign(facet="")) if own.any() else one


chosen = ""
# Images come first: the row that is chosen there chooses the lines below.
mine.sort(key=lambda e: e.kind != "heat-over-image")
for i, figure in enumerate(mine):
    key = f"attention {i}"
    if figure.kind in galleries.PICTURES and {"row", "column", "cell", "caption"} <= {
        *figure.table
    }:
        rows = list(dict.fromkeys(figure.table["row"].astype(str)))
        title = "Image" if figure.kind == "heat-over-image" else "Steps of"
        own = [row for row in rows if chosen and row.startswith(f"{chosen} · ")]
        if own:  # a row a word of the image that is chosen above
            words = [row.removeprefix(f"{chosen} · ") for row in own]
            word = st.selectbox("Word by stage", words, key=f"row_{i}", bind="query-params")
            row = f"{chosen} · {word}"
        else:
            row = st.selectbox(title, rows, key=f"row_{i}", bind="query-params")
        figures.figure(run, of_row(figure, row), f"{key} {row}")
        chosen = chosen or (row if figure.kind == "heat-over-image" else "")
    else:
        figures.figure(run, lines_of(figure, chosen), key)
    if i + 1 < len(mine):
        st.space("medium")
