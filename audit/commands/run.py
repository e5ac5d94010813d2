"""`audit run`: from a spec to the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER, work
from audit.commands.errors import old_spellings, one_line_errors
from harness.progress import stoppable
from harness.terminal import out as put


@click.command("run", cls=old_spellings({"--low-memory": "--cpu-offload"}))
@click.argument("spec", type=FILE)
@click.option("--out", type=FOLDER, help="Run folder; default: SPEC's file name with -run.")
@click.option("--cpu-offload", is_flag=True, help="For GPUs of 8 GB: as runtime.cpu_offload.")
@stoppable
@one_line_errors
def run_command(spec: Path, out: Path | None, cpu_offload: bool) -> None:
    """Generate the images of SPEC, score them and write the report.

    Run it again to resume, or to add a VAE, a probe or an attribute.
    """
    from audit.pipeline.session import open_audit

    audit = open_audit(spec, out or Path(f"{spec.stem}-run"))
    if cpu_offload:
        runtime = audit.spec.runtime.model_copy(update={"cpu_offload": True})
        audit = replace(audit, spec=audit.spec.model_copy(update={"runtime": runtime}))
    put(work(audit))
