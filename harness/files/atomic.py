"""Write files whole or not at all, and never through a link that somebody has left in a run.

A file is written beside its place under a random name that cannot be guessed, flushed to disk,
then renamed: a final file is a whole file. The new file is created, never opened, so that a link
of that name is an error; a link at the final name is replaced, not followed.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from harness.errors import AuditError

OF_A_RUN = ("provenance.json", "plan.parquet")
"""Files that tell a run folder."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_CREATE |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class LinkError(AuditError):
    """A link in a run folder leads out of it; the message names it."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an error.

    Args:
        path: Final name of the file; missing folders are made.

    Raises:
        LinkError: One of its folders is a link inside a run.
        OSError: It cannot be written, such as ENOSPC; its `filename` is that of `path`.
    """
    with _temporary(path) as (file, temporary):
        yield file
        _finish(file)
        os.replace(temporary, path)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut.

    Args:
        path: Final name of the file; a file that is there is replaced.
        data: All of its content.

    Raises:
        LinkError, OSError: As `replacing`.
    """
    with replacing(path) as file:
        file.write(data)


def write_new(path: Path, data: bytes) -> bool:
    """As `write_atomic`, but a file that is there already stays, also in a race.

    Returns:
        Whether it was written.
    """
    with _temporary(path) as (file, temporary):
        file.write(data)
        _finish(file)
        try:
            os.link(temporary, path)  # fails where the file exists, unlike os.replace
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                return False
            os.replace(temporary, path)
    return True


def refuse_links(run: Path) -> None:
    """Refuse a run folder that holds a link: what is read or written would lie elsewhere.

    Args:
        run: Run folder, which itself may be reached through a link; it need not exist.

    Raises:
        LinkError: The first link in it.
    """
    folders = [os.fspath(run)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        raise LinkError(
                            f"{entry.path!r} is a link; a run folder must hold its files itself: "
                            "copy them there, or move the whole run"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # another process may tidy up
            continue


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    _refuse_linked_folders(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, _CREATE, 0o666), "wb") as file:
            yield file, temporary
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)  # what a person knows it by
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _refuse_linked_folders(path: Path) -> None:
    """A link above a run is its owner's affair; one inside it may be anybody's."""
    for folder in Path(os.path.abspath(path)).parents:
        if folder.is_symlink() and any(
            (above / name).is_file() for above in folder.parents for name in OF_A_RUN
        ):
            raise LinkError(
                f"{str(folder)!r} is a link inside a run folder, {path.name!r} would be written "
                f"elsewhere ({os.strerror(errno.ELOOP)}): remove the link"
            )
