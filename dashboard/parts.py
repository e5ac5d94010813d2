"""What several pages show: the run, galleries, exhibits with their data, one picture's history."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import charts
from dashboard.files import RunError, stamp
from dashboard.outcomes import Reading, readings, told
from dashboard.pictures import crisp, parameters
from dashboard.queries import MINUS, RunView
from dashboard.words import count, plain
from probes import Exhibit
from reports.facts import audited_cards
from reports.grids import read_grid
from reports.page import groups_of
from reports.plots import Style
from reports.tables import show as short

RUNS = "AUDIT_DASHBOARD"
"""Environment variable: JSON of the folders and gate files that the dashboard may show."""
SIDE = 176
GRID_ROWS, GRID_COLUMNS = 12, 12
PICTURES = ("grid", "heat-over-image", "strip")
"""Kinds of exhibits that are pictures in rows and columns."""
FACTS = (
    "prompt",
    "text",
    "negative_text",
    "checkpoint",
    "vae",
    "adapters",
    "sampler",
    "steps",
    "guidance",
    "width",
    "height",
    "seed",
    "noise",
    "unit",
    "kind",
)
NAMES = {
    "text": "as encoded",
    "negative_text": "negative",
    "noise": "seed of the noise",
    "vae": "VAE",
}


# --- the run ---


_LOCK = Lock()
_HELD: dict[str, tuple[tuple[int, ...], RunView]] = {}
"""Runs by folder, with their files' stamp. Streamlit runs the pages anew but imports this once."""


def open_view(folder: str) -> RunView:
    """A run as it is now; read again where its files changed.

    Raises:
        RunError: It is gone, or no run.
    """
    now = stamp(Path(folder))
    with _LOCK:
        if folder not in _HELD or _HELD[folder][0] != now:
            _HELD.pop(folder, None)
            _HELD[folder] = (now, RunView(Path(folder)))
        return _HELD[folder][1]


def forget() -> None:
    """Read all runs again at the next look."""
    with _LOCK:
        _HELD.clear()


def given() -> dict[str, list[str]]:
    """What the command line named: 'runs' and 'gates'."""
    known: dict[str, list[str]] = json.loads(os.environ.get(RUNS, '{"runs": [], "gates": []}'))
    return known


def folders() -> dict[str, str]:
    """Folders by the name that a reader sees; of two of one name the second has its parent's."""
    names: dict[str, str] = {}
    for folder in given()["runs"]:
        path = Path(folder)
        name = path.name if path.name not in names else f"{path.parent.name}/{path.name}"
        while name in names:
            name += "′"
        names[name] = folder
    return names


def choose_run() -> None:
    """The run that all pages show: a choice in the sidebar where there are several."""
    names = folders()
    with st.sidebar:
        if len(names) > 1:
            st.selectbox("Run", list(names), key="run", bind="query-params")
        elif names:
            st.caption(f"Run **{plain(next(iter(names)))}**")
        st.button(
            "Read again",
            icon=":material/refresh:",
            type="tertiary",
            on_click=forget,
            help="Look for new pictures, scores and labels in the run folder.",
        )


def view() -> RunView:
    """The chosen run."""
    names = folders()
    if not names:
        raise RunError("no run given: start the dashboard with `audit dashboard RUN`")
    chosen = str(st.session_state.get("run"))
    return open_view(names.get(chosen, next(iter(names.values()))))


def dark() -> bool:
    """Whether the reader's ground is dark."""
    return st.context.theme.type == "dark"


def known(run: RunView) -> list[str]:
    """Names that keep their style in every chart, as in the report."""
    cards = audited_cards(run.report.get("audited", []))
    return [c.name for c in cards if c.kind != "VAE"] + groups_of(run.exhibits) + run.arms


def headline(title: str, about: str) -> None:
    """A page's heading and the one line under it."""
    st.title(title, anchor=False)
    st.caption(about)


