"""Findings as 0.1.0 and early 0.2.0 wrote them, in the fields of today.

Those files name no kind of metric and give targets as words, so that here, and nowhere else, both
are read from words.
"""

from __future__ import annotations

import re

import pandas as pd

from harness.json_types import JsonObject
from probes.contracts import MetricKind

TARGET = re.compile(r"(?:(.*\S)\s+)?(\d*\.?\d+)\s*(%|% each)?")
AGAINST = {"baseline", "against", "versus"}


def old_row(row: JsonObject) -> JsonObject:
    """A row of an old report.json as `probes.finding_rows.from_row` takes it.

    Raises:
        KeyError, TypeError, ValueError: The row is no finding.
    """
    kind = _kind(row)
    targets = _targets(str(row.get("target") or ""))
    own = row["subject"].get("class", "")
    tested = row.get("tested_against")
    reference = targets.get(own, targets.get("")) if kind == "share" else None
    if kind == "share" and reference is None and own:
        reference = row.get("null")
    higher = row.get("higher_is_better")
    estimand = str(row.get("estimand", "this suite"))
    better = None if higher is None else "higher" if higher else "lower"
    return {**row} | {
        "kind": kind,
        "estimand": "images like these" if estimand == "pictures like these" else estimand,
        "better": better,
        "reference": reference if tested is None else tested,
        "targets": targets,
    }


def old_figure(row: JsonObject) -> JsonObject:
    """A figure of an old report.json, of which only the id says whose and of what it is."""
    parts = str(row["id"]).split("/")
    of_attributes = ("shares", "ranking", "intersection", "disagreement", "agreement")
    probe = "attributes" if parts[0] in of_attributes else parts[0]
    subject = {}
    if parts[0] == "intersection" and len(parts) == 4:
        subject = {"attribute": parts[2], "by": parts[3]}
    elif len(parts) > 1 and parts[0] in ("shares", "ranking"):
        subject = {"instrument": parts[1]}
    elif len(parts) > 2:
        subject = {"instrument": parts[2]}
    told = {"probe": probe, "subject": subject, "ranking": parts[0] == "ranking"}
    return {**row} | told


def old_subjects(table: pd.DataFrame) -> pd.DataFrame:
    """An old findings.parquet, whose subjects are words, with a column for each key of them."""
    if "subject" not in table:
        return table
    subjects = [
        dict(part.split(": ", 1) for part in words.split("; ") if ": " in part)
        for words in table["subject"]
    ]
    held = pd.DataFrame(subjects, index=table.index).fillna("").add_prefix("subject.")
    return pd.concat([table.drop(columns="subject"), held], axis=1)


def _kind(row: JsonObject) -> MetricKind:
    metric = str(row["metric"]).lower()
    if "difference" in metric or AGAINST & {*row["subject"]}:
        return "shift"
    if "distance" in metric or "variation" in metric:
        return "distance"
    if "share" in metric or row.get("unit") == "share":
        return "share"
    return "level" if row.get("tested_against") is None else "shift"


def _targets(words: str) -> dict[str, float]:
    """'man 0.4, woman 60 %' gives .4 and .6; one number stands for every class (key '')."""
    shares = {}
    for item in words[:2000].split(","):
        found = TARGET.fullmatch(item.strip())
        if not found:
            return {}
        shares[found[1] or ""] = float(found[2]) / (100 if found[3] else 1)
    return shares
