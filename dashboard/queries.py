"""A run as tables: DuckDB in memory over the run's Parquet files. No streamlit here.

DuckDB may read the run's own folder and nothing else, and its settings are locked. What comes
from the plan or from a reader reaches SQL as a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from dashboard.run_index import Files, RunError, checked, index, without
from harness.errors import AuditError, reason
from harness.files.checksums import (
    DamagedError,
    NewerFormatError,
    check_tensors,
    read_json,
    read_text,
)
from harness.images.heat_map import map_at
from harness.images.image_ref import ImageRef, read_ref, rendered
from harness.json_types import JsonObject
from harness.plan.cells import ARM, Cell, arm_labels
from harness.spec.schema import Spec, parse_spec, read_own_spec
from harness.store.damage import find
from harness.store.run import read_images
from harness.store.run_folder import RunFolder
from probes.contracts import Figure, Finding
from probes.finding_rows import FORMAT, figure_from_row, from_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dashboard.charts import Facets

FILTERS = ("checkpoint", "vae", "prompt", "arm", "seed")
REPORT = "report/report.json"
SAFE = re.compile(r"[A-Za-z0-9_-]{1,128}")
Filters = Mapping[str, Sequence[object]]


class RunView:
    """One run, read-only.

    Args:
        folder: the run's directory.

    Raises:
        RunError: No run, or one whose plan cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.files: Files = index(folder)
        self.folder = self.files.root
        self.held = RunFolder(self.folder)
        self.damaged = self._leave_out_damaged()
        self._lock = RLock()
        self._made: dict[str, str] = {}
        self.cache: dict[str, pd.DataFrame] = {}
        self.drawn: dict[tuple[int, bool], Facets | None] = {}
        self.opened = monotonic_ns()
        self._db = _connect(self.folder)
        try:
            self._db.read_parquet(str(self.files.top["plan.parquet"])).create("planned")
        except duckdb.Error as error:
            raise RunError(f"{folder}: plan.parquet cannot be read ({_first(error)})") from None
        have = {str(row[0]) for row in self._db.execute("DESCRIBE planned").fetchall()}
        if "asked" in have:  # a run of 0.1.0
            self._db.execute("ALTER TABLE planned RENAME asked TO requested_by")
            have = have - {"asked"} | {"requested_by"}
        if "pair" not in have:  # a run of 0.1.0: nothing paired imported images
            self._db.execute("ALTER TABLE planned ADD COLUMN pair VARCHAR DEFAULT ''")
            have.add("pair")
        lacking = [name for name in Cell._fields if name not in have]
        if lacking:
            raise RunError(
                f"{folder}: plan.parquet has no column {lacking[0]!r}: this run was written by an "
                "older version; run the same `audit run` command again to bring it up to date"
            )
        self._add_arms()

    def _leave_out_damaged(self) -> list[str]:
        """Names of damaged files; but for the plan, what they held is shown as missing."""
        try:
            found = {d.path for d in find(self.held, checked(self.files))}
        except NewerFormatError as error:
            raise RunError(str(error)) from None
        plan = self.files.top["plan.parquet"]
        if plan in found:
            raise RunError(str(DamagedError(plan, "its checksum does not hold")))
        self.files = without(self.files, found)
        return sorted(p.relative_to(self.folder).as_posix() for p in found)

    def _add_arms(self) -> None:
        names = self._db.execute("SELECT DISTINCT unit, vae_file FROM planned").df()
        bad = [u for u in {*names["unit"], *names["vae_file"]} if not SAFE.fullmatch(str(u))]
        if bad:
            raise RunError(f"{self.folder}: plan.parquet: {bad[0]!r} is no name of a unit or VAE")
        # What a probe asked for can be opened, not filtered: it has no arm and comes last.
        factors = ", ".join(ARM)
        kinds = self._db.execute(
            f"SELECT {factors} FROM planned WHERE requested_by = '' GROUP BY ALL "
            "ORDER BY min(rowid)"
        ).df()
        kinds["arm"] = arm_labels(kinds) if len(kinds) else pd.Series(dtype=str)
        self._db.register("kinds", kinds)
        same = " AND ".join(f"p.{name} IS NOT DISTINCT FROM k.{name}" for name in ARM)
        self._db.execute(
            f"""CREATE TABLE cells AS
                SELECT * EXCLUDE (line),
                       row_number() OVER (ORDER BY requested_by <> '', line) AS place
                FROM (SELECT p.*, coalesce(k.arm, '') AS arm, p.rowid AS line FROM planned p
                      LEFT JOIN kinds k ON p.requested_by = '' AND {same}
                      QUALIFY row_number() OVER
                          (PARTITION BY cell ORDER BY requested_by <> '', line) = 1)
                ORDER BY place"""
        )
        self._db.execute("CREATE VIEW plan AS SELECT * FROM cells WHERE requested_by = ''")
        self._db.unregister("kinds")
        self._db.execute("DROP TABLE planned")
        arms = self._db.execute("SELECT arm FROM plan GROUP BY 1 ORDER BY min(place)").df()
        self.arms = arms["arm"].tolist()

    # --- tables ---

    def sql(self, query: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Rows of one query; safe from several sessions at once."""
        with self._lock:
            return self._db.execute(query, list(parameters)).df()

    @cached_property
    def levels(self) -> dict[str, list[object]]:
        """The levels of every factor that a reader can filter by, in the plan's order."""
        out = {}
        for name in (*FILTERS, "prompt_index", "kind"):
            rows = self.sql(f"SELECT {name} AS x FROM plan GROUP BY 1 ORDER BY min(place)")
            out[name] = rows["x"].tolist()
        return out

    @cached_property
    def planned(self) -> int:
        """Cells of the plan."""
        return int(self.sql("SELECT count(*) AS n FROM plan")["n"][0])

    def made(self) -> pd.DataFrame:
        """By arm: planned, made, missing, and the commonest reason."""
        table = self.images_table()
        rows = self.sql(
            f"""SELECT p.arm, count(*) AS planned, count(*) FILTER (i.there) AS made,
                   count(*) FILTER (i.there IS NOT TRUE) AS missing,
                   mode(CASE WHEN i.there THEN NULL ELSE coalesce(i.reason, p.unit) END) AS reason
                FROM plan p LEFT JOIN {table} i USING (cell) GROUP BY 1 ORDER BY min(place)"""
        )
        rows["reason"] = [self._why(r) for r in rows["reason"]]
        return rows

    def _why(self, reason: object) -> str:
        """A reason in words; of a unit without images, its failure."""
        if not isinstance(reason, str):
            return ""
        if reason in self.files.failures:
            try:
                return read_text(self.files.failures[reason].read_bytes()).strip()[:200]
            except OSError:
                return "not made yet"
        return "not made yet" if SAFE.fullmatch(reason) else reason

    def cells(
        self, filters: Filters, limit: int = 1000, order: Sequence[str] = ("place",)
    ) -> pd.DataFrame:
        """Rows of the plan that pass the filters."""
        where, values = self.where(filters)
        columns = ", ".join(f"p.{name}" for name in order)
        return self.sql(
            f"SELECT p.* FROM plan p {where} ORDER BY {columns} LIMIT ?", [*values, limit]
        )

    def cell(self, cell: str) -> pd.Series | None:
        """One row of the plan by its id or the id's first letters, or None."""
        if not re.fullmatch("[0-9a-f]{6,64}", cell):
            return None
        rows = self.sql("SELECT * FROM cells WHERE starts_with(cell, ?) LIMIT 2", [cell])
        return rows.iloc[0] if len(rows) == 1 else None

    def siblings(self, row: pd.Series) -> pd.DataFrame:
        """Cells of the same prompt and seed, whatever was swapped."""
        return self.sql(
            "SELECT * FROM plan WHERE prompt = ? AND seed = ? ORDER BY place",
            [str(row["prompt"]), int(row["seed"])],
        )

    def neighbours(self, row: pd.Series) -> tuple[str, str]:
        """Cells before and after this one among its arm's, in the plan's order; '' at an end."""
        near = self.sql(
            "SELECT max_by(cell, place) FILTER (place < $2) AS before, "
            "min_by(cell, place) FILTER (place > $2) AS after FROM plan WHERE arm = $1",
            [str(row["arm"]), int(row["place"])],
        )
        before, after = near.fillna("").iloc[0]
        return str(before), str(after)

    def where(self, filters: Filters) -> tuple[str, list[object]]:
        """A WHERE clause on the plan as `p`, and its parameters; empty lists do not filter."""
        chosen = {k: list(v) for k, v in filters.items() if k in FILTERS and len(v)}
        text = " AND ".join(f"list_contains(?, p.{name})" for name in chosen)
        return (f"WHERE {text}" if text else ""), list(chosen.values())

    # --- images ---

    def images(self, refs: Iterable[str]) -> dict[str, bytes]:
        """PNG bytes of the references that have an image, see `harness.images.image_ref`."""
        wanted = {text: read_ref(text) for text in refs}
        plain = list({c for ref in wanted.values() for c in (ref.cell, ref.minus) if c})
        rows = self.sql(
            "SELECT cell, unit, vae_file FROM cells WHERE list_contains(?, cell)", [plain]
        )
        found: dict[str, bytes] = {}
        for (unit, vae), part in rows.groupby(["unit", "vae_file"]):
            path = self.files.images.get((str(unit), str(vae)))
            if path is None:
                continue
            try:
                found |= read_images(path, list(part["cell"]), self.held)
            except (OSError, ValueError) as error:
                if isinstance(error, DamagedError):  # since the run was opened
                    self.damaged.append(path.relative_to(self.folder).as_posix())
                continue  # removed, or damaged
        made = {text: rendered(ref, found.get, self._map) for text, ref in wanted.items()}
        return {text: png for text, png in made.items() if png is not None}

    def _map(self, ref: ImageRef) -> NDArray[np.generic] | None:
        """Where attention to a word was, if the run kept it."""
        from safetensors import SafetensorError, safe_open

        row = self.cell(ref.cell)
        if row is None:
            return None
        name, index = ref.array
        key = f"{row['trajectory']}|{name}"
        for path in self.files.attention.get(str(row["unit"]), []):
            try:
                with safe_open(path, "numpy") as file:
                    if key in file.keys():  # noqa: SIM118
                        array = file.get_tensor(key)
                        strict = self.held.format > 1
                        check_tensors([(key, array)], file.metadata(), path, strict)
                        return map_at(array, index)
            except (OSError, SafetensorError, DamagedError):
                continue
        return None

    def picture(self, cell: str) -> bytes | None:
        """One image's PNG bytes, or None where the run has none."""
        return self.images([cell]).get(cell)

    def images_table(self) -> str:
        """Table of cell, there (whether it has an image), reason."""
        paths = [str(p) for p in self.files.images.values()]
        return self._table("made", paths, "cell, sha256 IS NOT NULL AS there, reason")

    def _table(self, name: str, paths: list[str], columns: str) -> str:
        """A table of what Parquet files hold, read once."""
        with self._lock:
            if name not in self._made:
                table = f"t{len(self._made)}"
                if paths:
                    relation = self._db.read_parquet(paths, union_by_name=True)
                    relation.project(columns).create(table)
                else:
                    self._db.execute(
                        f"CREATE TABLE {table} (cell VARCHAR, there BOOLEAN, reason VARCHAR)"
                    )
                self._made[name] = table
            return self._made[name]

    # --- scores ---

    @cached_property
    def instruments(self) -> dict[str, str]:
        """Folder of scores by instrument, of those that measured something."""
        known = self.json("instruments.json")
        if not isinstance(known, dict):
            return {}
        return {str(k): str(v) for k, v in known.items() if str(v) in self.files.scores}

    def scores(self, instrument: str) -> str:
        """Name of the table of an instrument's scores, without embeddings."""
        paths = [str(p) for p in self.files.scores[self.instruments[instrument]]]
        have = pq.read_schema(paths[0]).names
        columns = ", ".join(_quoted(c) for c in have if c != "embedding")
        return self._table(f"scores {instrument}", paths, columns)

    def keep(self, name: str, table: pd.DataFrame) -> str:
        """Put a frame beside the others under a name; it is made once."""
        with self._lock:
            if name not in self._made:
                made = f"t{len(self._made)}"
                self._db.register("frame", table)
                self._db.execute(f"CREATE TABLE {made} AS SELECT * FROM frame")
                self._db.unregister("frame")
                self._made[name] = made
            return self._made[name]

    def kept(self, name: str) -> str | None:
        """A kept table by its name."""
        return self._made.get(name)

    # --- what was said of it ---

    @cached_property
    def spec(self) -> Spec | None:
        """The run's spec, or None where this version cannot read it (see `spec_problem`)."""
        return self._spec[0]

    @property
    def spec_problem(self) -> str:
        """Why there is no spec."""
        return self._spec[1]

    @cached_property
    def _spec(self) -> tuple[Spec | None, str]:
        path = self.files.top.get("spec.yaml")
        if path is None:
            return None, "spec.yaml is missing or damaged"
        try:
            return parse_spec(read_own_spec(path), path), ""
        except (OSError, AuditError) as error:
            return None, _first(error)

    def json(self, name: str) -> Any:
        """A JSON file of the run, or None where there is none or half of one."""
        path = self.files.top.get(name)
        if path is None:
            return None
        try:
            return read_json(path.read_bytes(), path)
        except (OSError, ValueError):
            return None

    @cached_property
    def report(self) -> JsonObject:
        """report.json, or nothing where there is none that this version reads."""
        value = self.json(REPORT)
        return value if isinstance(value, dict) and value.get("report") in (1, FORMAT) else {}

    @cached_property
    def findings(self) -> list[Finding]:
        """All findings, in the report's order."""
        return [from_row(row) for row in self.report.pop("findings", [])]

    @cached_property
    def figures(self) -> list[Figure]:
        """All figures, in the report's order."""
        # 0.1.0 called them exhibits.
        rows: list[JsonObject] = self.report.get("figures") or self.report.get("exhibits") or []
        return [figure_from_row(row) for row in rows]

    def close(self) -> None:
        """Let go of the tables."""
        self._db.close()


def _connect(folder: Path) -> duckdb.DuckDBPyConnection:
    db = duckdb.connect(":memory:")
    db.execute("SET threads = 2")
    db.execute("SET memory_limit = '400MB'")
    # The whole list first: once external access is off, nothing can be added to it.
    db.execute("SET allowed_directories = [$folder]".replace("$folder", _literal(folder)))
    db.execute("SET enable_external_access = false")
    db.execute("SET lock_configuration = true")
    return db


def _literal(folder: Path) -> str:
    return "'" + str(folder).replace("'", "''") + "/'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _first(error: Exception) -> str:
    return reason(error)


__all__ = ["FILTERS", "Filters", "RunError", "RunView"]
