"""Errors that a person can act on.

An `AuditError` is about what the user gave: a file, a spec, a command line. It becomes one line
and exit code 2. Every other exception is a bug of ours and shows its traceback. Code that knows
which file is read catches the errors of other libraries there and raises an `AuditError` that
names the file, says what is wrong with it and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LONGEST = 300
"""Characters of another library's message that are quoted."""


class AuditError(ValueError):
    """Something that the user gave cannot be used; the message is one line that names it."""


class SpecError(AuditError):
    """The spec cannot be used; the message is one line naming file, key and value."""


class SpecMistakes(SpecError):
    """All that is wrong with one spec, a line each.

    Args:
        lines: one mistake a line.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@contextmanager
def reading(what: object, kind: type[AuditError] = AuditError, hint: str = "") -> Iterator[None]:
    """Turn whatever a library raises on a user's file into an `AuditError` that names the file.

    A malformed file can raise nearly anything: KeyError, TypeError, RecursionError,
    SafetensorError, MemoryError. So put only the library's own call inside the block, never code
    of ours: its bugs would look like the user's fault.

    Args:
        what: The file or spec key, as the message begins.
        kind: Class of the error that is raised.
        hint: What would be right, added to the message.

    Raises:
        AuditError: What the block raised, with `what`, on one line. An `AuditError` passes as it
            is; KeyboardInterrupt and SystemExit do, too.

    >>> with reading("a.json", hint="save it again"):
    ...     {}["_class_name"]
    Traceback (most recent call last):
    ...
    harness.errors.AuditError: a.json: KeyError: '_class_name'; save it again
    """
    try:
        yield
    except AuditError:
        raise
    except Exception as error:
        raise kind(f"{what}: {reason(error)}{f'; {hint}' if hint else ''}") from error


def reason(error: BaseException, longest: int = LONGEST) -> str:
    r"""An exception of another library on one line, shortened, and never empty.

    Args:
        error: The exception.
        longest: Characters that are kept of its message.

    >>> reason(RuntimeError("Error(s) in loading CLIP:\n\tMissing key(s): 'a'"))
    "Error(s) in loading CLIP: Missing key(s): 'a'"
    """
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return f"asks for more memory than there is ({type(error).__name__})"
    # What cannot be shown need not be split: a message may quote a file of megabytes.
    text = " ".join(str(error)[: 20 * longest].split())
    text = text if len(text) <= longest else f"{text[:longest].rstrip()} …"
    if isinstance(error, OSError | RuntimeError | ValueError) and len(text) > 1:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(error: BaseException) -> str:
    """Type and message of an exception on one line, for what goes on without it."""
    said = reason(error)
    kind = type(error).__name__
    return said if said.startswith(kind) else f"{kind}: {said}"
