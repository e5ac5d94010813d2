"""The plots: dots with intervals, lines over a dose, points in a plane. Tables in, Altair out.

Groups differ by colour (after Okabe and Ito, readable with colour-blindness) and by shape.
Tables have columns label or x, group, value, low, high and target, or x, y and group; numbers may
be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import altair as alt
import pandas as pd

from harness.json_types import JsonObject
from reports.text import clip

NARROW, WIDE = 360, 1000
"""Widths of an image in px."""
Plot = alt.LayerChart | alt.FacetChart
FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
INK, MUTED, GRID, TARGET = "#1c2128", "#5c6570", "#e6e9ed", "#3a424c"


class Style(NamedTuple):
    """How a group is told from the others: colour on light and dark ground, and shape."""

    light: str
    dark: str
    shape: str


STYLES = (
    Style("#0072b2", "#4aa8e8", "circle"),
    Style("#d55e00", "#ff8d45", "square"),
    Style("#009e73", "#2fcb9f", "triangle-up"),
    Style("#b7518f", "#e592c4", "diamond"),
    Style("#5a5f66", "#c9ced6", "cross"),
    Style("#b27d00", "#f0b93a", "triangle-down"),
    Style("#2596cd", "#8fd3fa", "triangle-right"),
)


class Scale(NamedTuple):
    """The value axis, the same for all facets of a figure.

    Attributes:
        low, high: ends of the axis; zero is always on it.
        share: all numbers lie in [0, 1] and are told as percentages.
    """

    low: float
    high: float
    share: bool

    def vega(self) -> alt.Scale:
        """As Vega-Lite's scale."""
        return alt.Scale(domain=[self.low, self.high], nice=False)

    def axis(self) -> alt.Axis:
        """As Vega-Lite's axis, with few ticks."""
        if not self.share:
            return alt.Axis(tickCount=5, tickSize=0)
        ticks: JsonObject = {"tickCount": 5}
        if self.high == 1:
            ticks = {"values": [0, 0.25, 0.5, 0.75, 1]}
        label = "format(100 * datum.value, '.3~g') + ' %'"
        return alt.Axis(labelExpr=label, tickSize=0, labelFlush=False, **ticks)


def value_scale(table: pd.DataFrame) -> Scale:
    """The axis that holds all numbers: for shares it ends at the next fifth."""
    numbers = table[["value", "low", "high", "target"]].to_numpy(dtype=float).ravel()
    numbers = numbers[pd.notna(numbers)]
    low, high = float(min(numbers, default=0)), float(max(numbers, default=1))
    if low >= 0 and high <= 1:
        return Scale(0.0, max(math.ceil(round(5 * high, 6)) / 5, 0.2), True)
    room = 0.05 * (max(high, 0) - min(low, 0))
    return Scale(low - room if low < 0 else 0.0, high + room if high > 0 else 0.0, False)


def bar(rows: pd.DataFrame, styles: dict[str, Style], scale: Scale, width: int) -> Plot:
    """A dot and an interval a row, in the rows' own order, against the target. Rows: one facet."""
    room, letters = (152, 24) if width == NARROW else (280, 42)
    names = short_labels(list(dict.fromkeys(rows["label"])), letters)
    column = min(room, 20 + 7 * max(map(len, names.values())))
    data = rows.assign(label=rows["label"].map(names))
    groups = list(dict.fromkeys(data["group"]))
    side_by_side = bool(data.groupby("label")["group"].nunique().max() > 1)
    axis = alt.Axis(
        grid=True,
        minExtent=column,
        maxExtent=column,
        labelLimit=column - 12,
        tickSize=0,
        labelColor=INK,
        labelPadding=10,
    )
    y = alt.Y("label:N", scale=alt.Scale(domain=list(names.values())), title=None, axis=axis)
    x = alt.X("value:Q", title=None, scale=scale.vega(), axis=scale.axis())
    place: JsonObject = {"y": y}
    if side_by_side:
        offset = alt.Scale(domain=groups, paddingOuter=0.6)
        place["yOffset"] = alt.YOffset("group:N", sort=groups, scale=offset)
    size = 34 if side_by_side else 60
    look = {"color": _color(styles), "shape": _shape(styles)}
    whole = data[["value", "low", "high"]].notna().all(axis=1)
    bare, none = data[~whole & data["value"].notna()], data[data["value"].isna()]
    layers = _reference_layers(data, y, scale)
    if whole.any():
        chart = alt.Chart(data[whole]).encode(**place, color=_color(styles))
        interval = chart.mark_rule(strokeWidth=2, opacity=0.6, strokeCap="round")
        layers.append(interval.encode(x=alt.X("low:Q", title=None), x2="high:Q"))
        layers.append(chart.mark_point(size=size, opacity=1, filled=True).encode(x=x, **look))
    if len(bare):
        hollow = alt.Chart(bare).mark_point(size=size, opacity=1, filled=False, strokeWidth=2)
        layers.append(hollow.encode(x=x, **place, **look))
    if len(none):
        text = alt.Chart(none).mark_text(
            align="left", dx=6, fontStyle="italic", fontSize=11, color=MUTED, text="not measured"
        )
        layers.append(text.encode(x=alt.XDatum(scale.low), **place))
    step = max(24, 8 + 5 * len(groups)) if side_by_side else 24
    return _themed(layers, width, alt.Step(step, **{"for": "position"}))


