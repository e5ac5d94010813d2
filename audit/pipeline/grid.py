"""Write grids of a run at native size, and its images as files by factor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from harness.errors import AuditError, SpecError
from harness.files.atomic import write_atomic
from harness.files.names import file_name
from harness.store.damage import refuse
from harness.store.run import Run
from reports.answer import answer
from reports.formats import json
from reports.image_grids import Pictures
from reports.native_grids import Axes, choose, drawn, pages_of
from reports.verdicts import headlines


def write(
    folder: Path,
    out: Path | None,
    axes: tuple[str | None, str | None, str | None],
    only: Sequence[str] = (),
    *,
    worst: bool = False,
    webp: bool = False,
    export: bool = False,
) -> Iterator[Path | str]:
    """Write the pages, and say what each shows.

    Args:
        folder: The run's folder.
        out: Folder to write to; None: `grids` in the run.
        axes: Factors of rows, columns and pages; None: by what varies.
        only: 'FACTOR=LEVEL' each: the levels that are shown.
        worst: Whether prompts come in the order of the report's answer.
        webp: Whether pages are WebP.
        export: Whether images are also written as files.

    Returns:
        Paths of the files as they are written, and remarks.

    Raises:
        SpecError: No run, no such factor or level, or no report to order by.
    """
    run = Run(folder)
    refuse(run)
    plan = run.read_plan()
    if plan is None:
        raise SpecError(f"{folder}: no plan here; name the folder of a run")
    order = worst_prompts(run) if worst else []
    laid, shown = choose(plan, *axes, only)
    for factor, levels in laid.hidden.items():
        more = f" and {len(levels) - 3} more" if len(levels) > 3 else ""
        yield (
            f"{factor}: {laid.fixed[factor]} is shown, not {', '.join(levels[:3])}{more}; "
            f"to choose: --only '{factor}=LEVEL'"
        )
    images = Pictures(run, plan)
    target = out or folder / "grids"
    ending = "webp" if webp else "png"
    for page in pages_of(laid, shown, order):
        name = file_name("-".join(filter(None, [laid.rows, laid.columns, laid.pages, page.name])))
        for number, data in enumerate(drawn(page, laid, folder.name, images, webp), 1):
            path = target / f"{name}{f'-{number}' if number > 1 else ''}.{ending}"
            write_atomic(path, data)
            yield path
    if export:
        yield f"{_export(laid, shown, images, target):,} images as files"
        yield target


def worst_prompts(run: Run) -> list[str]:
    """Prompts in the order in which the answer, then the headlines, name them.

    Raises:
        SpecError: The run has no report.
    """
    report = run.folder / "report" / json.FILE
    try:
        findings = json.read_findings(report)
    except AuditError:
        raise SpecError(f"{report}: no report to order by; run `audit report` first") from None
    by_id = {f.id: f for f in findings}
    named = [by_id[name] for statement in answer(findings) for name in statement.findings]
    named += headlines(findings)
    return list(dict.fromkeys(f.subject["prompt"] for f in named if "prompt" in f.subject))


def _export(laid: Axes, shown: pd.DataFrame, images: Pictures, target: Path) -> int:
    """Write ROW/COLUMN/PAGE.png, or ROW/COLUMN.png; returns how many."""
    written = 0
    for row in shown.itertuples():
        data = images(str(row.cell))
        if data is None:
            continue
        levels = [str(getattr(row, f)) for f in (laid.rows, laid.columns, laid.pages) if f]
        *folders, last = (file_name(level) for level in levels)
        write_atomic(target.joinpath(*folders) / f"{last}.png", data)
        written += 1
    return written
