"""Findings as a table to filter: verdicts by the report's own rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from dashboard.queries import RunView
from probes.contracts import Finding
from probes.finding_rows import findings_frame
from reports.sentences import value_text
from reports.verdicts import AGAINST, is_measured, verdict

LABELS = {
    "failed": "Failed",
    "apart": "Stands out",
    "cannot tell": "We cannot tell",
    "described": "Measured",
    "not measured": "Not measured",
}
"""Verdicts of `reports.verdicts`, in the order in which they are told."""
SUBJECT = ("attribute", "arm", "prompt", "class")
SHOWN = (
    *("value", "low", "high", "null", "reference", "p", "p_unadjusted", "n", "unit", "targets"),
    *("estimand", "instrument", "reading", "family", "adjustment", "note"),
)
"""Fields of a finding's row that the table shows."""


def frame(run: RunView) -> pd.DataFrame:
    """One row a finding, with its verdict; the index is its place in `run.findings`.

    Kept with the run: of many findings it takes a second.
    """
    if "findings" not in run.cache:
        run.cache["findings"] = table(run.findings)
    return run.cache["findings"]


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """As `frame`, of any findings: by verdict, those of all prompts before those of one."""
    columns: dict[str, list[object]] = {
        "id": [f.id for f in findings],
        "verdict": [verdict(f) for f in findings],
        "headline": [f.headline or f.status == "failed" for f in findings],
        "probe": [f.probe for f in findings],
        "metric": [f.metric.name.replace("_", " ") for f in findings],
    }
    columns |= {k: [f.subject.get(k, "") for f in findings] for k in SUBJECT}
    made = pd.concat([pd.DataFrame(columns), findings_frame(findings)[list(SHOWN)]], axis=1)
    made["headline"] = made["headline"].astype(bool)
    place = {v: i for i, v in enumerate(LABELS)}
    made["order"] = made["verdict"].map(place)
    made["alone"] = made["prompt"] != ""
    made = made.sort_values(["order", "alone"], kind="stable")
    return made.drop(columns=["order", "alone"])


def tally(rows: pd.DataFrame) -> dict[str, int]:
    """How many findings have each verdict; all verdicts are named."""
    counts = rows["verdict"].value_counts() if len(rows) else {}
    return {v: int(counts.get(v, 0)) for v in LABELS}


def chosen(
    rows: pd.DataFrame, pick: Mapping[str, Sequence[str]], search: str | None, headlines: bool
) -> pd.DataFrame:
    """The rows that pass all filters; an empty choice passes everything.

    Args:
        rows: of `frame`.
        pick: wanted values by column.
        search: words that must all occur in id, metric, subject or note, in any case.
        headlines: only headline findings.
    """
    keep = rows["headline"].astype(bool) if headlines else pd.Series(True, index=rows.index)
    for column, values in pick.items():
        if values:
            keep &= rows[column].isin(list(values))
    for word in (search or "").lower().split():
        text = rows["id"].str.lower() + " " + rows["note"].str.lower()
        keep &= text.str.contains(word, regex=False)
    return rows[keep]


def across(runs: Mapping[str, RunView], metric: str) -> pd.DataFrame:
    """Findings of one metric in several runs, for a chart: a facet an attribute and class."""
    rows = []
    for name, run in runs.items():
        for f in run.findings:
            if f.metric.name == metric and f.headline and is_measured(f):
                about = [f.subject.get(k, "") for k in ("attribute", "class", "group")]
                about += [f"against {f.subject[k]}" for k in AGAINST if k in f.subject]
                facet = " · ".join(s for s in about if s)
                label = f.subject.get("arm", "") or f.instrument
                rows.append((label, f.value, f.low, f.high, name, facet, f.id, value_text(f)))
    columns = ["label", "value", "low", "high", "group", "facet", "id", "in words"]
    return pd.DataFrame(rows, columns=columns)
