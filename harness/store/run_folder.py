"""A run's files as bytes, tables, JSON and text: written whole and with a checksum.

The checksum is checked on reading. `harness.store.run.Run` knows which files there are, and where.
"""

from __future__ import annotations

import errno
import io
import json
import shutil
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import AuditError
from harness.files import checksums
from harness.files.atomic import write_atomic
from harness.files.checksums import DamagedError, NewerFormatError

PROVENANCE = "provenance.json"
PLAN = "plan.parquet"
CHECKED = "checked"
"""When all files were last checked: see `harness.store.damage`."""
MADE_WITH = "made with"
BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError)
"""What pyarrow raises on bytes that are not what was written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(AuditError):
    """A file cannot be written for want of space: going on would only lose what is made.

    Args:
        path: Path of the file.
        needed: Bytes that it has.
        why: What the operating system says.
        rest: Bytes that all that is still to be made needs, this file included; 0: not known.
    """

    def __init__(self, path: Path, needed: int, why: str, rest: int = 0) -> None:
        whole = f" (about {rest:,} for all that is still to be made)" if rest else ""
        super().__init__(
            f"{str(path)!r} cannot be written ({why}): {needed:,} bytes are needed{whole}, "
            f"{free_bytes(path):,} are free; free some space and run the same command again: what "
            "is written already is kept"
        )
        self.path, self.needed, self.why = path, needed, why


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that a path lies on, whether it exists or not."""
    folder = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(folder).free


def parquet_bytes(
    table: pd.DataFrame,
    row_group: int | None = None,
    compress: bool = True,
    notes: dict[str, str] | None = None,
) -> bytes:
    """A table as a Parquet file in memory, with its checksum and notes in the metadata."""
    buffer = io.BytesIO()
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    kept = (notes or {}) | {checksums.KEY: checksums.BLANK.decode()}
    pq.write_table(
        arrow.replace_schema_metadata((arrow.schema.metadata or {}) | kept),
        buffer,
        row_group_size=row_group,
        compression="zstd" if compress else "none",
    )
    return checksums.seal(buffer.getvalue())


class RunFolder:
    """The files of one run directory.

    Args:
        folder: Run directory; made on first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0
        """Bytes that were written, or tried to be, so far."""

    # --- files and their checksums ---

    @cached_property
    def format(self) -> int:
        """Version of the run's format: 1 is a run that 0.1.0 began, whose files lack checksums.

        The version stands in the provenance and, lest it be lost with it, in the plan.

        Raises:
            NewerFormatError: A later version of diffusion-audit wrote the run.
        """
        path, plan = self.folder / PROVENANCE, self.folder / PLAN
        if path.exists():
            try:
                data = path.read_bytes()
                sealed = checksums.check(data, path, strict=False)
                told = int(json.loads(data).get("format", sealed))
                if told > checksums.FORMAT:
                    raise NewerFormatError(path, told)
                return told
            except NewerFormatError:
                raise
            except (ValueError, TypeError, AttributeError, RecursionError):
                pass  # damaged, which is said when it is read
        if plan.exists() and not checksums.is_sealed(plan.read_bytes()):
            return 1
        return int(self._noted("format", checksums.FORMAT))

    def _noted(self, key: str, missing: object) -> Any:
        """What the plan keeps a second copy of."""
        path = self.folder / PLAN
        try:
            data = path.read_bytes()
            checksums.check(data, path)
            schema = pq.read_schema(pa.BufferReader(data))
            return json.loads((schema.metadata or {})[key.encode()])
        except BROKEN:
            return missing

    def write(self, path: Path, data: bytes) -> None:
        """Write a file of the run.

        Raises:
            DiskFullError: There is no space for it.
        """
        self.written += len(data)
        try:
            write_atomic(path, data)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFullError(path, len(data), str(error.strerror)) from None
            raise

    def read(self, path: Path) -> bytes:
        """A file's content, checked.

        Raises:
            DamagedError: It is not what was written.
        """
        data = path.read_bytes()
        try:
            checksums.check(data, path, strict=self.format > 1)
        except DamagedError:
            self.forget_check()
            raise
        return data

    def forget_check(self) -> None:
        """Have the next check read all files, as one is damaged that had not been changed."""
        with suppress(OSError):
            (self.folder / CHECKED).unlink()

    def read_parquet(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file of the run, checked.

        Raises:
            DamagedError: It is not what was written.
        """
        data = self.read(path)
        try:
            return pq.ParquetFile(pa.BufferReader(data)).read(columns=columns)
        except BROKEN:  # of 0.1.0, without a checksum
            raise DamagedError(path, "it is no whole Parquet file") from None

    def write_json(self, name: str, value: object) -> None:
        """Write a small JSON file, such as the provenance."""
        self.write(self.folder / name, checksums.sealed_json(value))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file at the top of the run, such as `spec.yaml`."""
        self.write(self.folder / name, checksums.sealed_text(text))

    def read_text(self, name: str) -> str | None:
        """Read a text file of the run, or None where there is none."""
        path = self.folder / name
        return checksums.read_text(self.read(path)) if path.exists() else None

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run, or None where there is none."""
        path = self.folder / name
        return checksums.read_json(self.read(path), path) if path.exists() else None

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table at the top of the run, such as `findings.parquet`."""
        self.write(self.folder / name, parquet_bytes(table))

    def read_table(self, name: str) -> pd.DataFrame | None:
        """Read a table at the top of the run, or None where there is none."""
        path = self.folder / name
        return self.read_parquet(path).to_pandas() if path.exists() else None
