"""The tables that a spec names: people's labels, and how a classifier errs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import reference
from audit.pipeline.session import Audit
from harness.errors import SpecError
from harness.files import csv_tables
from harness.plan.cells import ARM
from harness.spec.label_classes import resolve_classes, resolve_labels
from harness.store.run import LABEL_COLUMNS
from harness.text import slug

NEEDED = {
    "confusion_matrix": ["attribute", "instrument", "true", "outcome", "count"],
    "labels": ["cell", "attribute", "class"],
}
"""Columns of the tables that a spec may name."""
NUMBERS = ("count", "steps", "guidance", "width", "height")
"""Columns of a confusion matrix that hold numbers."""


def read_labels(audit: Audit) -> pd.DataFrame:
    """The labels that the spec names, as text: cell, attribute, class, rater.

    Attributes and classes are spelled as declared; rows without a class are left out.

    Raises:
        SpecError: The file cannot be read, or lacks a column.
        LabelError: It holds values that are no class, and that the spec's map does not translate.
    """
    spec = audit.spec.labels
    if spec is None or spec.file is None:
        return pd.DataFrame({c: pd.Series(dtype=str) for c in LABEL_COLUMNS})
    table = _read(audit, "labels", spec.file)
    table["rater"] = table.get("rater", "")
    table = resolve_labels(table, audit.spec.attributes, spec.map, f"labels: {spec.file}")
    return table[list(LABEL_COLUMNS)]


def read_errors(audit: Audit) -> pd.DataFrame | None:
    """The confusion matrix that the spec names, or None where it names none.

    Returns:
        Columns as in the file: attribute, instrument, true and outcome (spelled as declared),
        count (whole numbers) and settings (numbers where the plan has numbers, NaN where empty).

    Raises:
        SpecError: The file cannot be read, lacks a column, or a count is no whole number.
        LabelError: A class in it is not declared.
    """
    source = audit.spec.confusion_matrix
    if source is None:
        return None
    where = f"confusion_matrix: {source}"
    table = _read(audit, "confusion_matrix", source)
    for line, count in enumerate(table["count"], 2):
        if not (count.isascii() and count.isdigit()):
            raise SpecError(f"{where}: row {line}: count is {count!r}, not a whole number from 0")
    for column in NUMBERS:
        if column in table:
            try:
                table[column] = pd.to_numeric(table[column].replace("", float("nan")))
            except ValueError:
                raise SpecError(f"{where}: column {column!r} holds what is no number") from None
    for attribute in audit.spec.attributes:
        own = table["attribute"].map(slug) == attribute.name
        table.loc[own, "attribute"] = attribute.name
        for column in ("true", "outcome"):
            found = resolve_classes(
                table.loc[own, column],
                attribute,
                {},
                f"{where}: column {column!r}",
                "correct the file",
            )
            table.loc[own, column] = table.loc[own, column].map(found)
    settings = [c for c in table if c in ARM]
    table[settings] = table[settings].replace("", float("nan"))
    return table


def _read(audit: Audit, key: str, source: str) -> pd.DataFrame:
    """A CSV that the spec names under `key`, as text."""
    if source.startswith("reference:"):
        path = reference.MODELS.parent / source.removeprefix("reference:")
    else:
        path = audit.base / Path(source).expanduser()
    try:
        columns, rows = csv_tables.read_table(path)
    except csv_tables.TableError as error:
        raise SpecError(f"{key}: {error}") from None
    missing = [c for c in NEEDED[key] if c not in columns]
    if missing:
        needed = ", ".join(NEEDED[key])
        raise SpecError(f"{key}: {source}: column {missing[0]!r} is missing; needed: {needed}")
    return pd.DataFrame(rows, columns=columns)
