"""Charts and figures with their data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd
import streamlit as st

from dashboard import charts
from dashboard.components import dark, known
from dashboard.escaping import plain
from dashboard.galleries import PICTURES, grid
from dashboard.queries import RunView
from harness.json_types import JsonObject
from probes.contracts import Figure
from reports.plots import Style


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
            st.image(svg, width=width, alt="dashed line: the target")


def draw(made: charts.Facets, key: str, alt: str, target: bool) -> None:
    """Charts side by side where there is room."""
    legend(made.styles, target)
    look: JsonObject = {"width": "stretch", "theme": None}
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


def figure(run: RunView, one: Figure, key: str = "") -> None:
    """Any figure of any probe: its caption, its figure by kind, its data."""
    key = f"{key} {one.id}"
    with st.container(key=f"figure-{abs(hash(key))}"):
        st.markdown(f"**{plain(one.caption)}**")
        made = _drawn(run, one)
        if one.kind == "scatter+image" and made and "cell" in one.table:
            st.page_link("app_pages/latent_map.py", label="Open in the latent map")
        if made:
            # A ranking's rule is whatever its caption says: often what chance alone would score.
            targets = one.table.get("target", pd.Series()).notna().any()
            draw(made, key, one.alt, bool(targets) and not one.ranking)
            with st.expander("Table"):
                st.dataframe(one.table, hide_index=True, key=f"table {key}", alt=one.alt)
        elif one.kind in PICTURES and {"row", "column", "cell"} <= set(one.table.columns):
            grid(run, one, key)
        elif one.table.empty:
            st.caption("Nothing was measured.")
        else:
            st.dataframe(one.table, hide_index=True, key=f"table {key}", alt=one.alt)
        csv_button(one.table, one.id.replace("/", "-"), key)


def _drawn(run: RunView, one: Figure) -> charts.Facets | None:
    """Charts of a figure; those of the run's own are kept, since every click asks for them."""
    own = next((i for i, e in enumerate(run.figures) if e is one), None)
    if own is None:
        return charts.facets(one, known(run), dark())
    key = own, dark()
    if key not in run.drawn:
        run.drawn[key] = charts.facets(one, known(run), dark())
    return run.drawn[key]


def figures(run: RunView, chosen: Iterable[Figure]) -> None:
    """Several figures under each other."""
    for i, one in enumerate(chosen):
        if i:
            st.space("medium")
        figure(run, one, str(i))
