"""Numbers of each word of each prompt, from the record of its cross-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from harness.json_types import JsonObject
from harness.taps.attention_words import END, START
from probes.attention.options import AttentionOptions
from probes.contracts import (
    Batch,
    Context,
    MetricSpec,
)

if TYPE_CHECKING:
    from harness.taps.record import Record

MASS = MetricSpec("attention to a word", "level", "of attention", None, "mass", span=1.0)


class CrossAttention:
    """Numbers of each word of each image's prompt, from the tap's record.

    Args:
        settings: What the tap kept.
    """

    name = "attention"
    metrics = (MASS,)
    version = "1"
    inputs = frozenset({"attention"})

    def __init__(self, settings: AttentionOptions) -> None:
        self.settings = settings

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        return {"version": self.version, "name": self.name, **self.settings.model_dump()}

    def by_cell(self, table: pd.DataFrame) -> pd.DataFrame:
        """Attention to all words of a cell's prompt together: cell, mass."""
        words = table[(table["half"] == "prompt") & ~table["word"].isin([START, END])]
        return words.groupby("cell", as_index=False)["mass"].sum()

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """One row a word of a cell's prompt, also for '<start>' and '<end>'.

        Columns: cell, half ('prompt' or 'negative'), index, word, mass (share of attention, mean
        over forwards), centre_y, centre_x (0 to 1), spread (sides of the image), entropy (of
        the map, 0 to 1), tokens' attention over the forwards as lists mass_steps, spread_steps,
        text_entropy (nats); overlap, a list over the words; layer_mass, a list over the layers
        (empty unless asked for); map: whether the map is kept; cut: text that is not seen; note.
        A cell that was not followed has one row, with a note and without a word.
        """
        rows: list[JsonObject] = []
        for cell, record in zip(batch.cells, batch.taps["attention"], strict=True):
            if record is None or "prompt" not in record.notes:
                rows.append({"cell": cell, "half": "", "note": _why(record)})
                continue
            for half in ("prompt", "negative"):
                if half in record.notes:
                    rows += _rows(cell, half, record)
        return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = [
    "cell",
    "half",
    "index",
    "word",
    "mass",
    "centre_y",
    "centre_x",
    "spread",
    "entropy",
    "mass_steps",
    "spread_steps",
    "text_entropy",
    "overlap",
    "layer_mass",
    "map",
    "cut",
    "note",
]


def _why(record: Record | None) -> str:
    if record is None:
        return "its denoising was not followed"
    missing = record.notes["missing"]
    named = ", ".join(f"{name} ({why})" for name, why in missing.items())
    return f"no cross-attention layer can be followed{': ' if named else ''}{named}"


def _rows(cell: str, half: str, record: Record) -> list[JsonObject]:
    from harness.taps.attention_record import numbers

    arrays = {k.removeprefix(f"{half}/"): v for k, v in record.arrays.items()}
    notes, moments = record.notes[half], arrays["moments"]
    over_all = numbers(moments.mean(axis=0))
    by_step = numbers(moments)
    missing = ", ".join(record.notes["missing"])
    return [
        {
            "cell": cell,
            "half": half,
            "index": i,
            "word": word,
            "mass": over_all[0][i],
            "centre_y": over_all[1][i, 0],
            "centre_x": over_all[1][i, 1],
            "spread": over_all[2][i],
            "entropy": arrays["map_entropy"][i],
            "mass_steps": by_step[0][:, i],
            "spread_steps": by_step[2][:, i],
            "text_entropy": arrays["text_entropy"],
            "overlap": arrays["overlap"][i],
            "layer_mass": arrays["layer_mass"][:, i] if "layer_mass" in arrays else np.zeros(0),
            "map": "maps" in arrays,
            "cut": notes["cut"],
            "note": f"not followed: {missing}" if missing else "",
        }
        for i, word in enumerate(notes["words"])
    ]
