"""`audit show`: one image of a run."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER
from audit.commands.errors import one_line_errors
from harness.terminal import out as put


@click.command("show")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("cell")
@click.option("--save", type=FILE, help="Write the image to this PNG file.")
@click.option("--again", is_flag=True, help="Generate it again and compare its pixels.")
@one_line_errors
def show_command(run_folder: Path, cell: str, save: Path | None, again: bool) -> None:
    """Show how an image of RUN was generated.

    CELL is its id or the id's first letters.
    """
    from audit.pipeline import show

    for line in show.lines(run_folder, cell, save, again):
        put(line)