def filters(run: RunView, names: Sequence[str]) -> dict[str, list[Any]]:
    """Choices of levels, kept in the address; factors with one level are left out."""
    titles = {"checkpoint": "Checkpoint", "vae": "VAE", "prompt": "Prompt", "arm": "Arm"}
    shown = [n for n in names if len(run.levels[n]) > 1]
    chosen: dict[str, list[Any]] = {}
    if shown:
        with st.grid(columns=len(shown), min_column_width=220):
            for name in shown:
                chosen[name] = st.multiselect(
                    titles[name],
                    run.levels[name],
                    key=name,
                    placeholder="all",
                    bind="query-params",
                )
    return chosen


# --- tables and charts ---


def csv_button(table: pd.DataFrame | Callable[[], pd.DataFrame], name: str, key: str) -> None:
    """The data behind a chart as a file; it is written only when asked for."""

    def data() -> str:
        held = table() if callable(table) else table
        return held.to_csv(index=False)

    st.download_button(
        "Data as CSV",
        data,
        file_name=f"{name}.csv",
        mime="text/csv",
        key=f"csv {key}",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def legend(styles: dict[str, Style], target: bool) -> None:
    """What shapes and colours mean, in a line that wraps."""
    if not styles and not target:
        return
    with st.container(horizontal=True, gap="small"):
        for name, style in styles.items():
            svg, width = charts.legend_svg(name, style, dark())
            st.image(svg, width=width, alt=name)
        if target:
            svg, width = charts.target_svg(dark())
            st.image(svg, width=width, alt="dashed rule: the target")


def draw(made: charts.Facets, key: str, alt: str, target: bool) -> None:
    """Charts side by side where there is room."""
    legend(made.styles, target)
    look: dict[str, Any] = {"width": "stretch", "theme": None}
    if len(made.charts) == 1:
        if made.charts[0][0]:
            st.markdown(f"**{plain(made.charts[0][0], 80)}**")
        st.vega_lite_chart(spec=made.charts[0][1], key=f"{key} 0", alt=alt or None, **look)
    else:
        with st.grid(columns=3, min_column_width=300, gap="medium"):
            for i, (name, chart) in enumerate(made.charts):
                with st.container():
                    st.markdown(f"**{plain(name, 80)}**")
                    st.vega_lite_chart(spec=chart, key=f"{key} {i}", alt=f"{name}: {alt}", **look)
    more = f"{made.left_out} more are in the data. " if made.left_out else ""
    if more or made.note:
        st.caption(plain(more + made.note))


def exhibit(run: RunView, one: Exhibit, key: str = "") -> None:
    """Any exhibit of any probe: its caption, its figure by kind, its data."""
    key = f"{key} {one.id}"
    with st.container(key=f"exhibit-{abs(hash(key))}"):
        st.markdown(f"**{plain(one.caption)}**")
        made = _drawn(run, one)
        if made:
            # A ranking's rule is whatever its caption says: often what chance alone would score.
            targets = one.table.get("target", pd.Series()).notna().any()
            draw(made, key, one.alt, bool(targets) and not one.id.startswith("ranking"))
            with st.expander("Table"):
                st.dataframe(one.table, hide_index=True, key=f"table {key}", alt=one.alt)
        elif one.kind in PICTURES and {"row", "column", "cell"} <= set(one.table.columns):
            grid(run, one, key)
        elif one.kind == "scatter+image" and {"x", "y", "cell"} <= set(one.table.columns):
            st.page_link("app_pages/latent_map.py", label="Open in the latent map")
        elif one.table.empty:
            st.caption("Nothing was measured.")
        else:
            st.dataframe(one.table, hide_index=True, key=f"table {key}", alt=one.alt)
        csv_button(one.table, one.id.replace("/", "-"), key)


def _drawn(run: RunView, one: Exhibit) -> charts.Facets | None:
    """Charts of an exhibit; those of the run's own are kept, since every click asks for them."""
    own = next((i for i, e in enumerate(run.exhibits) if e is one), None)
    if own is None:
        return charts.facets(one, known(run), dark())
    key = own, dark()
    if key not in run.drawn:
        run.drawn[key] = charts.facets(one, known(run), dark())
    return run.drawn[key]


def exhibits(run: RunView, chosen: Iterable[Exhibit]) -> None:
    """Several exhibits under each other."""
    for i, one in enumerate(chosen):
        if i:
            st.space("medium")
        exhibit(run, one, str(i))


# --- pictures ---


def frame(png: bytes | None, width: int, alt: str, why: str = "no picture in the run") -> None:
    """One picture, or a frame that says why there is none."""
    data = crisp(png, 2 * width if width > SIDE else SIDE) if png else b""
    if data:
        st.image(data, width=width, alt=alt)
    else:
        with st.container(border=True, width=width, height=width):
            st.caption(plain(f"missing: {why}", 90))


def gallery(
    run: RunView, cells: Sequence[str], captions: Sequence[str], key: str, width: int = 132
) -> None:
    """Pictures in lines that wrap; a caption opens its picture's history."""
    pictures = run.images(cells)
    with st.container(horizontal=True, gap="small", key=f"gallery-{abs(hash(key))}"):
        for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
            with st.container(width=width, gap="xxsmall"):
                frame(pictures.get(cell), width, caption or "a picture of the run")
                picture_button(cell, caption, f"{key} {i}")


def picture_button(cell: str, caption: str, key: str) -> None:
    """A caption that opens the picture it stands under."""
    own = cell.partition(" ")[0]  # the picture that was changed, or under a map
    if len(own) == 64:
        st.button(
            plain(caption or own[:12], 44),
            key=f"open {key}",
            type="tertiary",
            on_click=_open,
            args=(own,),
            help="How this picture was made",
            wrap=True,
        )
    elif caption:
        st.caption(plain(caption, 60))


def grid(run: RunView, one: Exhibit, key: str) -> None:
    """Pictures in rows and columns: a line a row, each picture under its column's name."""
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


def _open(cell: str) -> None:
    st.query_params["cell"] = cell


def _close() -> None:
    st.query_params.pop("cell", None)


@st.dialog("One picture", width="large", on_dismiss=_close)
def _history(run: RunView, row: pd.Series) -> None:
    cell = str(row["cell"])
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
    wanted = [cell] + ([beside, f"{beside}{MINUS}{cell}"] if beside else [])
    captions = [str(row["arm"])] + ([names[beside], "what changed, 8\u00a0×"] if beside else [])
    pictures = run.images(wanted)
    with st.container(horizontal=True, gap="small"):
        for one, caption in zip(wanted, captions, strict=True):
            with st.container(width=216, gap="xxsmall"):
                frame(pictures.get(one), 216, caption)
                st.caption(plain(caption, 80))
    lines = [_outcome_line(run, r, cell) for r in readings(run)]
    if lines:
        st.markdown("  \n".join(lines))
    facts = {NAMES.get(k, k): short(row[k]) for k in FACTS if str(row[k])}
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
        st.caption("This picture carries no parameters.")
    st.caption(f"cell {cell}")


def show_history(run: RunView) -> None:
    """The dialog of the picture that the address names."""
    cell = st.query_params.get("cell")
    if not cell:
        return
    row = run.cell(cell)
    if row is None:
        st.warning(f"No picture of this run has the id {plain(cell, 70)}.")
    else:
        _history(run, row)


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))


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


def empty(what: str, do: str) -> None:
    """An empty state: what is missing, and what to do about it."""
    with st.container(border=True):
        st.markdown(f"**{what}**")
        st.markdown(do)


def pictures_word(n: int) -> str:
    """'1 picture', '12 pictures'."""
    return count(n, "picture")
