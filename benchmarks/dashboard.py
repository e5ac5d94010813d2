"""The dashboard on 100,000 images and a million score rows: seconds a page, megabytes.

    python -m benchmarks.dashboard [FOLDER]

makes a synthetic run in FOLDER where there is none, serves it, and looks at it with Chromium.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.synthetic_run import LARGE, make

PAGES = ("", "images", "attributes", "vae", "latent_map", "attention", "compare", "figures")


def main(folder: Path) -> None:
    """Print one line a measurement."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests/dashboard"))
    from dashboard_browser import at, chromium, served, settled, visit

    if not (folder / "report/report.json").exists():
        started = time.monotonic()
        make(folder, **LARGE)
        print(f"made {folder} in {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    with served(folder) as (entry, server):
        print(f"server ready after {time.monotonic() - started:.1f} s, {_memory(server.pid)}")
        with chromium() as browser:
            page = browser.new_page()
            page.goto("about:blank")
            for path in PAGES:
                for visitor in ("first visitor", "second"):
                    started, before = time.monotonic(), _cpu(server.pid)
                    visit(page, at(entry, path))
                    took, spent = time.monotonic() - started, _cpu(server.pid) - before
                    print(f"{path or 'overview'}, {visitor}: {took:.1f} s ({spent:.1f} s of CPU)")
                print(f"  {_memory(server.pid)}")
            for path in ("", "attributes"):
                visit(page, at(entry, path))
                for prepare, change in _changes(page, path):
                    prepare()
                    started, before = time.monotonic(), _cpu(server.pid)
                    change()
                    settled(page)
                    took, spent = time.monotonic() - started, _cpu(server.pid) - before
                    print(f"{path or 'overview'}, filter: {took:.1f} s ({spent:.2f} s of CPU)")
        print(_memory(server.pid))


def _changes(page: Any, path: str) -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """What comes before a change of a filter, and the change itself."""
    if path == "":
        search = page.get_by_placeholder("a prompt, a metric …")

        def find() -> None:
            search.press("Enter")
            page.wait_for_timeout(50)

        return [(lambda: search.fill("worker 7"), find)]

    def choose() -> None:
        page.get_by_role("option").nth(3).click()
        page.wait_for_timeout(50)

    return [(lambda: page.get_by_label("Prompt").first.click(), choose)]


def _memory(pid: int) -> str:
    """Resident memory of a process now and at most, MB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    held = dict(line.split(":", 1) for line in lines)
    now, most = (int(held[k].split()[0]) / 1024 for k in ("VmRSS", "VmHWM"))
    return f"memory {now:.0f} MB, at most {most:.0f} MB"


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "synthetic-run"))
