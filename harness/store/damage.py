"""Damaged files of a run: found, named, and set aside so that they are made again.

Each file holds its own checksum. All files are read once and then only those that changed since:
the file `checked` keeps the file system's time of the last whole check, and the operating system
notes every write to a file in its times (of which the time of its last change of status cannot be
set by a program). What rots on the disk without being written is found when it is next read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harness.files import checksums
from harness.files.checksums import DamagedError
from harness.progress import Say
from harness.store.run import Run, twin_of
from harness.store.run_folder import BROKEN, CHECKED, RunFolder

ASIDE = "damaged"
"""Folder of a run that damaged files are moved to."""
PATTERNS = (
    "provenance.json",
    "plan.parquet",
    "spec.yaml",
    "instruments.json",
    "vaes.json",
    "findings.parquet",
    "latents/*.safetensors",
    "taps/*/*.safetensors",
    "images/*/*.parquet",
    "masks/*.png",
    "scores/*/*/*.parquet",
    "labels/*.parquet",
    "label-samples/*.parquet",
    "preferences/*.json",
    "failures/*.txt",
    "report/report.json",
)
"""Files that hold a checksum; reports and what a person has put there hold none."""
DERIVED = ("findings.parquet", "report.json")
"""Written anew by every report."""
SLACK = 2_000_000_000
"""Nanoseconds by which a file system's times may be coarse."""


class Damage(NamedTuple):
    """One damaged file."""

    path: Path
    reason: str


def find(run: RunFolder, files: Iterable[Path] | None = None) -> list[Damage]:
    """The damaged files of a run among those that changed since its last whole check.

    Args:
        run: The run; nothing is written to it.
        files: Its files that are looked at; all that hold a checksum where not said.

    Raises:
        NewerFormatError: A later version of diffusion-audit wrote it.
    """
    return _damaged(run, _last_check(run), _files(run.folder) if files is None else files)


def _damaged(run: RunFolder, since: int, files: Iterable[Path]) -> list[Damage]:
    strict = run.format > 1
    found = []
    for path in files:
        try:
            told = path.stat()
            if max(told.st_mtime_ns, told.st_ctime_ns) < since - SLACK:
                continue
            data = path.read_bytes()
            if checksums.check(data, path, strict) == 1:
                _refuse_broken(path, data)
        except DamagedError as error:
            found.append(Damage(path, error.reason))
        except FileNotFoundError:  # another process may work on the run
            continue
    return found


def announce(run: Run, say: Say) -> None:
    """Say where a run cannot be checked.

    Raises:
        NewerFormatError: A later version of diffusion-audit wrote the run.
    """
    if run.format == 1:
        say(f"{run.folder}: no checksums: made by 0.1.0; damage to those files is not noticed")


def refuse(run: Run) -> None:
    """Refuse to read a run that holds damaged files.

    Raises:
        DamagedError: The first of them.
    """
    found = [d for d in find(run) if d.path.name not in DERIVED]
    if found:
        first, *others = found
        more = f"; so are {len(others)} other files" if others else ""
        raise DamagedError(first.path, f"{first.reason}{more}")


def check(run: Run, say: Say) -> list[Damage]:
    """Find damaged files and set them aside, so that the next steps make them again.

    Scores of damaged images are set aside with them. What cannot be made again (a label) is said.

    Returns:
        What was found.
    """
    if next(_files(run.folder), None) is None:
        return []
    _tidy(run.folder)
    since = _last_check(run)
    # Written again for its time: the file system's clock may be that of another machine.
    run.write_text(CHECKED, f"{since}\n")
    started = (run.folder / CHECKED).stat().st_mtime_ns
    found = _damaged(run, since, _files(run.folder))
    for damage in found:
        set_aside(run, damage, say)
    run.write_text(CHECKED, f"{started}\n")
    return found


def set_aside(run: Run, damage: Damage, say: Say) -> None:
    """Move a damaged file, and the scores that rest on it, to the run's folder `damaged`."""
    name = damage.path.relative_to(run.folder)
    kind = name.parts[0]
    hint = "it will be made again"
    if kind == "labels":
        hint = "its labels are missing now: restore the file from a backup, or label again"
    elif kind == "preferences":
        hint = "this judgement is missing now: restore the file from a backup, or judge again"
    elif kind == "label-samples":
        hint = _restored(run, damage.path)
    say(f"warning: {name} is damaged ({damage.reason}); moved to {ASIDE}/, {hint}")
    if kind != "label-samples":
        _move(run, damage.path)
    run.forget_check()
    if kind in ("images", "latents", "taps"):
        unit = name.parts[1] if kind == "images" else damage.path.stem.split("-")[0]
        resting = sorted((run.folder / "scores").glob(f"*/{unit}/*.parquet"))
        for path in resting:
            _move(run, path)
        if resting:
            say(f"  and {len(resting)} files of scores of that batch")


def lost(run: Run, path: Path) -> bool:
    """Whether a file was set aside and has not been made again."""
    return (run.folder / ASIDE / path.relative_to(run.folder)).exists() and not path.exists()


def _restored(run: Run, path: Path) -> str:
    """Put the second copy of a sample in the place of the first, or the other way round."""
    _move(run, path)
    try:
        run.write(path, run.read(twin_of(path)))
    except (OSError, DamagedError):
        return "the sample must be drawn again by `audit labels sample`"
    return "replaced by its copy"


def _move(run: Run, path: Path) -> None:
    target = run.folder / ASIDE / path.relative_to(run.folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The first keeps its name, by which it is known to be lost; later ones are numbered.
    number = 1
    free = target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.name}.{number}")
    with suppress(FileNotFoundError):
        os.replace(path, free)


def _tidy(folder: Path) -> None:
    """Remove what killed processes have left; a file younger than an hour may be in the making."""
    for path in folder.rglob(".*.tmp"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:
                path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    for pattern in PATTERNS:
        for path in sorted(folder.glob(pattern)):
            if not path.name.startswith(".") and path.is_file():
                yield path


def _refuse_broken(path: Path, data: bytes) -> None:
    """Refuse a file of 0.1.0 that is cut short: without a checksum its form is all that tells.

    Raises:
        DamagedError: It is no whole file of its kind.
    """
    from safetensors import SafetensorError, deserialize

    try:
        if path.suffix == ".parquet":
            pq.ParquetFile(pa.BufferReader(data)).read()
        elif path.suffix == ".safetensors":
            deserialize(data)
        elif path.suffix == ".json":
            json.loads(data)
    except (*BROKEN, SafetensorError, RecursionError):
        raise DamagedError(path, "it is cut short or broken") from None


def _last_check(run: RunFolder) -> int:
    """Nanoseconds of the last whole check by the file system's clock; 0: never."""
    try:
        return int(run.read_text(CHECKED) or 0)
    except (ValueError, OSError):  # DamagedError is a ValueError
        return 0
