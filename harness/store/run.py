"""The run directory: what is on disk, and nothing else, says what is done.

A file is written under another name, flushed to disk, then renamed: a final file is a whole
file (`harness.files.atomic`). No status is kept beside the files. Paths are made of ids from the
plan. Every file holds a checksum (`harness.files.checksums`) that is checked whenever it is read;
what changed since all were checked last is found by `harness.store.damage` when a run is opened.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness import __version__
from harness.errors import AuditError
from harness.files import checksums
from harness.files.atomic import refuse_links, write_new
from harness.files.checksums import DamagedError
from harness.files.names import file_name, part
from harness.files.yaml_files import shown
from harness.hashing import sha256
from harness.json_types import JsonObject
from harness.store.run_folder import BROKEN, MADE_WITH, PLAN, PROVENANCE, RunFolder, parquet_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

IMAGE_ROW_GROUP = 16
COPY = "-copy"
LABEL_COLUMNS = ("cell", "attribute", "class", "rater")
WITHDRAWN = ""
"""In place of a class: a label that its rater took back. Labels are only ever added."""
INSTRUMENTS = "instruments.json"
"""Which folder of `scores` holds those of which instrument."""


class Run(RunFolder):
    """One run directory.

    Args:
        folder: where; made on first write.

    Raises:
        LinkError: It holds a link.
    """

    def __init__(self, folder: Path) -> None:
        refuse_links(folder)
        super().__init__(folder)

    # --- spec, plan, provenance ---

    @property
    def plan_path(self) -> Path:
        """The plan's file."""
        return self.folder / PLAN

    def read_plan(self) -> pd.DataFrame | None:
        """The grid of the plan as last written, or None."""
        whole = self.read_cells()
        if whole is None or "requested_by" not in whole:
            return whole
        return whole[whole["requested_by"] == ""].reset_index(drop=True)

    def read_cells(self) -> pd.DataFrame | None:
        """The whole plan as last written, with what probes asked for, or None."""
        if not self.plan_path.exists():
            return None
        plan = self.read_parquet(self.plan_path).to_pandas()
        plan = plan.rename(columns={"asked": "requested_by"})  # its name in 0.1.0
        # A run from before there were these columns.
        for column, value in (("adapters", "none"), ("pair", "")):
            if column not in plan:
                plan[column] = value
        return plan

    def write_plan(self, plan: pd.DataFrame) -> None:
        """Write the plan, with a second copy of the set-up, lest it be lost with one file."""
        notes = {"format": json.dumps(self.format)}
        made_with = self.made_with()
        if made_with is not None:
            notes[MADE_WITH] = json.dumps(made_with)
        self.write(self.plan_path, parquet_bytes(plan, notes=notes))

    def write_provenance(self, value: JsonObject) -> None:
        """Write what is audited and how the images are made, with the run's format."""
        told = {"format": self.format, "written by": f"diffusion-audit {__version__}"}
        self.write_json(PROVENANCE, value | told)

    def provenance(self) -> JsonObject | None:
        """What was audited and how the images were made, or None where nothing was begun.

        Raises:
            DamagedError: It is not what was written.
            NewerFormatError: A later version of diffusion-audit wrote the run.
        """
        _ = self.format
        value = self.read_json(PROVENANCE)
        if value is not None and not isinstance(value, dict):
            raise DamagedError(self.folder / PROVENANCE, "it is no JSON object")
        return value

    def made_with(self) -> JsonObject | None:
        """The set-up that the run's images were made with, or None where nothing was begun.

        Raises:
            AuditError: The provenance is lost, and the plan has no copy, but there are images.
        """
        lost = None
        try:
            provenance = self.provenance()
            if provenance is not None:
                return dict(provenance[MADE_WITH])
        except DamagedError as error:
            lost = error
        noted = self._noted(MADE_WITH, None)
        if noted is None and next(self.image_files(), None) is not None:
            raise AuditError(
                f"{str(self.folder / PROVENANCE)!r} is missing or damaged: with which set-up the "
                "run's images were made is not known, and images of two set-ups must not mix; "
                "restore the file from a backup, or use another run folder"
            ) from lost
        return noted

    # --- latents and images ---

    def latents_path(self, unit: str) -> Path:
        """Final latents of one unit's trajectories."""
        return self.folder / "latents" / f"{part(unit)}.safetensors"

    def images_path(self, unit: str, vae: str) -> Path:
        """Images of one unit as one VAE decodes them."""
        return self.folder / "images" / part(unit) / f"{part(vae)}.parquet"

    def write_latents(self, unit: str, latents: dict[str, torch.Tensor]) -> None:
        """Write latents by trajectory id."""
        from safetensors.torch import save

        data = save(latents, checksums.tensor_metadata(latents))
        self.write(self.latents_path(unit), checksums.seal(data))

    def read_latents(self, unit: str) -> dict[str, torch.Tensor]:
        """Latents by trajectory id."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.latents_path(unit)
        try:
            return load(self.read(path))
        except SafetensorError as error:
            raise DamagedError(path, str(error)) from None

    def taps_path(self, tap: str, unit: str) -> Path:
        """What a tap kept of one unit; `tap` is name@digest."""
        return self.folder / "taps" / part(tap) / f"{part(unit)}.safetensors"

    def write_taps(
        self, tap: str, unit: str, arrays: dict[str, NDArray[np.generic]], notes: str
    ) -> None:
        """Write what a tap kept: arrays by name, and notes as JSON text."""
        from safetensors.numpy import save

        data = save(arrays, checksums.tensor_metadata(arrays, notes))
        self.write(self.taps_path(tap, unit), checksums.seal(data))

    def read_taps(self, tap: str, unit: str) -> tuple[dict[str, NDArray[np.generic]], str]:
        """What a tap kept, as written."""
        from safetensors import SafetensorError, safe_open
        from safetensors.numpy import load

        path = self.taps_path(tap, unit)
        data = self.read(path)
        try:
            with safe_open(path, "numpy") as file:
                return load(data), checksums.tensor_notes(file.metadata())
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DamagedError(path, str(error)) from None

    def write_images(self, unit: str, vae: str, rows: list[JsonObject]) -> None:
        """Write images: rows of cell, png (bytes or None), sha256, reason (where no image)."""
        columns = ["cell", "png", "sha256", "reason"]
        table = pd.DataFrame(rows, columns=columns)
        table[checksums.KEY] = [checksums.image_digest(*(r[c] for c in columns)) for r in rows]
        self.write(
            self.images_path(unit, vae), parquet_bytes(table, IMAGE_ROW_GROUP, compress=False)
        )

    def read_images(self, unit: str, vae: str) -> pd.DataFrame:
        """Images as written."""
        table = self.read_parquet(self.images_path(unit, vae)).to_pandas()
        return table.drop(columns=checksums.KEY, errors="ignore")

    def image(self, unit: str, vae: str, cell: str) -> bytes | None:
        """One image's PNG bytes, or None where it is missing. Reads one row group."""
        return self.images_of(unit, vae, [cell]).get(cell)

    def images_of(self, unit: str, vae: str, cells: list[str]) -> dict[str, bytes]:
        """PNG bytes of the cells that one images file has; errors as `read_images`."""
        path = self.images_path(unit, vae)
        return read_images(path, cells, self) if path.exists() else {}

    # --- scores ---

    def scores_path(self, instrument: str, unit: str, vae: str) -> Path:
        """Scores of one unit's images; `instrument` is name@digest."""
        return self.folder / "scores" / part(instrument) / part(unit) / f"{part(vae)}.parquet"

    def write_scores(self, instrument: str, unit: str, vae: str, rows: pd.DataFrame) -> None:
        """Write one instrument's rows."""
        self.write(self.scores_path(instrument, unit, vae), parquet_bytes(rows))

    def instruments(self) -> dict[str, str]:
        """Folder of scores by instrument; empty before anything was scored.

        Raises:
            AuditError: `instruments.json` was edited and leads to no scores of its instruments.
        """
        value = self.read_json(INSTRUMENTS)
        known = {} if value is None else value
        path = f"{str(self.folder / INSTRUMENTS)!r}"
        way_out = "run the command that made the run again, which writes this file anew"
        if not isinstance(known, dict):
            raise AuditError(f"{path}: is no mapping of instruments to folders; {way_out}")
        for name, folder in known.items():
            of = folder.rpartition("@")[0] if isinstance(folder, str) else None
            if of not in (name, file_name(name)):  # 0.1.0 kept long names whole
                raise AuditError(
                    f"{path}: {shown(folder)} is no folder of scores of {shown(name)}; {way_out}"
                )
        return known

    def read_scores(self, instrument: str, units: set[str]) -> pd.DataFrame:
        """All rows of one instrument for the units of the plan, in a fixed order."""
        root = self.folder / "scores" / part(instrument)
        files = sorted(p for p in root.glob("*/*.parquet") if p.parent.name in units)
        if not files:
            return pd.DataFrame({"cell": pd.Series(dtype=str)})
        # One small file a batch: pandas would spend most of its time on opening them.
        tables = [self.read_parquet(p) for p in files]
        return pa.concat_tables(tables, promote_options="permissive").to_pandas()

    # --- masks, failures and labels ---

    def write_mask(self, trajectory: str, png: bytes) -> None:
        """Write where skin is in the images of a trajectory: a PNG, white on black."""
        # Readers of PNG stop at its end; what follows is ours.
        self.write(self.mask_path(trajectory), checksums.seal(png + checksums.BLANK))

    def mask_path(self, trajectory: str) -> Path:
        """Where skin is in the images of a trajectory."""
        return self.folder / "masks" / f"{part(trajectory)}.png"

    def read_mask(self, trajectory: str) -> NDArray[np.bool_] | None:
        """The mask of a trajectory's images, (height, width), or None."""
        import numpy as np

        from harness.images.stored import UnreadableImageError, opened

        path = self.mask_path(trajectory)
        if not path.exists():
            return None
        data = self.read(path)
        try:
            return np.asarray(opened(data, "L")) > 127
        except UnreadableImageError:
            raise DamagedError(path, "it is no whole PNG") from None

    def write_failure(self, unit: str, reason: str) -> None:
        """Say why a unit could not be made; overwritten at the next try."""
        data = checksums.sealed_text(reason + "\n")
        self.write(self.folder / "failures" / f"{part(unit)}.txt", data)

    def clear_failure(self, unit: str) -> None:
        """Forget a failure that a later try has mended."""
        (self.folder / "failures" / f"{part(unit)}.txt").unlink(missing_ok=True)

    def failures(self) -> dict[str, str]:
        """Reasons by unit."""
        files = sorted((self.folder / "failures").glob("*.txt"))
        return {p.stem: checksums.read_text(self.read(p)).strip() for p in files}

    def write_traceback(self, step: str, name: str, text: str) -> Path:
        """Keep why a step raised, such as an instrument on one unit's images.

        Args:
            step: Folder below `failures`: 'analysis', or the name@digest of an instrument.
            name: File name without its ending.
            text: The exception in one line, and its traceback.
        """
        path = self._traceback_path(step, name)
        self.write(path, text.encode("utf-8", "replace"))
        return path

    def clear_traceback(self, step: str, name: str) -> None:
        """Forget what `write_traceback` kept."""
        self._traceback_path(step, name).unlink(missing_ok=True)

    def tracebacks(self, step: str) -> list[Path]:
        """Files of `write_traceback`, in the order of their names.

        Raises:
            AuditError: The step is no plain name.
        """
        return sorted((self.folder / "failures" / part(step)).glob("*.log"))

    def _traceback_path(self, step: str, name: str) -> Path:
        return self.folder / "failures" / part(step) / f"{file_name(name)}.log"

    def write_labels(self, name: str, rows: list[tuple[str, str, str, str]]) -> None:
        """Write labels, rows of `LABEL_COLUMNS`, replacing those of that name; none: no file."""
        if rows:
            table = pd.DataFrame(rows, columns=list(LABEL_COLUMNS))
            self.write(self.folder / "labels" / f"{name}.parquet", parquet_bytes(table))

    def append_labels(self, rows: list[tuple[str, str, str, str]]) -> None:
        """Add labels, rows of `LABEL_COLUMNS`, in a file of their own; nothing is overwritten.

        The name sorts by time and ends at random, so that several people can label at once.
        """
        self.write_labels(f"label-{time.time_ns():020d}-{secrets.token_hex(4)}", rows)

    def labels(self, files: Sequence[Path] | None = None) -> pd.DataFrame:
        """Labels: cell, attribute, class, rater. Of a rater's labels of one cell, the last.

        Where the last is `WITHDRAWN`, the rater has none of that cell.

        Args:
            files: Files of labels in the order of their names; None: all of the run's.
        """
        if files is None:
            files = sorted((self.folder / "labels").glob("*.parquet"))
        columns = list(LABEL_COLUMNS)
        if not files:
            return pd.DataFrame({c: pd.Series(dtype=str) for c in columns})
        tables = [self.read_parquet(p, columns) for p in files]
        table = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        last = table.drop_duplicates(["cell", "attribute", "rater"], keep="last")
        return last[last["class"] != WITHDRAWN].reset_index(drop=True)

    def sample_path(self, attribute: str) -> Path:
        """The kept sample of images to be labelled for an attribute."""
        # By digest: an attribute's name may hold what a path must not.
        name = sha256(attribute.encode())[:16]
        return self.folder / "label-samples" / f"{name}.parquet"

    def write_sample(self, attribute: str, table: pd.DataFrame) -> None:
        """Keep a sample: cell, pi, drawn. One that is there already stays, also in a race."""
        path, data = self.sample_path(attribute), parquet_bytes(table)
        if write_new(path, data):
            # It cannot be drawn again, and all labels rest on it.
            self.write(twin_of(path), data)

    def read_sample(self, attribute: str) -> pd.DataFrame | None:
        """The kept sample of an attribute, or None."""
        path = self.sample_path(attribute)
        path = path if path.exists() else twin_of(path)
        return self.read_parquet(path).to_pandas() if path.exists() else None

    def missing_images(self) -> pd.DataFrame:
        """Cells that were tried and gave no image: cell, reason."""
        rows = []
        for unit, vae in self.image_files():
            table = self._columns(self.images_path(unit, vae), ["cell", "reason"])
            rows += [r for r in table.to_pylist() if r["reason"]]
        return pd.DataFrame(rows, columns=["cell", "reason"])

    def made_cells(self, unit: str, vae: str) -> list[str]:
        """Cells of one images file that have an image."""
        return list(self.pixel_digests(unit, vae))

    def made_of(self, plan: pd.DataFrame) -> set[str]:
        """Cells of a plan that have an image: copies of imported images lie in the files too."""
        files = plan[["unit", "vae_file"]].drop_duplicates().itertuples(index=False)
        made = {
            cell
            for unit, vae in files
            if self.images_path(unit, vae).exists()
            for cell in self.made_cells(unit, vae)
        }
        return made & set(plan["cell"])

    def pixel_digests(self, unit: str, vae: str) -> dict[str, str]:
        """sha256 of the pixels by cell, of the cells of one images file that have an image."""
        table = self._columns(self.images_path(unit, vae), ["cell", "sha256"])
        return {r["cell"]: r["sha256"] for r in table.to_pylist() if r["sha256"]}

    def units_by_cell(self) -> dict[str, str]:
        """The unit that holds each cell of the images files: what a lost plan knew."""
        return {
            str(cell): unit
            for unit, vae in self.image_files()
            for cell in self._columns(self.images_path(unit, vae), ["cell"])["cell"].to_pylist()
        }

    def _columns(self, path: Path, columns: list[str]) -> pa.Table:
        """Columns of an images file without its images: checked when the run was opened."""
        try:
            return pq.ParquetFile(path).read(columns=columns)
        except BROKEN as error:
            raise _broken(path, error) from None

    def image_files(self) -> Iterator[tuple[str, str]]:
        """(unit, vae) of every images file."""
        for path in sorted((self.folder / "images").glob("*/*.parquet")):
            yield path.parent.name, path.stem


