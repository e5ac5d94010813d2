"""Charts of the dashboard: plain tables in, Vega-Lite out. Nothing here knows Streamlit.

Altair draws and checks them; what leaves is its plain data, since it would check a chart as long
again for every change of a colour.

Dots with intervals and lines come from `reports.plots`, so that report and dashboard look alike;
here they get tooltips and, on dark ground, the dark colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple, TypeAlias

import altair as alt
import pandas as pd

from harness.json_types import JsonObject
from probes.contracts import Figure, Finding
from reports.charts import DARK, lay_out
from reports.headline import meter
from reports.plots import (
    GRID,
    INK,
    MUTED,
    STYLES,
    TARGET,
    Plot,
    Style,
)
from reports.text import clip

Spec: TypeAlias = JsonObject
"""A chart as Vega-Lite takes it."""
ACCENT = {False: "#4a4fb5", True: "#a4a8ff"}
"""By whether the ground is dark; as in the report's style sheet."""
SANS = '"Source Sans", sans-serif'
"""The font that Streamlit brings along."""
MOST_FACETS = 12
MANY = ("#0072b2", "#d55e00", "#009e73", "#b7518f", "#5a5f66", "#b27d00", "#2596cd", "#8c6bb1")
GREY = "#9ba5b0"


class Facets(NamedTuple):
    """A figure as charts.

    Attributes:
        charts: (heading, chart), one a facet.
        styles: by group, for the legend; empty where there is nothing to tell apart.
        left_out: facets that are not drawn.
        note: how labels were cut, or ''.
    """

    charts: list[tuple[str, Spec]]
    styles: dict[str, Style]
    left_out: int
    note: str


def facets(figure: Figure, known: Sequence[str] = (), dark: bool = False) -> Facets | None:
    """The report's plots of a figure as Vega-Lite; None where it has no chart."""
    try:
        laid = lay_out(figure, known, MOST_FACETS)
    except ValueError:  # a figure of another version: its table is shown
        return None
    if laid is None:
        return None
    charts = [(facet, finish(plots[0], dark)) for facet, plots in laid.plots]
    return Facets(charts, laid.styles, laid.left_out, laid.note)


def finish(chart: Plot, dark: bool) -> Spec:
    """A chart of `reports.plots` with tooltips, and in the dark colours where wanted."""
    # Not checked against the schema, which takes half the time: the tests check these charts.
    spec: Spec = chart.to_dict(validate=False)
    for layer in spec.get("layer", []):
        mark = layer["mark"]["type"] if isinstance(layer["mark"], dict) else layer["mark"]
        encoding = layer.get("encoding", {})
        axis = encoding.get("x", {}).get("field"), encoding.get("y", {}).get("field")
        if mark == "point" and "value" in axis:
            about = next((a for a in axis if a in ("label", "x")), "label")
            encoding["tooltip"] = [{"field": f} for f in (about, "group")] + [
                {"field": f, "type": "quantitative", "format": ".3~g", "title": title}
                for f, title in (("value", "value"), ("low", "95 % from"), ("high", "to"))
            ]
        elif mark == "point" and axis == ("x", "y"):
            encoding["tooltip"] = [{"field": "group"}]
    spec.pop("width", None)
    # The chart has its own words for those who do not see it, and its table; single marks none.
    spec["config"] |= {"font": SANS, "mark": {"aria": False}}
    return recolour(spec) if dark else spec


def recolour(value: object) -> Any:
    """A chart's data with every colour of the light theme exchanged for the dark one's."""
    swap = DARK | {s.light: s.dark for s in STYLES}
    if isinstance(value, dict):
        return {k: recolour(v) if k != "datasets" else v for k, v in value.items()}
    if isinstance(value, list):
        return [recolour(v) for v in value]
    return swap.get(value, value) if isinstance(value, str) else value


