"""Checksums: every file of a run holds the sha256 of its own bytes, and the run's format version.

The checksum stands inside the file, as one text that the file's kind allows for: metadata of a
Parquet file or of safetensors, a key of JSON, a last comment of YAML, bytes after a PNG's end. It
is the sha256 of the whole file with 64 zeros in its own place, so that no byte is left out and no
second file can get lost. Records that may be read alone (an image, a tensor) have one of their own
beside them, so that a file of any size need not be read whole for one of them.

Files of diffusion-audit 0.1.0 have none; `strict` says whether a file must have one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import AuditError
from harness.json_types import JsonObject

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

FORMAT = 2
"""Version of the run directory, labels included; 1 is that of 0.1.0, without checksums."""
ZEROS = b"0" * 64
BLANK = b"diffusion-audit/%d sha256:" % FORMAT + ZEROS
"""The text that `seal` completes."""
KEY = "checksum"
"""Name of the checksum in metadata and JSON."""
_SEAL = re.compile(rb"diffusion-audit/(\d{1,6}) sha256:([0-9a-f]{64})")
_COMMENT = b"# "


class DamagedError(AuditError):
    """A file of a run is not what was written; the message names it.

    Attributes:
        path: Path of the file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{str(path)!r} is damaged ({reason}); run the command that made the run again: it "
            "sets the file aside in the run's folder 'damaged' and makes what can be made again"
        )
        self.path, self.reason = path, reason


class NewerFormatError(AuditError):
    """A run was written by a later version of diffusion-audit."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"{str(path)!r} has format {version} of a newer diffusion-audit; this one knows "
            f"formats up to {FORMAT}: upgrade it"
        )


def seal(data: bytes) -> bytes:
    """Complete the last `BLANK` in a file's content.

    Raises:
        ValueError: There is none.
    """
    at = data.rindex(BLANK) + len(BLANK) - len(ZEROS)
    digest = hashlib.sha256(data).hexdigest().encode()
    return b"".join((data[:at], digest, data[at + len(ZEROS) :]))


def is_sealed(data: bytes) -> bool:
    """Whether a file's content holds a checksum, right or wrong."""
    return _SEAL.search(data) is not None


def check(data: bytes, path: Path, strict: bool = True) -> int:
    """Check a file's content against its checksum.

    Args:
        data: Content of the file.
        path: Path of the file, for the message.
        strict: Whether a file without a checksum is damaged, or one of 0.1.0.

    Returns:
        The format version, 1 where there is no checksum.

    Raises:
        DamagedError: The content has changed since it was written.
        NewerFormatError: It is whole, but of a newer format.
    """
    view = memoryview(data)
    found = False
    for match in _SEAL.finditer(data):
        found = True
        digest = hashlib.sha256(view[: match.start(2)])
        digest.update(ZEROS)
        digest.update(view[match.end(2) :])
        if digest.hexdigest().encode() == match[2]:
            if int(match[1]) > FORMAT:
                raise NewerFormatError(path, int(match[1]))
            return int(match[1])
    if found:
        raise DamagedError(path, "its checksum does not hold")
    if strict:
        raise DamagedError(path, "its checksum is missing" if data else "it is empty")
    return 1


# --- JSON and text ---


def sealed_json(value: object) -> bytes:
    """A JSON file with a checksum; what is no object is put under the key 'value'."""
    whole = value if isinstance(value, dict) else {"value": value}
    whole = whole | {KEY: BLANK.decode()}
    text = json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False)
    return seal(text.encode() + b"\n")


def read_json(data: bytes, path: Path) -> Any:
    """What `sealed_json` was given, from bytes that have been checked.

    Raises:
        DamagedError: It is no JSON; 0.1.0 wrote no checksum that would have said so before.
    """
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedError(path, "it is no whole JSON") from None
    if isinstance(whole, dict) and KEY in whole:
        whole.pop(KEY)
        return whole["value"] if whole.keys() == {"value"} else whole
    return whole


def sealed_text(text: str) -> bytes:
    """A text file with the checksum as its last line, a comment in YAML."""
    line = "" if not text or text.endswith("\n") else "\n"
    return seal((text + line).encode() + _COMMENT + BLANK + b"\n")


def read_text(data: bytes) -> str:
    """What `sealed_text` was given, its last line ended."""
    text = data.decode("utf-8", "replace")
    lines = text.splitlines(keepends=True)
    if lines and lines[-1].startswith("# diffusion-audit/"):
        lines.pop()
    return "".join(lines)


# --- records ---


def image_digest(cell: str, png: bytes | None, pixels: str | None, reason: str | None) -> str:
    """Checksum of one image's record.

    Args:
        cell: Id of the image.
        png: Bytes of the PNG file, None where there is no image.
        pixels: sha256 of the pixels.
        reason: Why there is no image.
    """
    inner = None if png is None else hashlib.sha256(png).hexdigest()
    return hashlib.sha256(json.dumps([cell, inner, pixels, reason]).encode()).hexdigest()


def array_digest(name: str, array: NDArray[np.generic] | torch.Tensor) -> str:
    """Checksum of one tensor of a safetensors file: its name, shape and bytes."""
    digest = hashlib.sha256(json.dumps([name, list(array.shape)]).encode())
    if hasattr(array, "tobytes"):
        digest.update(array.tobytes())
    else:
        import torch

        flat = array.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensor_metadata(arrays: JsonObject, notes: str = "") -> dict[str, str]:
    """Metadata of a safetensors file: room for its checksum, the checksum of each tensor, notes."""
    digests = {name: array_digest(name, array) for name, array in arrays.items()}
    # One key only: safetensors writes several in random order.
    return {KEY: json.dumps({"file": BLANK.decode(), "records": digests, "notes": notes})}


def tensor_notes(metadata: dict[str, str] | None) -> str:
    """The notes of `tensor_metadata`, or those that 0.1.0 wrote.

    Raises:
        KeyError, ValueError: There are none.
    """
    known = metadata or {}
    return str(json.loads(known[KEY])["notes"] if KEY in known else known["notes"])


def check_tensors(
    arrays: Iterable[tuple[str, Any]], metadata: dict[str, str] | None, path: Path, strict: bool
) -> None:
    """Check tensors that were read alone; arguments as of `tensor_metadata` and `check`.

    Raises:
        DamagedError: One of them is not what was written.
    """
    try:
        known = json.loads((metadata or {})[KEY])["records"]
    except (ValueError, KeyError, TypeError):
        if strict:
            raise DamagedError(path, "its checksums are missing") from None
        return
    for name, array in arrays:
        if known.get(name) != array_digest(name, array):
            raise DamagedError(path, f"the checksum of {name[:16]!r} does not hold")
