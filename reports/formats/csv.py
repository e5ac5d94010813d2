"""The findings and every figure's table as CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.files.atomic import write_atomic
from probes.finding_rows import findings_frame
from reports import ReportData
from reports.escaping import spreadsheet
from reports.grids import file_name

FILE = "csv/findings.csv"


def write(data: ReportData, folder: Path) -> None:
    """Write csv/findings.csv and csv/figures/<id>.csv; what was not measured is an empty field."""
    write_atomic(folder / FILE, csv_bytes(findings_frame(data.findings)))
    for figure in data.figures:
        name = file_name(figure.id).removesuffix(".png")
        write_atomic(folder / "csv/figures" / f"{name}.csv", csv_bytes(figure.table))


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as CSV in UTF-8; text that a spreadsheet would run as a formula is quoted."""
    safe = table.copy()
    for column in safe.columns[[not pd.api.types.is_numeric_dtype(d) for d in safe.dtypes]]:
        safe[column] = safe[column].map(spreadsheet)
    safe.columns = [str(spreadsheet(str(c))) for c in safe.columns]
    return safe.to_csv(index=False).encode("utf-8", "replace")
