"""How long the report of 100,000 images and a million score rows takes.

    python -m benchmarks.report [FOLDER]

makes a synthetic run in FOLDER where there is none. Each step's wall and CPU seconds are printed
(those of the CPU are what an otherwise idle machine would take), the page's size, and the most
memory held.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.synthetic_run import LARGE, make


def measure(folder: Path) -> None:
    """Build the report step by step and print what each step took."""
    from audit.pipeline import analyse
    from audit.pipeline.session import reopen
    from reports.writers import write_report

    audit = _timed("open", lambda: reopen(folder))
    findings, figures = _timed("analyse", lambda: analyse.analyse(audit))
    data = _timed("gather", lambda: analyse.report_data(audit, findings, figures))
    paths = _timed("write html, json", lambda: write_report(data, folder / "report"))
    _timed("write card, csv", lambda: write_report(data, folder / "report", ("card", "csv")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = paths[0].stat().st_size / 1e6
    print(f"{len(findings):,} findings; page {size:.1f} MB; at most {peak:.1f} GB held")


def _timed(name: str, work: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:<18}{wall:8.1f} s wall{cpu:8.1f} s CPU", flush=True)
    return made


def main(folder: Path) -> None:
    """Make the run where it is not there, and measure."""
    if not (folder / "plan.parquet").exists():
        _timed("make the run", lambda: make(folder, **LARGE))
    measure(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "synthetic-run"))
