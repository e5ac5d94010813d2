"""Put the audit's part into an existing README and touch nothing else, byte for byte.

Two parts between markers: the metadata in the YAML block at the top (markers are YAML comments),
the prose after it (markers are HTML comments). Where they are there already they are replaced,
else they are added: at the end of the block, at the end of the text. A README without a YAML
block gets one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCard

from harness.errors import AuditError, reading
from harness.files.atomic import write_atomic
from harness.files.yaml_files import parse_yaml

BLOCK = re.compile(rb"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$))")
"""The YAML block as the hub finds it."""
YAML_MARKERS = (b"# diffusion-audit:begin", b"# diffusion-audit:end")
TEXT_MARKERS = (b"<!-- diffusion-audit:begin -->", b"<!-- diffusion-audit:end -->")


class Spliced(NamedTuple):
    """A README with the audit's part, and what had to be left out of it ('' for nothing)."""

    text: bytes
    warning: str


def splice_file(path: Path, metadata: str, prose: str) -> str:
    """Splice into a file, which must be there; returns a warning or ''.

    Raises:
        AuditError: The file cannot be read as a card, or its markers do not pair up.
    """
    try:
        original = path.read_bytes()
    except OSError as error:
        raise AuditError(f"--into {path}: cannot be read ({error.strerror})") from None
    try:
        spliced = splice(original, metadata, prose)
    except ValueError as error:
        raise AuditError(f"--into {path}: {error}") from None
    write_atomic(path.resolve(), spliced.text)
    return f"{path}: {spliced.warning}" if spliced.warning else ""


def splice(original: bytes, metadata: str, prose: str) -> Spliced:
    """A README with metadata (YAML of `model-index`, or '') and prose between its markers.

    Raises:
        AuditError: It is not UTF-8, its YAML block is no mapping, or markers do not pair up.
    """
    try:
        original.decode()
    except UnicodeDecodeError as error:
        raise AuditError(f"is not UTF-8 (byte {error.start})") from None
    newline = b"\r\n" if b"\r\n" in original else b"\n"
    text, warning = _with_metadata(original, _lines(metadata, newline), newline)
    block = BLOCK.match(text)
    start = block.end() if block else 0
    head, rest = text[:start], text[start:]
    body = _lines(prose, newline)
    place = _between(rest, TEXT_MARKERS)
    marked = TEXT_MARKERS[0] + newline + body + TEXT_MARKERS[1]
    if place:
        rest = rest[: place[0]] + marked + rest[place[1] :]
    else:
        gap = newline if rest.endswith((b"\n", b"\r")) or not rest else 2 * newline
        rest = rest + gap + marked + newline
    with reading("would not be a model card"):
        ModelCard((head + rest).decode(), ignore_metadata_errors=False)
    return Spliced(head + rest, warning)


def _with_metadata(original: bytes, metadata: bytes, newline: bytes) -> tuple[bytes, str]:
    marked = newline.join([YAML_MARKERS[0], metadata + YAML_MARKERS[1]])
    block = BLOCK.match(original)
    if block is None:
        if not metadata:
            return original, ""
        return b"---" + newline + marked + newline + b"---" + newline + original, ""
    begin, inside = block.end(1), block[2]
    place = _between(inside, YAML_MARKERS)
    if place:
        after = original[begin + place[1] :]
        return original[: begin + place[0]] + marked + after, ""
    held = parse_yaml(inside, "its YAML block")
    if held is not None and not isinstance(held, dict):
        raise AuditError(f"its YAML block is a {type(held).__name__}, not keys and values")
    if "model-index" in (held or {}):
        return original, (
            "has a model-index of its own, which is left as it is; the audit's results are in "
            "report/card.md"
        )
    if not metadata:
        return original, ""
    end = block.start(3)
    return original[:end] + newline + marked + original[end:], ""


def _between(text: bytes, markers: tuple[bytes, bytes]) -> tuple[int, int] | None:
    """Where the marked part is, markers included; None where there is none."""
    begin, end = (
        [m.start() for m in re.finditer(rb"^" + re.escape(marker) + rb"(?=\s|$)", text, re.M)]
        for marker in markers
    )
    if not begin and not end:
        return None
    if len(begin) != 1 or len(end) != 1 or end[0] < begin[0]:
        words = " and ".join(m.decode() for m in markers)
        raise AuditError(
            f"holds {len(begin)} and {len(end)} of the markers {words}; one of each is needed, "
            "in this order, or none"
        )
    return begin[0], end[0] + len(markers[1])


def _lines(text: str, newline: bytes) -> bytes:
    return text.encode("utf-8", "replace").replace(b"\n", newline)
