"""One image: beside its siblings, what was told of it, and how it was made."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard.escaping import plain
from dashboard.galleries import frame, open_image
from dashboard.image_viewer import viewer
from dashboard.images import parameters
from dashboard.outcomes import Reading, readings, told
from dashboard.queries import RunView
from harness.images.image_ref import ImageRef
from harness.plan.cells import FACTS
from reports.tables import show as short

NAMES = {
    "text": "as encoded",
    "negative_text": "negative",
    "noise": "seed of the noise",
    "vae": "VAE",
}


def _close() -> None:
    st.query_params.pop("cell", None)


@st.dialog("One image", width="large", on_dismiss=_close)
def _history(run: RunView) -> None:
    # A dialog runs alone: the image is looked up here, so that 'next' shows another.
    row = run.cell(st.query_params.get("cell", ""))
    if row is None:
        return
    cell = str(row["cell"])
    _steps(run, row)
    others = run.siblings(row)
    others = others[others["cell"] != cell]
    names = {str(r["cell"]): str(r["arm"]) for _, r in others.iterrows()}
    st.markdown(f"**{plain(row['prompt'], 300)}**")
    beside = None
    if names:
        beside = st.selectbox(
            "Beside it: the same prompt and seed with",
            list(names),
            format_func=lambda c: names[c],
            key=f"beside {cell}",
        )
    changed = str(ImageRef(beside, minus=cell)) if beside else ""
    pictures = run.images([c for c in (cell, beside, changed) if c])
    shown = {str(row["arm"]): pictures.get(cell)}
    if beside:
        shown[names[beside]] = pictures.get(beside)
    viewer({name: png for name, png in shown.items() if png}, cell)
    if cell in pictures:
        st.download_button(
            "Download",
            pictures[cell],
            f"{cell[:16]}.png",
            "image/png",
            type="tertiary",
            icon=":material/download:",
            on_click="ignore",
            key=f"download {cell}",
        )
    if beside:
        frame(pictures.get(changed), 216, "What changed between the two")
        st.caption("What changed, 8\u00a0×")
    lines = [_outcome_line(run, r, cell) for r in readings(run)]
    if lines:
        st.markdown("  \n".join(lines))
    facts = {NAMES.get(k, k): short(row[k]) for k in (*FACTS, "kind") if str(row[k])}
    facts["seed of the noise"] = str(row["noise"])
    st.markdown("**How it was made**")
    st.dataframe(
        pd.DataFrame(facts.items(), columns=["what", "value"]),
        hide_index=True,
        height="content",
        key=f"facts {cell}",
    )
    st.markdown("**Make it again, bit by bit**")
    st.code(f"audit show {quoted(run.folder)} {cell[:16]} --again", language=None, wrap_lines=True)
    text = parameters(pictures.get(cell))
    st.markdown("**Settings for the WebUI or ComfyUI** (their noise source differs)")
    if text:
        st.code(text, language=None, wrap_lines=True)
    else:
        st.caption("This image carries no parameters.")
    st.caption(f"cell {cell}")


def show_history(run: RunView) -> None:
    """The dialog of the image that the address names."""
    cell = st.query_params.get("cell")
    if not cell:
        return
    if run.cell(cell) is None:
        st.warning(f"No image of this run has the id {plain(cell, 70)}.")
    else:
        _history(run)


def _steps(run: RunView, row: pd.Series) -> None:
    """Buttons to the images before and after this one among its arm's."""
    with st.container(horizontal=True, gap="small"):
        for cell, name, sign, key in zip(
            run.neighbours(row),
            ("Previous", "Next"),
            (":material/arrow_back:", ":material/arrow_forward:"),
            ("P", "N"),
            strict=True,
        ):
            st.button(
                name,
                icon=sign,
                shortcut=key,
                disabled=not cell,
                on_click=open_image,
                args=(cell,),
                key=f"{name} image",
            )


def quoted(path: Path) -> str:
    """A run's path as a shell takes it, from the working directory; never an absolute one."""
    here = Path.cwd()
    inside = path.relative_to(here) if path.is_relative_to(here) else Path(path.name)
    return shlex.quote(str(inside))


def _outcome_line(run: RunView, reading: Reading, cell: str) -> str:
    rows = run.sql(
        f"SELECT outcome, certainty FROM {told(run, reading)} WHERE cell = ? LIMIT 1", [cell]
    )
    about = f"{plain(reading.title)}, as read by {plain(reading.instrument)}"
    if rows.empty or not isinstance(rows["outcome"][0], str):
        return f"{about}: not measured"
    sure = rows["certainty"][0]
    text = f"{about}: **{plain(rows['outcome'][0])}**"
    return text + (f" (likeliest class {100 * sure:.0f}\u00a0%)" if pd.notna(sure) else "")
