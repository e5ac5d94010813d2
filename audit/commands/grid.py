"""`audit grid`: a run's images side by side at native size."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FOLDER
from audit.commands.errors import one_line_errors
from harness.terminal import out as put
from harness.terminal import say


@click.command("grid")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--rows", help="Factor of the rows; by default the prompt.")
@click.option("--columns", help="Factor of the columns; by default the first that varies.")
@click.option("--pages", help="Factor of the pages, a file a level; by default one page.")
@click.option(
    "--only", multiple=True, metavar="FACTOR=LEVEL", help="Show this level only; repeat for more."
)
@click.option("--worst", is_flag=True, help="The prompts that the report finds most off first.")
@click.option("--webp", is_flag=True, help="Write WebP (lossless) instead of PNG.")
@click.option(
    "--export", is_flag=True, help="Also write every image as a file: ROW/COLUMN/PAGE.png."
)
@click.option("--out", type=FOLDER, help="Folder to write to; by default RUN/grids.")
@one_line_errors
def grid_command(
    run_folder: Path,
    rows: str | None,
    columns: str | None,
    pages: str | None,
    only: tuple[str, ...],
    worst: bool,
    webp: bool,
    export: bool,
    out: Path | None,
) -> None:
    """Lay RUN's images side by side at native size.

    Factors: prompt, seed, checkpoint, vae, adapters, negative, sampler, steps, guidance, width,
    height. Those that are no axis stay at their first level, or at that of --only.
    """
    from audit.pipeline import grid

    for line in grid.write(
        run_folder, out, (rows, columns, pages), only, worst=worst, webp=webp, export=export
    ):
        (put if isinstance(line, Path) else say)(line)
