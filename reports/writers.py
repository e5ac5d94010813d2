"""Which formats a report can be written in: the modules of `reports.formats`, and entry points.

A format is a module with a constant FILE, its main file's path in the report's folder, and a
function `write(data, folder)`. Others register one under `diffusion_audit.writers`, by the
format's name.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Protocol

import reports.formats
from harness.errors import AuditError, one_line
from reports import ReportData

GROUP = "diffusion_audit.writers"
FIRST = ("html", "card", "json", "csv", "latex", "cyclonedx")
"""The order in which these are named and their files returned; others follow by name."""


class Writer(Protocol):
    """A report format: a module, or any object with these two."""

    FILE: str
    """Path of its main file in the report's folder."""

    def write(self, data: ReportData, folder: Path) -> None:
        """Write all its files, each whole or not at all."""
        ...


def names() -> tuple[str, ...]:
    """The formats there are; none is loaded."""
    own = {path.stem for path in Path(reports.formats.__path__[0]).glob("*.py")} - {"__init__"}
    known = own | _others().keys()
    return (*FIRST, *sorted(known - {*FIRST}))


def writer(name: str) -> Writer:
    """One format's writer.

    Args:
        name: One of `names`.

    Raises:
        AuditError: It cannot be loaded.
    """
    others = _others()
    try:
        found: Writer = others[name].load() if name in others else _own(name)
    except Exception as error:
        raise AuditError(f"the format {name!r} cannot be loaded: {one_line(error)}") from None
    return found


def write_report(
    data: ReportData, folder: Path, formats: Collection[str] = ("html", "json")
) -> list[Path]:
    """Write the report into a folder, replacing an older one file by file.

    Args:
        data: What it says.
        folder: Folder to write to.
        formats: Of `names`.

    Returns:
        The main file of each format, in the order of `names`.
    """
    wanted = [name for name in names() if name in formats]
    writers = [writer(name) for name in wanted]
    for one in writers:
        one.write(data, folder)
    return [folder / one.FILE for one in writers]


def _own(name: str) -> Writer:
    module: Writer = import_module(f"reports.formats.{name}")
    return module


def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
