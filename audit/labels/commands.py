"""`audit labels`: people's labels without a dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from audit.errors import reading
from audit.one_line import one_line_errors
from audit.terminal import out

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group("labels")
def labels_group() -> None:
    """Label a random part of a run's pictures, from which its shares are then powered."""


@labels_group.command("sample")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--attribute", required=True, help="One of RUN's attributes.")
@click.option("--n", default=200, show_default=True, help="Pictures to label, on average.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write them here, to fill in the column `class`.",
)
@one_line_errors
def sample_command(run_folder: Path, attribute: str, n: int, seed: int, table: Path | None) -> None:
    """Draw pictures of RUN to be labelled; the unsure ones are likelier. Kept: drawn once only."""
    from audit.labels import labelling

    drawn = labelling.sample(run_folder, attribute, n, seed)
    out(
        f"{len(drawn)} pictures are kept to be labelled; probabilities "
        f"{drawn['pi'].min():.3g} to {drawn['pi'].max():.3g}"
    )
    if table is not None:
        rows = drawn[["cell"]].assign(attribute=attribute, rater="")
        rows.insert(2, "class", "")
        rows.sample(frac=1, random_state=seed).to_csv(table, index=False)
        out(f"{table}: fill in `class` and `rater`, then `audit labels add`")


@labels_group.command("add")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@one_line_errors
def add_command(run_folder: Path, file: Path) -> None:
    """Add the labels of FILE, a CSV of cell, attribute, class and rater; all or none."""
    import pandas as pd

    from audit.labels import labelling
    from audit.spec import SpecError

    with reading(f"{file}: cannot be read", SpecError):
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if "class" in table:
        table = table[table["class"].str.strip() != ""]  # not filled in yet
    try:
        kept, outside = labelling.add_table(run_folder, table)
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None
    out(f"{kept} labels added; `audit report {run_folder}` takes them in")
    if outside:
        out(
            f"{outside} of them are of pictures that were not drawn by `audit labels "
            "sample`: no share leans on them"
        )


@labels_group.command("agreement")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@one_line_errors
def agreement_command(run_folder: Path) -> None:
    """Say how far the labellers of RUN agree: Fleiss' kappa, with n, for every attribute."""
    from audit.labels import labelling

    for line in labelling.agreement_lines(run_folder):
        out(line)
