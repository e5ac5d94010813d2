"""What stands on the page: the report's data chosen, worded, drawn and cut to size.

`compose` returns plain values for the template, which only sets them. Three budgets (charts,
thumbnails, tables) add up to 7 MB; what is left over is counted in plain words.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pandas as pd

from harness.json_types import JsonObject
from probes.contracts import Figure, Finding
from probes.error_control import is_test
from reports import ReportData
from reports.answer import answer
from reports.charts import PLOTS, Drawing, Picture, draw
from reports.formats.csv import csv_bytes
from reports.grids import Images, Place, file_name, is_grid, picture, read_grid, thumbnail
from reports.headline import Links, headline
from reports.overview import audited_cards, entries, tiles
from reports.sentences import sentence
from reports.statement import Statement
from reports.strips import behind, strip_of
from reports.tables import Budget, Table, findings_table, make_table, markup_size
from reports.templating import data_uri
from reports.text import clip
from reports.verdicts import (
    ORDER,
    headlines,
    is_measured,
    verdict,
    verdict_label,
)

CHART_BYTES, PICTURE_BYTES, TABLE_BYTES = 3_000_000, 3_000_000, 1_200_000
MAX_CHARTS, MAX_PICTURES, MAX_FIGURES = 80, 600, 40
MAX_HEADLINES, MAX_FINDINGS, MAX_NOT_MEASURED = 40, 400, 60
MAX_AUDITED, MAX_COMMANDS, MAX_GRIDS = 24, 30, 24
MOST_UNDECIDED = 6
"""Headlines of which nothing can be claimed that stand open; the rest is folded away."""
FIGURE_ROWS, TABLE_ROWS, GRID_ROWS, GRID_COLUMNS = 60, 100, 12, 12


class Stated(NamedTuple):
    """One statement of the answer, with the strip of its images where it has one."""

    apart: bool
    lead: str
    details: str
    strip: PageGrid | None


class PageFigure(NamedTuple):
    """A figure as it stands on the page: charts, or else its table."""

    anchor: str
    files: dict[str, bytes]
    """Its files under figures/, by name: an SVG a chart, and the table as CSV."""
    kind: str
    caption: str
    alt: str
    drawing: Drawing | None
    charts: list[dict[str, str]]
    table: Table
    note: str


class PageGrid(NamedTuple):
    """A grid as it stands on the page.

    `rows` holds (heading, places); a place is (image or '', reason or '', caption, cell).
    """

    caption: str
    alt: str
    file: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str, str, str]]]]
    note: str
    anchor: str


def compose(data: ReportData) -> JsonObject:
    """Everything that the template sets."""
    charts = Budget(CHART_BYTES, MAX_CHARTS)
    pictures = Budget(PICTURE_BYTES, MAX_PICTURES)
    tables = Budget(TABLE_BYTES)
    cards = audited_cards(data.audited)
    stated = answer(data.findings)
    seen = behind(data.figures, data.findings)
    known = [c.name for c in cards if c.kind != "VAE"] + groups_of(data.figures)
    heads = headlines(data.findings)
    decided = sum(verdict(f) in ("failed", "apart", "described") for f in heads)
    open_ones = decided + MOST_UNDECIDED
    unmeasured = sorted(
        (f for f in data.findings if not is_measured(f)), key=lambda f: f.status != "failed"
    )
    others = [e for e in data.figures if not is_grid(e)]
    leading = [e for e in others if e.leads]
    ranking = [e for e in others if e.ranking]
    figures = [e for e in others if not e.ranking and not e.leads]
    grids = [e for e in data.figures if is_grid(e) and e.id not in seen]
    figures.sort(key=lambda e: not _of_attribute(e))
    shown = [
        *leading,
        *figures[:MAX_FIGURES],
        *ranking[:MAX_FIGURES],
        *grids[:MAX_GRIDS],
        *seen.values(),
    ]
    anchors = {e.id: f"figure-{i}" for i, e in enumerate(shown, 1)}
    links = Links(shown, anchors, seen)
    worded = [headline(f, links) for f in heads[:MAX_HEADLINES]]
    # What a reader needs most draws on the budgets first.
    leads = [figure(e, anchors[e.id], known, charts, tables) for e in leading]
    lost = make_table(attrition(data.attrition), tables, TABLE_ROWS)
    listed = findings_table(data.findings, tables, MAX_FINDINGS)
    drawn = [figure(e, anchors[e.id], known, charts, tables) for e in figures[:MAX_FIGURES]]
    ranked = [figure(e, anchors[e.id], known, charts, tables) for e in ranking[:MAX_FIGURES]]
    told = [_stated(s, seen, anchors, data, pictures) for s in stated]
    return {
        "title": clip(data.title, 200),
        "tiles": tiles(data, cards),
        "answer": told,
        "leading": leads,
        "imported": "sampler" not in data.settings,
        "audited": cards[:MAX_AUDITED],
        "audited_more": max(0, len(cards) - MAX_AUDITED),
        "settings": entries(data.settings),
        "headlines": worded[:open_ones],
        "headlines_folded": worded[open_ones:],
        "headlines_total": len(heads),
        "headlines_more": len(heads) - len(worded),
        "tally": tally(heads),
        "families": families(data.findings),
        "figures": drawn[: (first := sum(map(_of_attribute, figures[:MAX_FIGURES])))],
        "further": drawn[first:],
        "figures_more": max(0, len(figures) - MAX_FIGURES),
        "grids": [grid_figure(e, anchors[e.id], data, pictures) for e in grids[:MAX_GRIDS]],
        "grids_more": max(0, len(grids) - MAX_GRIDS),
        "ranking": ranked,
        "unmeasured": [clip(sentence(f), 700) for f in unmeasured[:MAX_NOT_MEASURED]],
        "unmeasured_more": max(0, len(unmeasured) - MAX_NOT_MEASURED),
        "attrition": lost,
        "findings": listed,
        "findings_total": len(data.findings),
        "commands": [clip(c, 300) for c in data.reproduce[:MAX_COMMANDS]],
        "commands_more": max(0, len(data.reproduce) - MAX_COMMANDS),
        "provenance": entries(data.provenance),
    }


def _of_attribute(figure: Figure) -> bool:
    return figure.kind == "bar" and "attribute" in figure.subject and not figure.ranking


def _stated(
    statement: Statement,
    seen: dict[str, Figure],
    anchors: dict[str, str],
    data: ReportData,
    pictures: Budget,
) -> Stated:
    strip = seen.get(strip_of(statement.findings[0])) if statement.findings else None
    shown = grid_figure(strip, anchors[strip.id], data, pictures) if strip else None
    return Stated(statement.apart, clip(statement.lead, 400), clip(statement.details, 700), shown)


def groups_of(figures: list[Figure]) -> list[str]:
    """All groups of the charts, in order of first appearance."""
    tables = (e.table for e in figures if "group" in e.table)
    return list(dict.fromkeys(str(group) for t in tables for group in t["group"].unique()))


def tally(findings: list[Finding]) -> list[tuple[str, str, int]]:
    """(verdict, label, how many) of the headline findings."""
    counts = Counter((verdict(f), verdict_label(f)) for f in findings)
    ordered = sorted(counts.items(), key=lambda item: ORDER.index(item[0][0]))
    return [(v.replace(" ", "-"), label, n) for (v, label), n in ordered]


def families(findings: list[Finding]) -> list[tuple[str, int]]:
    """The families of the report's tests, each with how many tests it has."""
    counts = Counter(f.family for f in findings if is_test(f))
    return [(clip(name, 160), n) for name, n in counts.items()]


