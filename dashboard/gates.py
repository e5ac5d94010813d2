"""What a gate decided, read from its gate.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.json_types import JsonObject

Colour = Literal["green", "red", "orange", "gray"]
MARKS: dict[str, tuple[Colour, str]] = {
    "PASS": ("green", ":material/check_circle:"),
    "FAIL": ("red", ":material/cancel:"),
    "INCONCLUSIVE": ("orange", ":material/help:"),
    "ERROR": ("gray", ":material/error:"),
}
"""Colour and sign of each verdict."""
COLUMNS = {
    "label": "id",
    "verdict": "verdict",
    "baseline": "baseline",
    "candidate": "candidate",
    "value": "value",
    "low": "low",
    "high": "high",
    "worse by at most": "worse_high",
    "margin": "margin",
    "p_adjusted": "p_adjusted",
    "worse is": "bad",
    "needs": "needs",
    "note": "note",
}


def read_gate(path: Path) -> JsonObject:
    """A gate's record.

    Raises:
        ValueError: Not JSON, or not a gate's.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or "verdict" not in record:
        raise ValueError("no verdict in it: not a gate.json")
    return record


def metric_rows(record: JsonObject) -> pd.DataFrame:
    """One row a metric, with the columns that a chart of intervals takes; group: the verdict."""
    rows = [
        {name: metric.get(key) for name, key in COLUMNS.items()}
        for metric in record.get("metrics", [])
    ]
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    return made.assign(group=made["verdict"])
