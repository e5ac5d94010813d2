"""`audit plan`: what an audit will cost and what it can show."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER
from audit.commands.errors import one_line_errors
from harness.terminal import out as put
from harness.terminal import say


@click.command("plan")
@click.argument("spec", type=FILE)
@click.option("--out", type=FOLDER, help="Run folder, to count what is there already.")
@click.option(
    "--detect",
    type=click.FloatRange(0, min_open=True),
    help="Power analysis: prompts and seeds the gate needs to detect this change of a share, such "
    "as 0.1, from what the run folder holds as a pilot.",
)
@click.option(
    "--metric",
    default="",
    help="With --detect: the gated metric that changes, such as delta_e/fidelity, in its own unit; "
    "default: every share.",
)
@one_line_errors
def plan_command(spec: Path, out: Path | None, detect: float | None, metric: str) -> None:
    """Estimate time, disk and power of SPEC from one timed batch.

    Writes nothing.
    """
    if detect is not None:
        from audit.gate import sample_size as detection

        for line in detection.lines(spec, out or Path(f"{spec.stem}-run"), detect, metric):
            put(line)
        return
    from audit.pipeline.session import open_audit

    audit = open_audit(spec, out or Path(f"{spec.stem}-run"))
    # Heavy imports wait until the spec is known to be sound.
    from audit.pipeline import estimate
    from audit.pipeline.plan import plan_audit

    plan, _ = plan_audit(audit, say)
    for line in estimate.lines(audit, plan):
        put(line)