def scatter(
    points: pd.DataFrame,
    dark: bool,
    region: tuple[float, float, float, float] | None = None,
    height: int = 520,
) -> Spec:
    """Points with a region to draw; the selection is named 'region'.

    Args:
        points: x, y and group; at most eight groups have a colour, the rest is grey.
        dark: for dark ground.
        region: x from, x to, y from, y to of a region that is drawn already.
        height: px.
    """
    kept = list(points["group"].value_counts().index[: len(MANY)])
    groups = [g for g in dict.fromkeys(points["group"]) if g in kept]
    names = [clip(g, 40) for g in groups]
    data = pd.DataFrame(
        {
            "x": points["x"].astype(float).round(4),
            "y": points["y"].astype(float).round(4),
            "group": [clip(g, 40) if g in kept else "others" for g in points["group"]],
        }
    )
    colours = list(MANY[: len(names)])
    if len(points["group"].unique()) > len(MANY):
        names, colours = [*names, "others"], [*colours, GREY]
    start: Any = alt.Undefined
    if region:
        start = {"x": list(region[:2]), "y": list(region[2:])}
    brush = alt.selection_interval(
        name="region",
        encodings=["x", "y"],
        value=start,
        mark=alt.BrushConfig(fill=ACCENT[dark], fillOpacity=0.12, stroke=ACCENT[dark]),
    )
    legend = alt.Legend(orient="top", title=None, columns=2, symbolOpacity=1, labelLimit=160)
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False, domain=False)
    chart = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(filled=True, size=22 if len(data) < 4000 else 9, strokeWidth=0)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False, nice=False, padding=16)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False, nice=False, padding=16)),
            color=alt.Color(
                "group:N",
                scale=alt.Scale(domain=names, range=colours),
                legend=legend if len(names) > 1 else None,
            ),
            opacity=alt.condition(brush, alt.value(0.75), alt.value(0.16)),
        )
        .add_params(brush)
        .properties(height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure(
            font=SANS,
            background="transparent",
            mark=alt.MarkConfig(aria=False),
            view=alt.ViewConfig(stroke=GRID),
        )
        .configure_legend(labelColor=INK, labelFontSize=12)
    )
    spec: Spec = chart.to_dict(validate=False)
    return (recolour(spec) if dark else spec) | {"datasets": {"points": data}}


def meter_svg(finding: Finding, accent: bool, dark: bool) -> tuple[str, str]:
    """An interval on a scale from 0 to 100 % as SVG, and its alternative text; ('', '') if none.

    The SVG holds numbers only, no text of the run.
    """
    held = meter(finding)
    if held is None:
        return "", ""
    ink = ACCENT[dark] if accent else DARK[INK] if dark else INK
    soft, track = (DARK[MUTED], DARK[GRID]) if dark else (MUTED, "#dfe3e8")
    at = "{:.1f}".format
    x = [8 + 1.84 * v if v is not None else None for v in held[:4]]
    parts = [f'<path d="M8 12H192" stroke="{track}" stroke-width="2"/>']
    if x[3] is not None:
        parts.append(f'<path d="M{at(x[3])} 3V21" stroke="{soft}" stroke-width="2"/>')
    if x[1] is not None and x[2] is not None:
        parts.append(
            f'<path d="M{at(x[1])} 12H{at(x[2])}" stroke="{ink}" stroke-width="4" '
            'stroke-linecap="round" opacity=".45"/>'
        )
    parts.append(f'<circle cx="{at(x[0])}" cy="12" r="5" fill="{ink}"/>')
    body = "".join(parts)
    size = 'width="200" height="24" viewBox="0 0 200 24" fill="none"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>', held.alt


SHAPES = {
    "circle": '<circle cx="8" cy="9" r="5"/>',
    "square": '<path d="M3.5 4.5h9v9h-9z"/>',
    "triangle-up": '<path d="M8 3l6 11H2z"/>',
    "diamond": '<path d="M8 2.5l5 6.5-5 6.5-5-6.5z"/>',
    "cross": '<path d="M6 3h4v4h4v4h-4v4H6v-4H2V7h4z"/>',
    "triangle-down": '<path d="M8 15L2 4h12z"/>',
    "triangle-right": '<path d="M3 3l11 6-11 6z"/>',
}


def legend_svg(name: str, style: Style, dark: bool) -> tuple[str, int]:
    """One group's shape and name as SVG, and its width in px."""
    label = clip(name, 44)
    width = 24 + math.ceil(sum(9.8 if c.isupper() else 7.4 for c in label))
    colour, ink = (style.dark, DARK[INK]) if dark else (style.light, INK)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="18" '
        f'viewBox="0 0 {width} 18"><g fill="{colour}">{SHAPES[style.shape]}</g>'
        f'<text x="20" y="13.5" fill="{ink}" font-family="{escape(SANS)}" font-size="13.5">'
        f"{escape(label)}</text></svg>",
        width,
    )


def target_svg(dark: bool) -> tuple[str, int]:
    """The legend of a target: a dashed rule and the word."""
    colour, ink = (DARK[TARGET], DARK[INK]) if dark else (TARGET, INK)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="70" height="18" viewBox="0 0 70 18">'
        f'<path d="M8 1v16" stroke="{colour}" stroke-width="2" stroke-dasharray="4 3"/>'
        f'<text x="20" y="13.5" fill="{ink}" font-family="{escape(SANS)}" font-size="13.5">'
        "target</text></svg>",
        70,
    )
