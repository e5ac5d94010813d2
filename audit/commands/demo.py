"""`audit demo`: two reference models, one with a planted bias."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FOLDER, work
from audit.commands.errors import one_line_errors
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say


@click.command("demo")
@click.option("--out", type=FOLDER, default=Path("demo-run"), show_default=True)
@stoppable
@one_line_errors
def demo_command(out: Path) -> None:
    """Audit two reference models, one with a planted bias."""
    import reference
    from audit.pipeline.session import open_audit

    if not out.exists():
        say("the demo takes 2 to 8 minutes on two cores")
    put(work(open_audit(reference.MODELS.parent / "demo.yaml", out)))