def figure(
    figure: Figure, anchor: str, known: list[str], charts: Budget, tables: Budget
) -> PageFigure:
    """Draw a figure, or set its table where its kind has no chart."""
    drawing = draw(figure, known, charts.count) if charts.count else None
    uris: list[dict[str, str]] = []
    note = ""
    if figure.kind in PLOTS and not charts.count:
        note = "Not drawn: this page holds no more charts."
    if drawing:
        names = ("light", "dark", "wide_light", "wide_dark")
        for p in drawing.pictures:
            if not charts.take(p.size):
                break
            sources = {n: svg_uri(source) for n, source in zip(names, p[1:], strict=True)}
            uris.append({"facet": clip(p.facet, 120)} | sources)
        left = drawing.left_out + len(drawing.pictures) - len(uris)
        more = f"{left:,} more charts than this page can hold: see report.json." if left else ""
        note = f"{drawing.note} {more}".strip()
    table = make_table(figure.table, tables, FIGURE_ROWS)
    files = figure_files(figure, drawing.pictures[: len(uris)] if drawing else [])
    words = (anchor, files, figure.kind, clip(figure.caption, 300), clip(figure.alt, 400))
    return PageFigure(*words, drawing if uris else None, uris, table, note)


def figure_files(figure: Figure, pictures: list[Picture]) -> dict[str, bytes]:
    """A figure as files for papers: every chart as SVG on a light ground, the table as CSV."""
    name = file_name(figure.id).removesuffix(".png")
    numbers = [f"-{i}" for i in range(1, len(pictures) + 1)] if len(pictures) > 1 else [""]
    files = {
        f"{name}{number}.svg": (one.wide_light or one.light).encode()
        for number, one in zip(numbers, pictures, strict=False)
    }
    return files | {f"{name}.csv": csv_bytes(figure.table)}


