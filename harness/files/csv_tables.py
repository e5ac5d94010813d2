"""Tables that people write: CSV files of any common dialect, read as text.

Excel writes semicolons where the comma is the decimal mark, tabs and UTF-16 as 'Unicode text',
and a first line `sep=;` if asked to. One reader takes them all, for prompts, imported images,
labels and measured errors alike.
"""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

from harness.errors import AuditError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MAX_BYTES = 500_000_000
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class TableError(AuditError):
    """A table cannot be used; the message is one line that names its file."""


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """A CSV file's columns and rows, as text, spaces at the ends stripped; blank lines skipped.

    The delimiter is the comma, semicolon or tab that divides the heading; where several do, one
    that divides all lines into as many values, and of such the one that gives most columns. The
    encoding is UTF-8, or UTF-16 with its byte order mark. Empty columns without a heading, as
    spreadsheets leave at the end, are dropped.

    Args:
        path: The file; at most 500 MB.

    Raises:
        TableError: The file cannot be read, has no rows, names a column twice or has a row of
            another length than its heading.
    """
    text = _decoded(path)
    first, _, rest = text.partition("\n")
    wanted = first.strip().strip('"').casefold()
    if wanted.startswith("sep=") and first.strip().strip('"')[4:] in ("", *DELIMITERS):
        mark = first.strip("\r\n").strip('"')[4:] or "\t"  # the strip above took the tab
        lines = _parsed(path, rest, mark, skipped=1)
    else:
        mark, lines = _sniffed(path, text)
    if len(lines) < 2:
        raise TableError(f"{path}: no rows; a heading and at least one row are needed")
    lines = _without_empty_columns(path, lines)
    (_, columns), *body = lines
    twice = [column for i, column in enumerate(columns) if column in columns[:i]]
    if twice:
        raise TableError(f"{path}: column {twice[0]!r} is there twice")
    for number, row in body:
        if len(row) != len(columns):
            raise TableError(
                f"{path}: line {number} has {len(row)} values for {len(columns)} columns; "
                f"quote values that hold {DELIMITERS[mark]}"
            )
    return columns, [dict(zip(columns, row, strict=True)) for _, row in body]


def _decoded(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise TableError(f"{path}: larger than {MAX_BYTES // 10**6} MB, too large for a table")
        data = path.read_bytes()
    except TableError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise TableError(f"{path}: cannot be read as CSV ({why})") from None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path}: cannot be read as CSV in {encoding.removesuffix('-sig').upper()} "
            f"({error.reason} at byte {error.start}); save it as 'CSV UTF-8'"
        ) from None


def _parsed(path: Path, text: str, mark: str, skipped: int = 0) -> list[tuple[int, list[str]]]:
    """Line number and values of every row that is not blank."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=mark, strict=True, skipinitialspace=mark != "\t"
    )
    try:
        lines = [(reader.line_num + skipped, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise TableError(
            f"{path}: cannot be read as CSV (line {reader.line_num + skipped}: {error})"
        ) from None
    return [(number, row) for number, row in lines if any(row)]


def _sniffed(path: Path, text: str) -> tuple[str, list[tuple[int, list[str]]]]:
    """The delimiter and the rows that it gives."""
    dividing = [mark for mark in DELIMITERS if _columns(text, mark) > 1]
    if len(dividing) < 2:
        mark = dividing[0] if dividing else ","
        return mark, _parsed(path, text, mark)
    found: dict[str, list[tuple[int, list[str]]]] = {}
    for mark in dividing:
        try:
            found[mark] = _parsed(path, text, mark)
        except TableError:
            continue  # a quote after a blank that this mark does not take away
    even = [m for m, lines in found.items() if len({len(row) for _, row in lines}) == 1]
    mark = max(even or dividing, key=lambda m: _columns(text, m))
    return mark, found.get(mark) or _parsed(path, text, mark)


def _columns(text: str, mark: str) -> int:
    """Into how many columns a delimiter divides the first line that is not blank."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=mark != "\t"
    )
    try:
        return next((len(row) for row in reader if any(cell.strip() for cell in row)), 0)
    except csv.Error:
        return 0


def _without_empty_columns(
    path: Path, lines: list[tuple[int, list[str]]]
) -> list[tuple[int, list[str]]]:
    heading = lines[0][1]
    bare = [i for i, name in enumerate(heading) if not name]
    for number, row in lines[1:]:
        full = [i for i in bare if i < len(row) and row[i]]
        if full:
            raise TableError(
                f"{path}: line {number} has {row[full[0]]!r} in column {full[0] + 1}, which has "
                "no heading"
            )
    return [(n, [v for i, v in enumerate(row) if i not in bare]) for n, row in lines]
