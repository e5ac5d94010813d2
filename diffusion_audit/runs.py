"""A run directory as tables, images and figures. Nothing is generated or scored here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import pandas as pd
from PIL import Image

from harness.errors import AuditError, reading
from harness.images.stored import opened
from harness.json_types import JsonObject
from harness.store import run as store
from harness.store.damage import refuse
from probes.contracts import Figure, Finding
from probes.finding_rows import figure_from_row, findings_frame, from_row
from reports.answer import answer
from reports.charts import draw
from reports.statement import Statement

REPORT = "report/report.json"


class RunFigure(Figure):
    """One figure of a run's report, as `probes.contracts.Figure`, that can be drawn."""

    def to_svg(self, dark: bool = False) -> str:
        """The figure as SVG, as in the report; of several facets the first.

        Args:
            dark: Whether it is for a dark ground.

        Raises:
            AuditError: A figure of this kind, or without rows, is not drawn as a chart.
        """
        return self.facets(dark)[0]

    def facets(self, dark: bool = False) -> list[str]:
        """The figure as SVGs, one a facet; arguments and errors as `to_svg`."""
        drawing = draw(self)
        if drawing is None:
            raise AuditError(f"figure {self.id!r} is a {self.kind}: see its table")
        return [p.dark if dark else p.light for p in drawing.pictures]

    def _repr_svg_(self) -> str | None:
        """What a notebook shows."""
        try:
            return self.to_svg()
        except AuditError:
            return None


class Run:
    """A run directory, read only.

    Args:
        folder: Run directory that `audit run`, `score`, `vae` or `components` wrote.

    Raises:
        AuditError: The folder holds no run, a later version's, or a damaged one.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        self._store = store.Run(self.folder)
        if not (self.folder / "plan.parquet").exists():
            raise AuditError(f"{self.folder}: no run here (plan.parquet is missing)")
        refuse(self._store)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def plan(self) -> pd.DataFrame:
        """All planned images, one row a cell, with checkpoint, vae, prompt, seed and settings."""
        plan = self._store.read_plan()
        assert plan is not None
        return plan.drop_duplicates("cell", ignore_index=True)

    def findings(self) -> pd.DataFrame:
        """All findings of the report, in its order.

        Returns:
            One row a finding: its fields as columns, numbers as float (NaN where not measured),
            and one column a key of its subject, such as 'subject.checkpoint' ('' where it has
            none).

        Raises:
            AuditError: The run has no report yet.
        """
        return findings_frame(self._findings())

    def answer(self) -> list[Statement]:
        """The answer of the report: its sentences, the largest effects first."""
        return answer(self._findings())

    def figures(self) -> dict[str, RunFigure]:
        """All figures of the report by id, in its order."""
        rows = self._report().get("figures", [])
        return {row["id"]: RunFigure(**vars(figure_from_row(row))) for row in rows}

    def figure(self, name: str) -> RunFigure:
        """One figure by its id.

        Raises:
            AuditError: There is none of this id; lists those there are.
        """
        known = self.figures()
        if name not in known:
            raise AuditError(f"no figure {name!r}; there are {', '.join(known)}")
        return known[name]

    def scores(self, instrument: str) -> pd.DataFrame:
        """Rows of one instrument, beside the facts of each cell.

        Args:
            instrument: Name of an instrument, as `instruments()` lists them.

        Returns:
            The plan's columns and the instrument's, one row a scored cell.

        Raises:
            AuditError: It has scored nothing; lists those that have.
        """
        folders = self._store.instruments()
        if instrument not in folders:
            raise AuditError(f"no scores by {instrument!r}; there are {', '.join(folders)}")
        plan = self.plan()
        rows = self._store.read_scores(folders[instrument], set(plan["unit"]))
        return plan.merge(rows, on="cell", suffixes=("", "_scored"))

    def instruments(self) -> list[str]:
        """Names of the instruments that scored this run."""
        return list(self._store.instruments())

    def images(self, **facts: object) -> Iterator[tuple[pd.Series, Image.Image]]:
        """Images with the facts of their cells.

        Args:
            facts: Columns of the plan and the values wanted, such as checkpoint='mine', seed=3.

        Yields:
            The plan's row of a cell and its image (RGB); cells without an image are left out.

        Raises:
            AuditError: The plan has no such column; lists those there are.
        """
        plan = self.plan()
        for key, value in facts.items():
            if key not in plan:
                raise AuditError(f"no column {key!r} in the plan; there are {', '.join(plan)}")
            plan = plan[plan[key] == value]
        for (unit, file), rows in plan.groupby(["unit", "vae_file"], sort=False):
            if not self._store.images_path(str(unit), str(file)).exists():
                continue
            held = self._store.images_of(str(unit), str(file), list(rows["cell"]))
            for _, row in rows.iterrows():
                if row["cell"] in held:
                    yield row, opened(held[row["cell"]])

    def _findings(self) -> list[Finding]:
        return [from_row(row) for row in self._report()["findings"]]

    def _report(self) -> JsonObject:
        path = self.folder / REPORT
        if not path.exists():
            raise AuditError(f"{path}: no report yet; run `audit report {self.folder}`")
        with reading(path, hint=f"run `audit report {self.folder}` to write it again"):
            read: JsonObject = json.loads(path.read_text(encoding="utf-8"))
        return read


def open_run(folder: str | PathLike[str]) -> Run:
    """Open a run directory; errors as `Run`.

    Args:
        folder: Run directory that `audit run`, `score`, `vae` or `components` wrote.
    """
    return Run(folder)
