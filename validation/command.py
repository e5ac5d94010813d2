"""`audit validate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from audit.commands.errors import one_line_errors
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say


@click.command("validate")
@click.option("--quick", is_flag=True, help="Fewer seeds; no components, gate and internals.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("validate-run"),
    show_default=True,
)
@stoppable
@one_line_errors
def validate_command(quick: bool, out: Path) -> None:
    """Check all instruments on models whose bias is known.

    Exit code 1 where one misses its bar.
    """
    from itertools import chain

    from validation import attribution, gate, internals, shares, vae

    # Specs in the folder name other folders in it, and take relative paths from their own place.
    out, passed = out.resolve(), True
    parts = [shares.run(out, quick, say), vae.run(out / "vae", quick, say)]
    if not quick:
        parts.append(attribution.run(out / "attribution", say))
        parts.append(gate.run(out / "gate", say))
        parts.append(internals.run(out / "inside", say))
    for check in chain(*parts):
        passed &= check.passed
        put(check.line())
    sys.exit(0 if passed else 1)