def svg_uri(source: str) -> str:
    """An SVG as a data: URI; '' for none."""
    return data_uri(source.encode(), "image/svg+xml") if source else ""


def grid_figure(figure: Figure, anchor: str, data: ReportData, pictures: Budget) -> PageGrid:
    """The corner of a grid that the page shows, as thumbnails: whole rows, while they fit."""
    grid = read_grid(figure.table)
    columns = grid.columns[:GRID_COLUMNS]
    heads = [clip(c, 60) for c in columns]
    rows: list[tuple[str, list[tuple[str, str, str, str]]]] = []
    for row in grid.rows[:GRID_ROWS]:
        if not pictures.count:
            break
        label = clip(row, 120)
        places = [_place(grid.places.get((row, column)), data.images) for column in columns]
        # A heading is set beside its image, in its alt text and in the list of ids.
        size = sum(
            markup_size((*place, place[3], label, label, head, head))
            for place, head in zip(places, heads, strict=True)
        )
        if not pictures.take(size, len(places)):
            break
        rows.append((label, places))
    left_out = len(grid.rows) * len(grid.columns) - len(rows) * len(columns)
    note = f"{left_out:,} more in the run folder." if left_out else ""
    about = (clip(figure.caption, 300), clip(figure.alt, 400))
    return PageGrid(*about, f"grids/{file_name(figure.id)}", heads, rows, note, anchor)


def _place(place: Place | None, images: Images) -> tuple[str, str, str, str]:
    found = picture(place, images)
    words = (clip(place.caption, 60), clip(place.cell, 80)) if place else ("", "")
    if isinstance(found, str):
        return ("", clip(found, 80), *words)
    return (data_uri(thumbnail(found), "image/webp"), "", *words)


def attrition(table: pd.DataFrame) -> pd.DataFrame:
    """The attrition table with the missing share of every arm."""
    if not {"planned", "made"} <= set(table.columns):
        return table
    planned = pd.to_numeric(table["planned"]).where(lambda n: n > 0)
    missing = 100 * (1 - pd.to_numeric(table["made"]) / planned)
    out = table.copy()
    out.insert(out.columns.get_loc("made") + 1, "missing, %", missing.round(1))
    return out
