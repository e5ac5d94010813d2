"""report.json: all of a report but its images, as plain data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import reading
from harness.files import checksums
from harness.files.atomic import write_atomic
from harness.json_types import JsonObject
from harness.terminal import plain_json
from probes.contracts import Finding
from probes.finding_rows import FORMAT, as_row, figure_row, from_row
from reports import ReportData
from reports.grids import file_name, is_grid

FILE = "report.json"


def write(data: ReportData, folder: Path) -> None:
    """Write report.json, sealed with its own checksum."""
    values = as_json(data) | {checksums.KEY: checksums.BLANK.decode()}
    write_atomic(folder / FILE, checksums.seal(plain_json(json_text(values)).encode()))


def read_findings(path: Path) -> list[Finding]:
    """The findings of a report.json, in its order.

    Raises:
        AuditError: The file is not there, or is no report.
    """
    with reading(path):
        rows = json.loads(path.read_text(encoding="utf-8"))["findings"]
        return [from_row(row) for row in rows]


def as_json(data: ReportData) -> JsonObject:
    """All of the report but its images, as JSON values; numbers that are not, are null."""
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
    plain: JsonObject = _plain(whole)
    return plain


def json_text(values: JsonObject) -> str:
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


def _plain(value: object) -> Any:
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
