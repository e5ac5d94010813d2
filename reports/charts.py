"""Charts as still images: Altair through vl-convert into SVG, put into the page as data URIs.

An SVG shown by an `<img>` runs no script and loads nothing, so the page's policy can forbid
both. Each facet is a chart of its own, narrow enough for a telephone; the page lays them side
by side where there is room. A chart that stands alone is drawn wide as well. The dark image
is the light one with its few colours exchanged.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import pandas as pd

from probes.contracts import Figure
from reports.plots import (
    GRID,
    INK,
    MUTED,
    NARROW,
    STYLES,
    TARGET,
    WIDE,
    Plot,
    Scale,
    Style,
    bar,
    common_start,
    line,
    scatter,
    value_scale,
)
from reports.text import clip, number

MAX_LABELS = 40
"""Rows of a dot-and-interval plot: beyond it the highest and lowest half of these are drawn."""
DARK = {INK: "#e7eaee", MUTED: "#9ba5b0", GRID: "#2c333b", TARGET: "#c5ccd4"}
SVG = "http://www.w3.org/2000/svg"
PLOTS = {"bar": bar, "line": line, "scatter+image": scatter}


class Picture(NamedTuple):
    """One chart: SVG sources in both schemes, and wide ones where it stands alone."""

    facet: str
    light: str
    dark: str
    wide_light: str = ""
    wide_dark: str = ""

    @property
    def size(self) -> int:
        """Bytes that the image takes in the page."""
        return sum(4 * len(s.encode()) // 3 for s in self[1:])


class Drawing(NamedTuple):
    """All charts of a figure.

    Attributes:
        images: one a facet.
        left_out: facets beyond the number wanted.
        styles: by group, for the legend; empty where there is nothing to tell apart.
        targets: the targets drawn, as text: 'target 50 %'.
        note: how labels were cut, or ''.
    """

    pictures: list[Picture]
    left_out: int
    styles: dict[str, Style]
    targets: str
    note: str


class Layout(NamedTuple):
    """A figure as Altair's plots, for a still image as for Vega.

    Attributes:
        plots: (heading, one plot a width), one a facet.
        left_out: facets beyond the number wanted.
        styles: by group, for the legend; empty where there is nothing to tell apart.
        targets: the targets drawn, as text: 'target 50 %'.
        note: how labels were cut, or ''.
    """

    plots: list[tuple[str, list[Plot]]]
    left_out: int
    styles: dict[str, Style]
    targets: str
    note: str


def lay_out(
    figure: Figure, known: Sequence[str] = (), most: int = 40, wide: bool = False
) -> Layout | None:
    """Plot a figure of kind 'bar', 'line' or 'scatter+image': the one way for report and dashboard.

    Args:
        figure: its table has the columns of its kind.
        known: names that keep the same style in every chart of the page.
        most: facets to plot.
        wide: plot a facet that stands alone a second time, over the whole width.

    Returns:
        None where the kind has no chart or the table is empty; the figure is then shown as
        its table.
    """
    if figure.kind not in PLOTS or figure.table.empty:
        return None
    table = clean(figure.table)
    if table["group"].nunique() > len(STYLES):
        table = ungrouped(table, figure.kind)
    groups = list(dict.fromkeys(table["group"]))
    styles = style_groups(groups, known)
    legend = styles if len(groups) > 1 and not (table["label"] == table["group"]).all() else {}
    scale = value_scale(table)
    facets = list(dict.fromkeys(table["facet"]))
    widths = (NARROW, WIDE) if wide and len(facets) == 1 else (NARROW,)
    ranking = figure.ranking
    start = common_start(table["label"])
    table["label"] = [label.removeprefix(start).strip() for label in table["label"]]
    notes = {f"Labels are shown without their common start, “{start}”."} if start else set()
    order = in_one_order(table, ranking)
    plots = []
    for facet in facets[:most]:
        rows = table[table["facet"] == facet]
        if figure.kind == "bar":
            rows, note = shorten(rows, order, ranking)
            notes |= {note} if note else set()
        plots.append((facet, [PLOTS[figure.kind](rows, styles, scale, w) for w in widths]))
    # A ranking's dashed line is whatever its caption says: often what chance alone would score.
    targets = "" if ranking else target_text(table, scale)
    left_out = len(facets) - len(plots)
    return Layout(plots, left_out, legend, targets, " ".join(sorted(notes)))


def draw(figure: Figure, known: Sequence[str] = (), most: int = 40) -> Drawing | None:
    """A figure as SVG in both schemes; arguments, None and errors as `lay_out`'s."""
    laid = lay_out(figure, known, most, wide=True)
    if laid is None:
        return None
    pictures = []
    for facet, plots in laid.plots:
        light = [svg(plot) for plot in plots]
        dark = [darken(source) for source in light]
        pictures.append(Picture(facet, light[0], dark[0], *light[1:], *dark[1:]))
    return Drawing(pictures, laid.left_out, laid.styles, laid.targets, laid.note)


