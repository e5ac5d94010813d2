"""Errors that a person can act on.

An `AuditError` is about what the user gave: a file, a spec, a command line. It becomes one line
and exit code 2. Every other exception is a bug of ours and shows its traceback. Code that knows
which file is read catches the errors of other libraries there and raises an `AuditError` that
names the file, says what is wrong with it and what would be right.
"""

from __future__ import annotations


class AuditError(ValueError):
    """Something that the user gave cannot be used; the message is one line that names it."""


def one_line(error: BaseException) -> str:
    """Type and message of an exception in one line, for what goes on without it."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