def line(rows: pd.DataFrame, styles: dict[str, Style], scale: Scale, width: int) -> Plot:
    """Value against a dose, with interval bands, one line a group. Rows: one facet."""
    numeric = pd.api.types.is_numeric_dtype(rows["x"])
    axis = alt.Axis(grid=False, labelAngle=0, tickColor=GRID, tickCount=6)
    if numeric:
        spread = alt.Scale(zero=False, nice=False, padding=12)
        x = alt.X("x:Q", title=None, scale=spread, axis=axis)
    else:
        rows = rows.assign(x=rows["x"].map(lambda text: clip(text, 24)))
        x = alt.X("x:O", title=None, sort=None, axis=axis)
    y = alt.Y("value:Q", title=None, scale=scale.vega(), axis=scale.axis())
    base = alt.Chart(rows).encode(x=x, color=_color(styles))
    layers: list[alt.Chart] = []
    if rows["target"].notna().any():
        target = alt.Chart(rows.dropna(subset=["target"])[["target"]].drop_duplicates())
        layers.append(target.mark_rule(color=TARGET, strokeDash=[4, 3]).encode(y="target:Q"))
    layers += [
        base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(size=55, filled=True, opacity=1).encode(y=y, shape=_shape(styles)),
    ]
    return _themed(layers, width, 220 if width == NARROW else 300)


def scatter(rows: pd.DataFrame, styles: dict[str, Style], scale: Scale, width: int) -> Plot:
    """One point a row at x and y, without axes: a plane has no units. Rows: one facet."""
    place = {
        "x": alt.X("x:Q", title=None, axis=None, scale=alt.Scale(zero=False)),
        "y": alt.Y("y:Q", title=None, axis=None, scale=alt.Scale(zero=False)),
    }
    points = alt.Chart(rows).mark_point(size=28, filled=True, opacity=0.75)
    layers = [points.encode(**place, color=_color(styles), shape=_shape(styles))]
    return _themed(layers, width, 240 if width == NARROW else 320)


def common_start(labels: Iterable[str]) -> str:
    """The first words that all labels share, where they are two or more and no label ends there."""
    words = [label.split() for label in dict.fromkeys(labels)]
    shared = 0
    while len(words) > 1 and all(len(w) > shared + 1 for w in words):
        if len({w[shared] for w in words}) > 1:
            break
        shared += 1
    return " ".join(words[0][:shared]) if shared > 1 else ""


def short_labels(labels: Sequence[str], limit: int) -> dict[str, str]:
    """Labels that fit an axis, all different: long ends are cut, and twins numbered."""
    short: dict[str, str] = {}
    for label in labels:
        text = clip(label, limit) or "–"
        again = sum(t == text for t in short.values())
        short[label] = f"{clip(text, limit - 5)} ({len(short) + 1})" if again else text
    return short


def _color(styles: dict[str, Style]) -> alt.Color:
    scale = alt.Scale(domain=list(styles), range=[s.light for s in styles.values()])
    return alt.Color("group:N", scale=scale, legend=None)


def _shape(styles: dict[str, Style]) -> alt.Shape:
    scale = alt.Scale(domain=list(styles), range=[s.shape for s in styles.values()])
    return alt.Shape("group:N", scale=scale, legend=None)


def _reference_layers(data: pd.DataFrame, y: alt.Y, scale: Scale) -> list[alt.Chart]:
    layers: list[alt.Chart] = []
    if scale.low < 0:
        zero = alt.Chart(pd.DataFrame({"zero": [0.0]}))
        layers.append(zero.mark_rule(color=MUTED, strokeWidth=1).encode(x="zero:Q"))
    targets = data.dropna(subset=["target"])[["label", "target"]].drop_duplicates()
    if targets["target"].nunique() == 1:
        rule = alt.Chart(targets.head(1)).mark_rule(color=TARGET, strokeDash=[4, 3])
        layers.append(rule.encode(x="target:Q"))
    elif len(targets):
        ticks = alt.Chart(targets).mark_tick(color=TARGET, thickness=2)
        layers.append(ticks.encode(x="target:Q", y=y))
    return layers


def _themed(layers: list[alt.Chart], width: int, height: float | alt.Step) -> Plot:
    chart = alt.layer(*layers).properties(
        width=width,
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        padding={"left": 2, "right": 22, "top": 6, "bottom": 4},
    )
    axis = alt.AxisConfig(
        domain=False, gridColor=GRID, labelColor=MUTED, labelFontSize=12, labelPadding=6
    )
    themed: Plot = chart.configure(
        font=FONT,
        background="transparent",
        aria=False,
        axis=axis,
        view=alt.ViewConfig(stroke=None),
    )
    return themed
