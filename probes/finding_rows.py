"""Findings and figures as rows, and back: what report.json and findings.parquet hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from math import nan

import pandas as pd

from harness.json_types import JsonObject
from probes.contracts import Figure, Finding, MetricSpec, Reference
from probes.old_rows import old_figure, old_row

FORMAT = 2
"""Version of report.json; from_row reads rows of version 1 as well."""
SUBJECT = "subject."
"""Before the key of a subject, in the name of a column."""
FLAT = tuple(f.name for f in fields(Finding) if f.name not in ("metric", "subject", "reference"))
OF_METRIC = ("metric", "kind", "unit", "better")
OF_REFERENCE = ("reference", "null", "null_q95")
COLUMNS = ("id", "probe", *OF_METRIC, *FLAT[2:], *OF_REFERENCE, "targets")
"""The fields of a row, but for its subject."""
NUMBERS = ("value", "low", "high", "p", "p_unadjusted", *OF_REFERENCE)


def as_row(finding: Finding) -> JsonObject:
    """A finding as one flat mapping; its subject and its targets are mappings in it."""
    metric, reference = finding.metric, finding.reference
    row = {name: getattr(finding, name) for name in FLAT}
    row |= {"metric": metric.name, "kind": metric.kind, "unit": metric.unit}
    row |= {"better": metric.better, "reference": reference.value, "null": reference.null}
    row |= {"null_q95": reference.null_q95, "targets": dict(reference.targets)}
    row = {name: row[name] for name in COLUMNS}
    return {"id": row.pop("id"), "probe": row.pop("probe"), "subject": dict(finding.subject)} | row


def findings_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table, one row each.

    Returns:
        The columns `COLUMNS`, 'targets' as words ('man 0.5, woman 0.5'), and one column
        'subject.KEY' for each key of a subject ('' where a finding has none).
    """
    rows = [as_row(f) for f in findings]
    keys = dict.fromkeys(key for row in rows for key in row["subject"])
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["targets"] = [targets_text(row["targets"]) for row in rows]
    subjects = {SUBJECT + key: [row["subject"].get(key, "") for row in rows] for key in keys}
    return pd.concat([frame, pd.DataFrame(subjects, index=frame.index)], axis=1)


def targets_text(targets: Mapping[str, float]) -> str:
    """Targets by class in words: 'man 0.5, woman 0.5'."""
    return ", ".join(f"{name} {share:.3g}".strip() for name, share in targets.items())


def from_row(row: JsonObject) -> Finding:
    """A finding of a row of report.json, in which a number that was not measured is null.

    Rows of 0.1.0, which say less, are read by `old_row`.

    Raises:
        KeyError, TypeError, ValueError: The row is no finding.
    """
    row = dict(row if "kind" in row else old_row(row))
    number = {name: nan if row.get(name) is None else float(row[name]) for name in NUMBERS}
    metric = MetricSpec(row["metric"], row["kind"], row.get("unit") or "", row.get("better"))
    targets = {str(k): float(v) for k, v in (row.get("targets") or {}).items()}
    reference = Reference(number["reference"], number["null"], number["null_q95"], targets)
    known = {name: row[name] for name in FLAT if name in row} | {
        name: number[name] for name in FLAT if name in number
    }
    subject = {str(k): str(v) for k, v in row["subject"].items()}
    return Finding(**known | {"metric": metric, "subject": subject, "reference": reference})


def figure_row(figure: Figure) -> JsonObject:
    """A figure as report.json holds it."""
    row = {f.name: getattr(figure, f.name) for f in fields(Figure)}
    return row | {"table": figure.table.to_dict("records")}


def figure_from_row(row: JsonObject) -> Figure:
    """A figure of report.json; what is no figure of its kind is shown as its table.

    Raises:
        KeyError, TypeError, ValueError: The row is no figure.
    """
    row = row if "probe" in row else old_figure(row)
    words = {name: str(row[name]) for name in ("id", "caption", "alt", "probe")}
    subject = {str(k): str(v) for k, v in row["subject"].items()}
    held = {**words, "table": pd.DataFrame(row["table"]), "subject": subject}
    leads = bool(row.get("leads", False))
    try:
        return Figure(kind=row["kind"], ranking=bool(row["ranking"]), leads=leads, **held)
    except ValueError:
        return Figure(kind="table", leads=leads, **held)
