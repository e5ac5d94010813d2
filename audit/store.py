"""The run directory: what is on disk, and nothing else, says what is done.

A file is written as `.name.tmp`, flushed to disk, then renamed: a final file is a whole
file. No status is kept beside the files. Paths are made of ids from the plan.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

IMAGE_ROW_GROUP = 16
LABEL_COLUMNS = ("cell", "attribute", "class", "rater")
WITHDRAWN = ""
"""In place of a class: a label that its rater took back. Labels are only ever added."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def parquet_bytes(
    table: pd.DataFrame, row_group: int | None = None, compress: bool = True
) -> bytes:
    """A table as a Parquet file in memory."""
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False),
        buffer,
        row_group_size=row_group,
        compression="zstd" if compress else "none",
    )
    return buffer.getvalue()


class Run:
    """One run directory.

    Args:
        folder: where; made on first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- spec, plan, provenance ---

    @property
    def plan_path(self) -> Path:
        """The plan's file."""
        return self.folder / "plan.parquet"

    def read_plan(self) -> pd.DataFrame | None:
        """The grid of the plan as last written, or None."""
        whole = self.read_cells()
        if whole is None or "asked" not in whole:
            return whole
        return whole[whole["asked"] == ""].reset_index(drop=True)

    def read_cells(self) -> pd.DataFrame | None:
        """The whole plan as last written, with what probes asked for, or None."""
        if not self.plan_path.exists():
            return None
        plan = pd.read_parquet(self.plan_path)
        # A run from before there was this factor.
        return plan if "adapters" in plan else plan.assign(adapters="none")

    def write_plan(self, plan: pd.DataFrame) -> None:
        """Write the plan."""
        write_atomic(self.plan_path, parquet_bytes(plan))

    def write_json(self, name: str, value: Any) -> None:
        """Write a small JSON file, such as the provenance."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file at the top of the run, such as `spec.yaml`."""
        write_atomic(self.folder / name, text.encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run, or None where there is none."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table at the top of the run, such as `findings.parquet`."""
        write_atomic(self.folder / name, parquet_bytes(table))

    # --- latents and images ---

    def latents_path(self, unit: str) -> Path:
        """Final latents of one unit's trajectories."""
        return self.folder / "latents" / f"{unit}.safetensors"

    def images_path(self, unit: str, vae: str) -> Path:
        """Images of one unit as one VAE decodes them."""
        return self.folder / "images" / unit / f"{vae}.parquet"

    def write_latents(self, unit: str, latents: dict[str, torch.Tensor]) -> None:
        """Write latents by trajectory id."""
        from safetensors.torch import save

        write_atomic(self.latents_path(unit), save(latents))

    def read_latents(self, unit: str) -> dict[str, torch.Tensor]:
        """Latents by trajectory id."""
        from safetensors.torch import load_file

        return load_file(self.latents_path(unit))

    def taps_path(self, tap: str, unit: str) -> Path:
        """What a tap kept of one unit; `tap` is name@digest."""
        return self.folder / "taps" / tap / f"{unit}.safetensors"

    def write_taps(
        self, tap: str, unit: str, arrays: dict[str, NDArray[np.generic]], notes: str
    ) -> None:
        """Write what a tap kept: arrays by name, and notes as JSON text."""
        from safetensors.numpy import save

        write_atomic(self.taps_path(tap, unit), save(arrays, {"notes": notes}))

    def read_taps(self, tap: str, unit: str) -> tuple[dict[str, NDArray[np.generic]], str]:
        """What a tap kept, as written."""
        from safetensors import safe_open

        with safe_open(self.taps_path(tap, unit), "numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return arrays, file.metadata()["notes"]

    def write_images(self, unit: str, vae: str, rows: list[dict[str, Any]]) -> None:
        """Write images: rows of cell, png (bytes or None), sha256, reason (where no image)."""
        table = pd.DataFrame(rows, columns=["cell", "png", "sha256", "reason"])
        write_atomic(
            self.images_path(unit, vae), parquet_bytes(table, IMAGE_ROW_GROUP, compress=False)
        )

    def read_images(self, unit: str, vae: str) -> pd.DataFrame:
        """Images as written."""
        return pd.read_parquet(self.images_path(unit, vae))

    def image(self, unit: str, vae: str, cell: str) -> bytes | None:
        """One image's PNG bytes, or None where it is missing. Reads one row group."""
        path = self.images_path(unit, vae)
        if not path.exists():
            return None
        table = pq.read_table(path, columns=["png"], filters=[("cell", "=", cell)])
        return table["png"][0].as_py() if table.num_rows else None

    # --- scores ---

    def scores_path(self, instrument: str, unit: str, vae: str) -> Path:
        """Scores of one unit's images; `instrument` is name@digest."""
        return self.folder / "scores" / instrument / unit / f"{vae}.parquet"

    def write_scores(self, instrument: str, unit: str, vae: str, rows: pd.DataFrame) -> None:
        """Write one instrument's rows."""
        write_atomic(self.scores_path(instrument, unit, vae), parquet_bytes(rows))

    def read_scores(self, instrument: str, units: set[str]) -> pd.DataFrame:
        """All rows of one instrument for the units of the plan, in a fixed order."""
        root = self.folder / "scores" / instrument
        files = sorted(p for p in root.glob("*/*.parquet") if p.parent.name in units)
        if not files:
            return pd.DataFrame({"cell": pd.Series(dtype=str)})
        # One small file a batch: pandas would spend most of its time on opening them.
        tables = [pq.ParquetFile(p).read() for p in files]
        return pa.concat_tables(tables, promote_options="permissive").to_pandas()

    # --- masks, failures and labels ---

    def write_mask(self, trajectory: str, png: bytes) -> None:
        """Write where skin is in the pictures of a trajectory: a PNG, white on black."""
        write_atomic(self.folder / "masks" / f"{trajectory}.png", png)

    def read_mask(self, trajectory: str) -> NDArray[np.bool_] | None:
        """The mask of a trajectory's pictures, (height, width), or None."""
        import numpy as np
        from PIL import Image

        path = self.folder / "masks" / f"{trajectory}.png"
        return np.asarray(Image.open(path).convert("L")) > 127 if path.exists() else None

    def write_failure(self, unit: str, reason: str) -> None:
        """Say why a unit could not be made; overwritten at the next try."""
        write_atomic(self.folder / "failures" / f"{unit}.txt", reason.encode() + b"\n")

    def clear_failure(self, unit: str) -> None:
        """Forget a failure that a later try has mended."""
        (self.folder / "failures" / f"{unit}.txt").unlink(missing_ok=True)

    def failures(self) -> dict[str, str]:
        """Reasons by unit."""
        files = sorted((self.folder / "failures").glob("*.txt"))
        return {p.stem: p.read_text(encoding="utf-8").strip() for p in files}

    def write_labels(self, name: str, rows: list[tuple[str, str, str, str]]) -> None:
        """Write labels, rows of `LABEL_COLUMNS`, replacing those of that name; none: no file."""
        if rows:
            table = pd.DataFrame(rows, columns=list(LABEL_COLUMNS))
            write_atomic(self.folder / "labels" / f"{name}.parquet", parquet_bytes(table))

    def append_labels(self, rows: list[tuple[str, str, str, str]]) -> None:
        """Add labels, rows of `LABEL_COLUMNS`, in a file of their own; nothing is overwritten.

        The name sorts by time and ends at random, so that several people can label at once.
        """
        self.write_labels(f"label-{time.time_ns():020d}-{secrets.token_hex(4)}", rows)

    def labels(self) -> pd.DataFrame:
        """All labels: cell, attribute, class, rater. Of a rater's labels of one cell, the last.

        Where the last is `WITHDRAWN`, the rater has none of that cell.
        """
        files = sorted((self.folder / "labels").glob("*.parquet"))
        columns = list(LABEL_COLUMNS)
        if not files:
            return pd.DataFrame({c: pd.Series(dtype=str) for c in columns})
        tables = [pq.ParquetFile(p).read(columns=columns) for p in files]
        table = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        last = table.drop_duplicates(["cell", "attribute", "rater"], keep="last")
        return last[last["class"] != WITHDRAWN].reset_index(drop=True)

    def sample_path(self, attribute: str) -> Path:
        """The kept sample of pictures to be labelled for an attribute."""
        # By digest: an attribute's name may hold what a path must not.
        name = sha256(attribute.encode())[:16]
        return self.folder / "label-samples" / f"{name}.parquet"

    def write_sample(self, attribute: str, table: pd.DataFrame) -> None:
        """Keep a sample: cell, pi, drawn. One that is there already stays, also in a race."""
        path = self.sample_path(attribute)
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            own.write_bytes(parquet_bytes(table))
            os.link(own, path)  # fails where the file exists, unlike os.replace
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(own, path)
        finally:
            own.unlink(missing_ok=True)

    def read_sample(self, attribute: str) -> pd.DataFrame | None:
        """The kept sample of an attribute, or None."""
        path = self.sample_path(attribute)
        return pd.read_parquet(path) if path.exists() else None

    def missing_images(self) -> pd.DataFrame:
        """Cells that were tried and gave no image: cell, reason."""
        rows = []
        for unit, vae in self.image_files():
            table = pq.ParquetFile(self.images_path(unit, vae)).read(columns=["cell", "reason"])
            rows += [r for r in table.to_pylist() if r["reason"]]
        return pd.DataFrame(rows, columns=["cell", "reason"])

    def made_cells(self, unit: str, vae: str) -> list[str]:
        """Cells of one images file that have an image."""
        table = pq.ParquetFile(self.images_path(unit, vae)).read(columns=["cell", "sha256"])
        return [r["cell"] for r in table.to_pylist() if r["sha256"]]

    def image_files(self) -> Iterator[tuple[str, str]]:
        """(unit, vae) of every images file."""
        for path in sorted((self.folder / "images").glob("*/*.parquet")):
            yield path.parent.name, path.stem


def sha256(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()
