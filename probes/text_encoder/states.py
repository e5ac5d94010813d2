"""Hidden states of texts, as they are scored, and the parts of a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.json_types import JsonObject
from harness.spec.schema import Spec
from harness.text import slug
from probes.contracts import (
    Batch,
    Context,
    Finding,
    MetricSpec,
)

PROBE = "text"

COUNTED = "counted"
"""Kind of the texts whose tokens alone are wanted."""
READER = ["checkpoint", "adapters", "encoder"]

PARTS = ("all positions", "start", "words", "end", "padding")


class TextStates:
    """Tokens and hidden states of each text; measured once a checkpoint, not by batch.

    Args:
        texts: Texts wanted beside the spec's prompts, negatives and attributes.
        counted: Texts whose tokens alone are wanted.
    """

    name = "text"
    version = "2"
    inputs = frozenset({"text"})

    def __init__(self, texts: Sequence[str] = (), counted: Sequence[str] = ()) -> None:
        self.texts, self.counted = texts, counted

    def cache_key(self) -> JsonObject:
        """Version."""
        return {"version": self.version, "name": self.name}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Nothing: texts are measured once a checkpoint, without images."""
        return pd.DataFrame({"cell": pd.Series(dtype=str)})


def about_reader(row: pd.Series, spec: Spec) -> dict[str, str]:
    """Who reads: checkpoint, adapters where they vary, encoder where it is not the only one."""
    about = {"checkpoint": str(row["checkpoint"])}
    if len(spec.adapters) > 1:
        about["adapters"] = str(row["adapters"])
    return about | ({"encoder": str(row["encoder"])} if row["encoder"] else {})


def states_of(row: pd.Series) -> NDArray[np.float64]:
    """Hidden states of one text, (length, width)."""
    return np.asarray(row["states"], float).reshape(-1, int(row["width"]))


def part_of(row: pd.Series, part: str) -> list[int]:
    """Positions of a part of the text: see `PARTS`; may be empty."""
    used, length = int(row["used"]), int(row["length"])
    positions = {
        "all positions": range(length),
        "start": _held(row, "start_at", range(int(row.get("starts", True)))),
        "words": row["words_at"],
        "end": _held(row, "end_at", range(used - 1, used)),
        "padding": _held(row, "padding_at", range(used, length)),
    }
    return [int(p) for p in positions[part]]


def _held(row: pd.Series, column: str, before: range) -> Iterable[int]:
    """Positions as scored; of scores from before there were chunks, as they were then."""
    held = row.get(column)
    return before if held is None or np.ndim(held) == 0 else held


def exact(key: str, metric: MetricSpec, about: dict[str, str], value: float, n: int) -> Finding:
    """A number that no sampling went into: its interval is the number itself."""
    return replace(
        blank(key, metric, about),
        value=float(value),
        low=float(value),
        high=float(value),
        n=n,
        n_clusters=n,
        estimator="exact for these prompts",
    )


def blank(key: str, metric: MetricSpec, about: dict[str, str]) -> Finding:
    """A finding of the probe without its numbers."""
    place = "/".join(slug(about[k]) for k in (*READER, "position") if k in about)
    return Finding(
        id=f"{PROBE}/{key}/{place}".rstrip("/"),
        probe=PROBE,
        metric=metric,
        subject=about,
        instrument=TextStates.name,
    )
