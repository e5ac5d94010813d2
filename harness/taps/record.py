"""What a tap is, and how its records are kept: `taps/<tap>@<settings>/<unit>`.

A tap watches the denoising of one unit and hands over a record a trajectory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd

from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.store.run import Run

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[np.generic]"]


class Record(NamedTuple):
    """What one tap kept of one trajectory.

    Attributes:
        arrays: numbers by name; each tap says which.
        notes: small plain data, such as words.
    """

    arrays: Arrays
    notes: JsonObject


class Tap(Protocol):
    """Follows one unit at a time."""

    name: str
    """What instruments ask for in their `needs`."""

    def cache_key(self) -> JsonObject:
        """Version and settings: what its folder is named by."""
        ...

    def watch(
        self, pipe: DiffusionPipeline, rows: pd.DataFrame, count: int
    ) -> AbstractContextManager[None]:
        """Follow the denoising of `rows` (padding included; the first `count` are wanted)."""
        ...

    def records(self) -> list[Record]:
        """One for each wanted row of the unit just watched."""
        ...


def folder(tap: Tap) -> str:
    """Name of a tap's folder in the run."""
    return f"{tap.name}@{canonical_digest(tap.cache_key())[:12]}"


def untapped(run: Run, unit: str, taps: Iterable[Tap]) -> list[Tap]:
    """The taps that have not followed this unit yet."""
    return [t for t in taps if not run.taps_path(folder(t), unit).exists()]


def write(run: Run, tap: Tap, unit: str, trajectories: Sequence[str]) -> None:
    """Write the records of the unit just watched."""
    arrays: Arrays = {}
    notes = {}
    for trajectory, record in zip(trajectories, tap.records(), strict=True):
        arrays |= {f"{trajectory}|{name}": a for name, a in record.arrays.items()}
        notes[trajectory] = record.notes
    run.write_taps(folder(tap), unit, arrays, json.dumps(notes))


def read(run: Run, name: str, unit: str) -> dict[str, Record]:
    """Records by trajectory from a tap's folder; empty where the unit was not followed."""
    if not run.taps_path(name, unit).exists():
        return {}
    arrays, notes = run.read_taps(name, unit)
    records = {t: Record({}, n) for t, n in json.loads(notes).items()}
    for key, array in arrays.items():
        trajectory, _, part = key.partition("|")
        records[trajectory].arrays[part] = array
    return records
