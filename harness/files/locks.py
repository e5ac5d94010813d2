"""A lock on the units that a process generates or scores, so that no second one does the same.

The operating system holds it for the process and lets go when that ends, however it ends. Reading,
labelling and reporting never ask for it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import AuditError

try:
    import fcntl
except ImportError:  # Windows: two processes are not kept apart there
    fcntl = None  # type: ignore[assignment]

LOCKS = "locks"
"""Folder of a run that holds them; the files stay, they are no sign of a lock by themselves."""


class BusyError(AuditError):
    """Another process works on the same units."""


@contextmanager
def holding(folder: Path, shard: str = "all") -> Iterator[None]:
    """Hold the lock of a shard of a run's units.

    Args:
        folder: Run directory.
        shard: Name of the shard; 'all' where one process does all units.

    Raises:
        BusyError: Another process holds it; the message says which.
        OSError: The lock's file cannot be made.
    """
    path, new = folder / LOCKS / f"{shard}.lock", not folder.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "r+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"{str(folder)!r}: {_holder(file.read(1000))} is generating or scoring the "
                    "same units; wait until it has ended, or use another run folder"
                ) from None
        note = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%c")}
        with suppress(OSError):  # a note for people; a full disk must not matter here
            file.truncate()
            file.write(json.dumps(note).encode())
            file.flush()
        try:
            yield
        except BaseException:
            if new and [p.name for p in folder.iterdir()] == [LOCKS]:
                shutil.rmtree(folder)  # nothing was begun: a wrong spec leaves no folder
            raise


def _holder(note: bytes) -> str:
    try:
        told = json.loads(note)
        return f"process {int(told['process'])} on {str(told['host'])!r} (since {told['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
