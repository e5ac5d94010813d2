"""What all pages share: the runs, the reader's choices, headings and empty states."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from threading import Lock
from time import time

import streamlit as st

from dashboard.escaping import count, plain
from dashboard.queries import RunView
from dashboard.run_index import RunError, stamp
from reports.overview import audited_cards
from reports.page import groups_of

LOOK = 5.0
"""Seconds between two looks at a run that is shown live."""
STALE = 600.0
"""Seconds without a new image after which a run is not going on."""
RUNS = "AUDIT_DASHBOARD"
"""Environment variable: JSON of the folders and gate files that the dashboard may show."""


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
        if names and st.toggle("Live", key="live", help="While a run goes on: its new images."):
            _live()
        st.button(
            "Read again",
            icon=":material/refresh:",
            type="tertiary",
            on_click=forget,
            help="Look for new images, scores and labels in the run folder.",
        )


@st.fragment(run_every=LOOK)
def _live() -> None:
    """How far the run is; the page is drawn anew where there is more."""
    run = view()
    made = int(run.made()["made"].sum())
    seen = st.session_state.get("live_made")
    st.session_state["live_made"] = made
    st.caption(f"{made:,} of {run.planned:,} images{time_left(run, made)}")
    if seen not in (None, made):
        st.rerun()


def time_left(run: RunView, made: int) -> str:
    """', about 12 min left' at the pace of the images so far; '' where that is not known."""
    times = sorted(path.stat().st_mtime for path in run.files.images.values() if path.exists())
    if len(times) < 2 or made >= run.planned or time() - times[-1] > STALE:
        return ""
    pace = (times[-1] - times[0]) / (made * (1 - 1 / len(times)))
    minutes = ceil(pace * (run.planned - made) / 60)
    return f", about {minutes:,} min left"


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
    return [c.name for c in cards if c.kind != "VAE"] + groups_of(run.figures) + run.arms


def headline(title: str, about: str) -> None:
    """A page's heading and the one line under it."""
    st.title(title, anchor=False)
    st.caption(about)


def page_of(rows: int, at_once: int, key: str) -> slice:
    """Where the chosen page lies among rows; the pages are drawn where there are several.

    Args:
        rows: How many there are.
        at_once: Rows of a page.
        key: Of the widget, and of the page in the address.
    """
    pages = max(1, -(-rows // at_once))
    page = min(st.pagination(pages, key=key, bind="query-params"), pages) if pages > 1 else 1
    return slice((page - 1) * at_once, page * at_once)


def filters(run: RunView, names: Sequence[str]) -> dict[str, list[object]]:
    """Choices of levels, kept in the address; factors with one level are left out."""
    titles = {"checkpoint": "Checkpoint", "vae": "VAE", "prompt": "Prompt", "arm": "Arm"}
    shown = [n for n in names if len(run.levels[n]) > 1]
    chosen: dict[str, list[object]] = {}
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


def empty(what: str, do: str) -> None:
    """An empty state: what is missing, and what to do about it."""
    with st.container(border=True):
        st.markdown(f"**{what}**")
        st.markdown(do)


def images_word(n: int) -> str:
    """'1 image', '12 images'."""
    return count(n, "image")
