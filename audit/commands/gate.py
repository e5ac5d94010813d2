"""`audit gate`: may a candidate ship?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from audit.commands.endings import FOLDER
from audit.commands.errors import BUG, one_line_errors, say_bug
from harness.errors import AuditError, reason
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say


@click.command("gate")
@click.argument("baseline_path", metavar="BASELINE", type=click.Path(path_type=Path))
@click.argument("candidate_path", metavar="CANDIDATE", type=click.Path(path_type=Path))
@click.option("--baseline-arm", help="CHECKPOINT or CHECKPOINT,VAE, where there are several.")
@click.option("--candidate-arm", help="CHECKPOINT or CHECKPOINT,VAE, where there are several.")
@click.option("--run", "folder", type=FOLDER, help="Run folder of a CANDIDATE that is a spec.")
@click.option("--out", type=FOLDER, default=Path("gate"), show_default=True)
@click.option("--allow-inconclusive", is_flag=True, help="Exit 0, not 3, where undecided.")
@stoppable
@one_line_errors
def gate_command(
    baseline_path: Path,
    candidate_path: Path,
    baseline_arm: str | None,
    candidate_arm: str | None,
    folder: Path | None,
    out: Path,
    allow_inconclusive: bool,
) -> None:
    """Compare CANDIDATE with BASELINE and decide.

    Exit code 0 is pass, 1 regression, 2 error, 3 inconclusive.

    BASELINE is a run or a file of `audit baseline save`; CANDIDATE is a run, such a file, or a
    spec (.yaml), which is then made and measured first.
    """
    from audit.gate import baseline, outputs, verdict

    made = candidate_path
    try:
        before = baseline.read_side(baseline_path, baseline_arm)
        if candidate_path.suffix in (".yaml", ".yml"):
            made = folder or Path(f"{candidate_path.stem}-run")
            after = verdict.make_candidate(candidate_path, made, before, candidate_arm, say)
        else:
            rules = before.spec.gate
            after = baseline.read_side(candidate_path, candidate_arm, rules)
        record = verdict.decide(before, after)
        code = verdict.exit_code(record, allow_inconclusive)
    except (AuditError, OSError) as error:
        record = verdict.error(reason(error, 2000))
        code = verdict.exit_code(record)
    except Exception as error:  # Python's own exit code 1 would be read as a regression
        say_bug(error)
        record = verdict.error(f"a bug of diffusion-audit: {reason(error)}")
        code = BUG
    verdict.write(record, out, baseline_path, made)
    for line in outputs.lines(record):
        put(line)
    sys.exit(code)
