"""`audit validate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER
from audit.commands.errors import one_line_errors
from harness.errors import AuditError
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
@click.option("--classifier", help="Check this one on your own labelled images instead.")
@click.option("--labelled", type=FOLDER, help="Images in folders named as the classes.")
@click.option("--csv", type=FILE, help="Instead: columns file, the attribute's name, group.")
@click.option("--attribute", default="gender-presentation", show_default=True)
@click.option("--instruments", type=FILE, help="A spec whose `instruments` NAME may be one of.")
@stoppable
@one_line_errors
def validate_command(
    quick: bool,
    out: Path,
    classifier: str | None,
    labelled: Path | None,
    csv: Path | None,
    attribute: str,
    instruments: Path | None,
) -> None:
    """Check all instruments on models whose bias is known.

    Exit code 1 where one misses its bar. With --classifier and --labelled instead one of yours on
    your own labelled images: its confusion matrix by group, its calibration, and the difference of
    shares that its errors alone could fake. The matrix is written to OUT/errors.csv, as a spec's
    `confusion_matrix` takes it.
    """
    if classifier is not None or labelled is not None:
        if classifier is None or labelled is None:
            raise AuditError("--classifier NAME and --labelled FOLDER go together")
        _check(out, classifier, labelled, csv, attribute, instruments)
        return
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


def _check(
    out: Path,
    classifier: str,
    labelled: Path,
    csv: Path | None,
    attribute: str,
    instruments: Path | None,
) -> None:
    from audit.pipeline.session import read_instruments
    from harness.spec.attributes import load_attribute
    from validation.labelled import check, confusion, lines

    brought = read_instruments(instruments) if instruments else {}
    wanted = load_attribute(attribute, Path())
    checked = check(labelled, csv, wanted, classifier, brought, out / "labelled", say)
    confusion(checked).to_csv(out / "errors.csv", index=False)
    for line in lines(checked):
        put(line)
    put(out / "errors.csv")
