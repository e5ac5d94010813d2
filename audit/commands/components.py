"""`audit components`: which component carries a difference."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER, end
from audit.commands.errors import one_line_errors
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say


@click.command("components")
@click.argument("spec", type=FILE)
@click.argument("a")
@click.argument("b")
@click.option("--out", type=FOLDER, help="Run folder; default: SPEC's file name with -components.")
@stoppable
@one_line_errors
def components_command(spec: Path, a: str, b: str, out: Path | None) -> None:
    """Attribute the difference of B from A to components.

    A and B are checkpoints of SPEC. Text encoder, denoiser and VAE are exchanged in all eight
    combinations: 4 denoisings and 8 decodes for every image.
    """
    from audit.pipeline import analyse, component_swaps

    audit = component_swaps.run(spec, a, b, out or Path(f"{spec.stem}-components"), say)
    found = component_swaps.findings(audit)
    for line in component_swaps.table(found):
        put(line)
    every, figures = analyse.analyse(audit, found)
    page = analyse.report(audit, every, component_swaps.figures(found) + figures)
    end(audit, every, page)
    put(page)