def style_groups(groups: Iterable[str], known: Sequence[str]) -> dict[str, Style]:
    """A style a group: by its place among the known names, else the next free one."""
    names = [clip(k, 120) for k in known][: len(STYLES)]
    styles = {g: STYLES[names.index(g)] for g in groups if g in names}
    free = [s for s in STYLES if s not in styles.values()]
    rest = [g for g in groups if g not in styles]
    return {**styles, **dict(zip(rest, free, strict=False))}


def in_one_order(table: pd.DataFrame, ranking: bool) -> list[str]:
    """Labels in the order of all facets: by mean value in the first facet that has them.

    Args:
        table: all facets.
        ranking: keep the table's own order.
    """
    if ranking:
        return list(dict.fromkeys(table["label"]))
    means = table.groupby(["facet", "label"], sort=False)["value"].mean()
    order: dict[str, None] = {}
    for facet in dict.fromkeys(table["facet"]):
        own = means.loc[facet].sort_values(ascending=False, kind="stable", na_position="last")
        order |= {label: None for label in own.index if label not in order}
    return list(order)


def shorten(rows: pd.DataFrame, order: Sequence[str], ranking: bool) -> tuple[pd.DataFrame, str]:
    """Set a facet's rows in order, and cut a long one down.

    Args:
        rows: one facet.
        order: all labels.
        ranking: of a long facet keep the first labels; else the first and the last.

    Returns:
        The rows in order, and what was left out, in words.
    """
    own = set(rows["label"])
    kept, which = [label for label in order if label in own], ""
    if len(kept) > MAX_LABELS:
        half, total = MAX_LABELS // 2, len(kept)
        kept = kept[:MAX_LABELS] if ranking else kept[:half] + kept[-half:]
        which = f"The first {MAX_LABELS}" if ranking else f"The {half} highest and {half} lowest"
        which += f" of {total:,} are drawn."
    place = {label: i for i, label in enumerate(kept)}
    rows = rows[rows["label"].isin(place)]
    return rows.iloc[rows["label"].map(place).argsort(kind="stable")], which


def target_text(table: pd.DataFrame, scale: Scale) -> str:
    """'target 50 %' where all rows share it, 'target' where not, '' without one."""
    values = table["target"].dropna().unique()
    if len(values) == 0:
        return ""
    if len(values) > 1:
        return "target"
    return f"target {100 * values[0]:.3g} %" if scale.share else f"target {number(values[0])}"


def svg(chart: Plot) -> str:
    """Render a chart; no network and no browser is used."""
    buffer = io.StringIO()
    chart.save(buffer, format="svg")
    return buffer.getvalue()


def darken(source: str) -> str:
    """The same SVG for a dark ground: the colours of the theme and of the groups exchanged."""
    ElementTree.register_namespace("", SVG)
    swap = DARK | {s.light: s.dark for s in STYLES}
    root = ElementTree.fromstring(source)
    for element in root.iter():
        for name in ("fill", "stroke"):
            colour = element.get(name, "").lower()
            if colour in swap:
                element.set(name, swap[colour])
    return ElementTree.tostring(root, encoding="unicode")


def ungrouped(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """More groups than can be told apart: drop them where labels tell all, else a facet each."""
    if kind == "bar" and not table.duplicated(["facet", "label"]).any():
        return table.assign(group="")
    joined = table["facet"].where(table["facet"] == "", table["facet"] + " · ") + table["group"]
    return table.assign(facet=joined, group="")


def clean(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that are drawn: text cut and settable, numbers as floats, infinity as NaN."""
    out = pd.DataFrame(index=table.index)
    for name in ("label", "group", "facet"):
        out[name] = table[name].map(lambda t: clip(t, 200)) if name in table else ""
    for name in ("value", "low", "high", "target", *(["y"] if "y" in table else [])):
        numbers = pd.to_numeric(table[name], errors="coerce") if name in table else math.nan
        out[name] = numbers
        out[name] = out[name].astype(float).where(lambda x: abs(x) < math.inf)
    if "x" in table:
        out["x"] = table["x"]
    return out
