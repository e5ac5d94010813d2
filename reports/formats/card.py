"""card.md, a model card; summary.md, summary.html and summary.png for model sites."""

from __future__ import annotations

from pathlib import Path

from harness.files.atomic import write_atomic
from reports import ReportData
from reports.card import card
from reports.summary import PICTURE, summary_html, summary_image, summary_markdown

FILE = "card.md"


def write(data: ReportData, folder: Path) -> None:
    """Write the model card, and the summary with its image."""
    picture = summary_image(data)
    if picture:
        write_atomic(folder / PICTURE, picture)
    for name, text in (
        (FILE, card(data)),
        ("summary.md", summary_markdown(data, bool(picture))),
        ("summary.html", summary_html(data, bool(picture))),
    ):
        write_atomic(folder / name, text.encode("utf-8", "replace"))
