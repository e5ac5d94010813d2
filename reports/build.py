"""Write a report, each file whole or not at all.

    html   index.html and grids/*.png
    json   report.json
    card   card.md, a model card; summary.md, summary.html and summary.png for model sites
    csv    csv/findings.csv and csv/figures/*.csv

The page holds no script and asks for nothing: its policy (`default-src 'none'`) forbids both.
Jinja escapes every value; nothing is ever marked safe.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from harness.files import checksums
from harness.files.atomic import write_atomic
from harness.terminal import plain_json
from probes.finding_rows import FORMAT, as_row, figure_row
from reports import ReportData
from reports.csv_files import write_sheets
from reports.grids import file_name, is_grid, read_grid, sheet
from reports.page import compose

PAGE_BYTES = 10_000_000
FORMATS = {
    "html": "index.html",
    "card": "card.md",
    "json": "report.json",
    "csv": "csv/findings.csv",
}
"""Formats and the main file of each."""


def write_report(
    data: ReportData, folder: Path, formats: Collection[str] = ("html", "json")
) -> list[Path]:
    """Write the report into a folder, replacing an older one file by file.

    Args:
        data: What it says.
        folder: Where.
        formats: Of `FORMATS`.

    Returns:
        The main file of each format, in the order of `FORMATS`.

    Raises:
        ValueError: a figure lacks a column that its kind needs.
    """
    page = render(data) if "html" in formats else b""
    if "html" in formats:
        for figure in data.figures:
            if is_grid(figure):
                picture = sheet(read_grid(figure.table), figure.caption, data.images)
                write_atomic(folder / "grids" / file_name(figure.id), picture)
    if "json" in formats:
        values = as_json(data) | {checksums.KEY: checksums.BLANK.decode()}
        text = plain_json(json_text(values))
        write_atomic(folder / "report.json", checksums.seal(text.encode()))
    if "card" in formats:
        write_card(data, folder)
    if "csv" in formats:
        write_sheets(data, folder / "csv")
    if "html" in formats:
        write_atomic(folder / "index.html", page)
    return [folder / name for kind, name in FORMATS.items() if kind in formats]


def write_card(data: ReportData, folder: Path) -> None:
    """Write the model card, and the summary with its picture."""
    from reports import card, summary

    picture = summary.summary_picture(data)
    if picture:
        write_atomic(folder / summary.PICTURE, picture)
    for name, text in (
        ("card.md", card.card(data)),
        ("summary.md", summary.summary_markdown(data, bool(picture))),
        ("summary.html", summary.summary_html(data, bool(picture))),
    ):
        write_atomic(folder / name, text.encode("utf-8", "replace"))


def render(data: ReportData) -> bytes:
    """The page as UTF-8 HTML, below 10 MB."""
    html = template("page.html.j2").render(compose(data)).encode("utf-8", "replace")
    assert len(html) < PAGE_BYTES, f"the page has {len(html):,} bytes; its budgets are wrong"
    return html


def template(name: str) -> jinja2.Template:
    """A page's template; every value that it sets is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nb"] = no_break
    return environment.get_template(name)


def no_break(text: str) -> str:
    """Keep a number and its percent sign, and an interval's two ends, on one line."""
    text = re.sub(r"\bp ([=<]) ", "p\u00a0\\1\u00a0", text)
    together = re.sub(r"\[[^\[\]]{1,24}\]", lambda found: found[0].replace(" ", "\u00a0"), text)
    return together.replace(" %", "\u00a0%")


def as_json(data: ReportData) -> dict[str, Any]:
    """All of the report but its pictures, as JSON values; numbers that are not, are null."""
    figures = []
    for e in data.figures:
        file = {"file": f"grids/{file_name(e.id)}"} if is_grid(e) else {}
        figures.append(file | figure_row(e))
    whole = {
        "report": FORMAT,
        "title": data.title,
        "audited": data.audited,
        "settings": data.settings,
        "findings": [as_row(f) for f in data.findings],
        "figures": figures,
        "attrition": data.attrition.to_dict("records"),
        "reproduce": data.reproduce,
        "provenance": data.provenance,
    }
    plain: dict[str, Any] = _plain(whole)
    return plain


def json_text(values: dict[str, Any]) -> str:
    """JSON with one item of a list a line: easy to search, and json's fast encoder writes it."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    parts = []
    for key, value in values.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(encode(item) for item in value) + "\n]"
        else:
            text = encode(value)
        parts.append(f"{encode(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if value is pd.NA or value is pd.NaT:
        return None
    # A lone surrogate (an undecodable path) would make the file invalid UTF-8.
    return str(value).encode("utf-8", "replace").decode()
