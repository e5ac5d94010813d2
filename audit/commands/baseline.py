"""`audit baseline`: what a gate needs of a run, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER
from audit.commands.errors import one_line_errors
from harness.terminal import out as put


@click.group("baseline")
def baseline_group() -> None:
    """Keep what a gate needs of a run in one small file."""


@baseline_group.command("save")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("file", type=FILE)
@click.option("--arm", help="CHECKPOINT or CHECKPOINT,VAE, where RUN holds several.")
@one_line_errors
def baseline_save_command(run_folder: Path, file: Path, arm: str | None) -> None:
    """Write scores and digests of RUN to FILE.

    No images; FILE is small enough to commit beside a model.
    """
    from audit.gate import baseline

    side = baseline.side_of_run(run_folder, arm)
    baseline.save(side, file)
    put(f"{file}: {side.arm}, {len(side.cells)} cells, {file.stat().st_size / 1e3:,.0f} kB")