def read_images(path: Path, cells: list[str], run: RunFolder) -> dict[str, bytes]:
    """PNG bytes of the cells that an images file has; reads their row groups only.

    Raises:
        DamagedError: One of them is not what was written.
    """
    try:
        rows = pq.read_table(path, filters=[("cell", "in", cells)]).to_pylist()
    except BROKEN as error:
        raise _broken(path, error) from None
    if len(rows) < len(set(cells)) or any(checksums.KEY not in row for row in rows):
        run.read(path)  # rows may be lost, or never have been there
    for row in rows:
        known = row.pop(checksums.KEY, None)
        if known is not None and known != checksums.image_digest(*row.values()):
            run.forget_check()
            raise DamagedError(path, f"the checksum of image {row['cell'][:12]} does not hold")
    return {row["cell"]: row["png"] for row in rows if row["png"] is not None}


def _broken(path: Path, error: BaseException) -> BaseException:
    """The error itself where the operating system refused to read, else that of damage."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return DamagedError(path, "it is no whole Parquet file")


def twin_of(sample: Path) -> Path:
    """The second copy of a sample to be labelled, or the first of the second."""
    stem = sample.stem.removesuffix(COPY)
    return sample.with_name(f"{stem}{COPY if stem == sample.stem else ''}.parquet")
