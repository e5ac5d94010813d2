"""Names found in data, kept from being paths.

Names of classifiers, attributes and arms are anybody's words, and a run's plan may come from a
stranger. A name becomes part of a path only where it is plain; else what is written is named by
its digest, and what is read is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from harness.errors import AuditError

LONGEST = 200
"""Bytes of a name; file systems take 255, and an ending is added."""
_PLAIN = re.compile(r"\w[\w.@+ -]*(?<![. ])")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def is_plain(name: str) -> bool:
    """Whether a name can be a file's on any system: letters, digits and . @ + - _ and spaces.

    >>> [is_plain(n) for n in ("clip.gender@0f", "../x", "-rf", "nul", "", "a/b", "a.")]
    [True, False, False, False, False, False, False]
    """
    return (
        _PLAIN.fullmatch(name) is not None
        and _RESERVED.fullmatch(name) is None
        and len(name.encode("utf-8", "replace")) <= LONGEST
    )


def file_name(name: str, longest: int = 80) -> str:
    """A name as the name of a file: itself where it is plain and short, else with its digest.

    >>> file_name("clip.gender"), file_name("../clip")
    ('clip.gender', 'clip-6c49902dda5c')
    """
    if is_plain(name) and len(name.encode()) <= longest:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9]+", "-", name[:longest]).strip("-")[:40]
    return f"{words or 'name'}-{digest}"


def part(name: str) -> str:
    """A name that is about to be part of a path inside a run.

    Raises:
        AuditError: It is not plain, so that it could lead elsewhere.
    """
    if not is_plain(name):
        raise AuditError(
            f"{name[:80]!r} is no name of a file of a run: its plan or instruments.json was edited"
        )
    return name


def inside(folder: Path, name: str, what: object) -> Path:
    """The file that a table names in its folder.

    Args:
        folder: The folder.
        name: Relative path, as the table has it.
        what: The table, for messages.

    Raises:
        AuditError: It is not there, or outside the folder, also through a link.
    """
    try:
        path = Path(os.path.realpath(folder / name))
        found = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        raise AuditError(f"{what}: {name[:80]!r} is no name of a file") from None
    if not path.is_relative_to(os.path.realpath(folder)):
        raise AuditError(f"{what}: {name[:80]!r} lies outside {str(folder)!r}, which is not read")
    if not found:
        raise AuditError(f"{what}: no file {name[:80]!r} in {str(folder)!r}")
    return path
