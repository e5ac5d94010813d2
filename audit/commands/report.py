"""`audit report`: what a run says, for readers, publishers and programs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from audit.commands.errors import one_line_errors
from harness.terminal import out, say
from reports.writers import names


def chosen(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    """The formats of a list with commas.

    Raises:
        click.BadParameter: One is unknown.
    """
    formats = tuple(dict.fromkeys(f.strip() for f in value.split(",") if f.strip()))
    for name in formats or ("",):
        if name not in names():
            raise click.BadParameter(f"{name!r} is no format; any of {','.join(names())}")
    return formats


@click.command("report")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--grid", "grids", multiple=True, help="ROW,COLUMN: any two factors; repeat for more."
)
@click.option(
    "--format",
    "formats",
    default="html,json",
    show_default=True,
    callback=chosen,
    help=f"Any of {', '.join(names())}, with commas.",
)
@click.option(
    "--checkpoint",
    help="Tell only of this one, as its own card should, where RUN compares several.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A README.md to put the card's results and prose into, between markers.",
)
@one_line_errors
def report_command(
    run_folder: Path,
    grids: tuple[str, ...],
    formats: tuple[str, ...],
    checkpoint: str | None,
    into: Path | None,
) -> None:
    """Write RUN's report again, with today's labels."""
    from audit.pipeline.session import reopen

    audit = reopen(run_folder)
    # Heavy imports wait until there is a run.
    from audit.pipeline import analyse
    from reports import card
    from reports.readme_block import splice_file
    from reports.writers import write_report

    findings, figures = analyse.analyse(audit)
    data = analyse.report_data(audit, findings, figures, grids)
    data = card.only(data, checkpoint) if checkpoint is not None else data
    for path in write_report(data, audit.run.folder / "report", formats):
        out(path)
    if into is not None:
        warning = splice_file(into, card.metadata(data), card.prose(data))
        out(into)
        if warning:
            say(f"warning: {warning}")
    failed = [f for f in findings if f.status == "failed"]
    for finding in failed:
        say(f"{finding.probe}: failed: {finding.note}")
    if failed:
        sys.exit(1)
