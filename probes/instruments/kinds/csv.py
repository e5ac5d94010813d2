"""A table of what each image shows: counted by people, or by a program elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.errors import AuditError
from harness.files.csv_tables import TableError, read_table
from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.spec.sections import Fit, InstrumentSpec
from harness.text import nearest
from probes.contracts import Batch
from probes.instruments.kinds import Kind, KindOptions, Reader, register
from probes.instruments.labels import LabelReader, LabelScores

KEY = "cell"


class CsvOptions(KindOptions):
    """A table with one row an image.

    Attributes:
        csv: file with the column `cell`, as `audit export` writes it, and the outcomes.
        column: column that holds each image's label.
    """

    csv: str
    column: str


@register
class Csv(Kind[CsvOptions]):
    """Outcomes from a table."""

    name = "csv"
    Options = CsvOptions
    paths = ("csv",)

    def reader(self, name: str, options: CsvOptions, common: InstrumentSpec, fit: Fit) -> Reader:
        """A reader of the column's values."""
        return LabelReader(name, common, fit, lambda: Table(name, options))


class Table:
    """The labels that a table gives to images.

    Args:
        name: Of the instrument, for messages.
        options: Which table.

    Raises:
        AuditError: The table cannot be read, or lacks a column.
    """

    exclusive = True
    whole = True

    def __init__(self, name: str, options: CsvOptions) -> None:
        try:
            columns, rows = read_table(Path(options.csv))
        except TableError as error:
            raise AuditError(f"instruments.{name}: {error}") from None
        for column in (KEY, options.column):
            if column not in columns:
                raise AuditError(
                    f"instruments.{name}: {options.csv}: no column {column!r}; "
                    f"{nearest(column, tuple(columns))}"
                )
        self.told = {row[KEY]: value for row in rows if (value := row[options.column].strip())}
        self.labels = tuple(sorted(set(self.told.values())))
        if not self.labels:
            raise AuditError(f"instruments.{name}: {options.csv}: {options.column!r} is empty")

    def identity(self) -> JsonObject:
        """Digest of the column."""
        return {"table": canonical_digest(self.told)}

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """1 for an image's label; what the table lacks is not known."""
        told = [self.told.get(cell) for cell in batch.cells]
        known = np.array([value is not None for value in told], bool)
        values = np.array([[float(v == label) for label in self.labels] for v in told])
        return LabelScores(values, np.ones(len(told), bool), known, [None] * len(told))
