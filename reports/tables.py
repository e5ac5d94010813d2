"""Tables of the page: formatted, cut to a stated number of rows, and counted in bytes.

Every part of the page draws on a budget, so that the page stays below 10 MB whatever the run:
browsers stumble long before that. What does not fit is counted and named, never dropped in
silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite
from numbers import Integral, Real
from typing import NamedTuple

import pandas as pd

from probes.contracts import Finding
from reports.sentences import amount, attribute, p_text, scope, target_text, value_text, who
from reports.text import clip, number
from reports.verdicts import verdict_label

CELL_TEXT = 120
MARKUP = 40
"""Bytes counted for the tags around one table cell."""
FINDING_COLUMNS = {
    "metric": False,
    "arm": False,
    "attribute": False,
    "prompt": False,
    "value [95 %]": True,
    "target": False,
    "null": True,
    "n": True,
    "p": False,
    "scope": False,
    "verdict": False,
}
"""Columns of the table of findings, and whether they are set to the right."""


class Budget:
    """Bytes, and pieces, that may still go into the page."""

    def __init__(self, size: int, count: int = 1_000_000) -> None:
        self.size = size
        self.count = count

    def take(self, size: int, pieces: int = 1) -> bool:
        """Take pieces of this size together if they fit; once some did not, none do."""
        if size > self.size or pieces > self.count:
            self.size = self.count = 0
            return False
        self.size -= size
        self.count -= pieces
        return True


class Table(NamedTuple):
    """A table ready to be set.

    Attributes:
        columns: headings.
        numeric: whether a column holds numbers, set to the right.
        rows: text of every cell.
        more: rows that did not fit.
    """

    columns: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    more: int


def make_table(table: pd.DataFrame, budget: Budget, limit: int) -> Table:
    """The first rows of a table as text; NaN is '–'."""
    columns = [clip(c, CELL_TEXT) for c in table.columns]
    numeric = [pd.api.types.is_numeric_dtype(d) for d in table.dtypes]
    records = table.head(limit).itertuples(index=False, name=None)
    rows = fitting(([show(v) for v in record] for record in records), budget)
    return Table(columns, numeric, rows, len(table) - len(rows))


def findings_table(findings: Sequence[Finding], budget: Budget, limit: int) -> Table:
    """One row a finding: headline ones first, else in the order given."""
    order = sorted(findings, key=lambda f: not f.headline)[:limit]
    rows = fitting((_finding_row(f) for f in order), budget)
    columns, numeric = list(FINDING_COLUMNS), list(FINDING_COLUMNS.values())
    return Table(columns, numeric, rows, len(findings) - len(rows))


def fitting(rows: Iterable[list[str]], budget: Budget) -> list[list[str]]:
    """The rows up to the first that does not fit the budget."""
    out = []
    for row in rows:
        if not budget.take(markup_size(row)):
            break
        out.append(row)
    return out


def markup_size(cells: Iterable[str]) -> int:
    """Bytes of these texts in the page, each within its tags."""
    return sum(MARKUP + len(escape(cell).encode()) for cell in cells)


def show(value: object) -> str:
    """One value as text: numbers short, lists joined, nothing as '–'."""
    if isinstance(value, dict):
        return clip(", ".join(f"{k}: {show(v)}" for k, v in value.items()), CELL_TEXT)
    if isinstance(value, (list, tuple)):
        return clip(", ".join(show(v) for v in value), CELL_TEXT)
    if value is None or value is pd.NA or value is pd.NaT:
        return "–"
    if isinstance(value, (bool, str)):
        return clip(value, CELL_TEXT) or "–"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    return number(float(value)) if isinstance(value, Real) else clip(value, CELL_TEXT)


def _finding_row(finding: Finding) -> list[str]:
    subject = finding.subject
    about = attribute(finding) + (f" ({subject['class']})" if "class" in subject else "")
    null = amount(finding, finding.reference.null)
    if isfinite(finding.reference.null_q95):
        null += f"; 95 % below {amount(finding, finding.reference.null_q95)}"
    cells = [
        finding.metric.name.replace("_", " "),
        who(finding),
        about,
        subject.get("prompt", ""),
        value_text(finding),
        target_text(finding),
        null,
        f"{finding.n:,}",
        p_text(finding),
        scope(finding),
        verdict_label(finding),
    ]
    return [clip(cell, CELL_TEXT) or "–" for cell in cells]
