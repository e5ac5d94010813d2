"""How units are worked off: one after the other in this process.

An executor takes a function that makes a worker and the units; it yields an outcome for each
unit. A worker writes its own files and returns only the outcome, so that the same worker
serves an executor with several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from harness.plan.cells import Unit

Worker = Callable[[Unit], "Outcome"]


class Outcome(NamedTuple):
    """What became of one unit."""

    unit: str
    ok: bool
    images: int = 0
    reason: str = ""


class Executor(Protocol):
    """Runs units through workers."""

    def run(self, make_worker: Callable[[], Worker], units: Iterable[Unit]) -> Iterator[Outcome]:
        """Yield one outcome a unit, in any order."""
        ...


class InProcess:
    """One worker in this process."""

    def run(self, make_worker: Callable[[], Worker], units: Iterable[Unit]) -> Iterator[Outcome]:
        """Yield outcomes in the order of the units."""
        worker = make_worker()
        for unit in units:
            yield worker(unit)
