"""index.html, the grids' images, and the figures as files.

The page holds no script and asks for nothing: its policy (`default-src 'none'`) forbids both.
"""

from __future__ import annotations

from pathlib import Path

from harness.files.atomic import write_atomic
from harness.json_types import JsonObject
from reports import ReportData
from reports.grids import file_name, is_grid, read_grid, sheet
from reports.page import compose
from reports.templating import PAGE_BYTES, template

FILE = "index.html"


def write(data: ReportData, folder: Path) -> None:
    """Write the page last, so that what it links to is there."""
    values = compose(data)
    page = render(data, values)
    for one in (*values["figures"], *values["further"], *values["ranking"]):
        for name, content in one.files.items():
            write_atomic(folder / "figures" / name, content)
    for figure in data.figures:
        if is_grid(figure):
            picture = sheet(read_grid(figure.table), figure.caption, data.images)
            write_atomic(folder / "grids" / file_name(figure.id), picture)
    write_atomic(folder / FILE, page)


def render(data: ReportData, values: JsonObject | None = None) -> bytes:
    """The page as UTF-8 HTML, below 10 MB.

    Args:
        data: What it says.
        values: What `compose` made of it, where that is known.
    """
    told = compose(data) if values is None else values
    html = template("page.html.j2").render(told).encode("utf-8", "replace")
    assert len(html) < PAGE_BYTES, f"the page has {len(html):,} bytes; its budgets are wrong"
    return html
