"""The headline findings as a LaTeX table, for papers: needs the packages booktabs and longtable."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.files.atomic import write_atomic
from reports import ReportData
from reports.tables import FINDING_COLUMNS, Budget, findings_table
from reports.text import clip
from reports.verdicts import headlines

FILE = "findings.tex"
MOST = 500


def write(data: ReportData, folder: Path) -> None:
    """Write findings.tex: a longtable, what claims something first."""
    write_atomic(folder / FILE, table(data).encode("utf-8", "replace"))


def table(data: ReportData) -> str:
    """The table as text; what does not fit is counted in its caption."""
    found = headlines(data.findings)
    rows = findings_table(found, Budget(10_000_000), MOST)
    frame = pd.DataFrame(rows.rows, columns=rows.columns)
    empty = [c for c in frame if frame[c].isin(["", "–"]).all()]
    frame = frame.drop(columns=empty)
    more = f"; {rows.more:,} more in report.json" if rows.more else ""
    caption = f"Headline findings of {clip(data.title, 120)}, with 95 % intervals{more}."
    text: str = frame.to_latex(
        index=False,
        escape=True,
        longtable=True,
        caption=escaped(caption),
        label="tab:diffusion-audit",
        column_format="".join("r" if FINDING_COLUMNS[c] else "l" for c in frame),
    )
    return text


def escaped(text: str) -> str:
    """Text as LaTeX sets it."""
    special = dict(zip("&%$#_{}", [f"\\{c}" for c in "&%$#_{}"], strict=True))
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, c) for c in text)
