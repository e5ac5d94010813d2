"""One number a cell, of any metric that an instrument declares."""

from __future__ import annotations

import pandas as pd

from probes.contracts import Instrument, MetricSpec


def declared(instrument: Instrument) -> tuple[MetricSpec, ...]:
    """The metrics that an instrument says it has in columns of its table; none where it does not.

    Args:
        instrument: Any instrument.
    """
    metrics: tuple[MetricSpec, ...] = getattr(instrument, "metrics", ())
    return tuple(m for m in metrics if m.column)


def cell_values(instrument: Instrument, metric: MetricSpec, table: pd.DataFrame) -> pd.Series:
    """The metric of each cell.

    An instrument with several rows a cell has a method `by_cell`, from its table to one row a cell
    with the metrics' columns; of others the first row of a cell counts.

    Args:
        instrument: What scored.
        metric: One of those that it declares.
        table: Its scores.

    Returns:
        float, indexed by cell; empty where the table lacks the column.
    """
    by_cell = getattr(instrument, "by_cell", None)
    held = by_cell(table) if by_cell is not None and len(table) else table
    if "cell" not in held or metric.column not in held:
        return pd.Series(dtype=float)
    column = held.drop_duplicates("cell").set_index("cell")[metric.column]
    return column.astype(float)
