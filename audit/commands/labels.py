"""`audit labels`: people's labels without a dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.errors import one_line_errors
from harness.terminal import out

FOLDER = click.Path(path_type=Path, file_okay=False)
LABEL_MAP = "VALUE=CLASS: what a value that is no class means, such as F=woman; repeat for more."


@click.group("labels")
def labels_group() -> None:
    """Label a random sample of a run's images.

    Shares are then prediction-powered: from the labels and all scores.
    """


@labels_group.command("sample")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@click.option("--attribute", required=True, help="One of RUN's attributes.")
@click.option("--n", default=200, show_default=True, help="Images to label, on average.")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write them here, to fill in the column `class`.",
)
@one_line_errors
def sample_command(run_folder: Path, attribute: str, n: int, seed: int, table: Path | None) -> None:
    """Draw images of RUN to be labelled; the unsure ones are likelier. Kept: drawn once only."""
    from probes.attributes import label_sampling

    drawn = label_sampling.sample(run_folder, attribute, n, seed)
    out(
        f"{len(drawn)} images are kept to be labelled; probabilities "
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
@click.option("--label-map", multiple=True, help=LABEL_MAP)
@one_line_errors
def add_command(run_folder: Path, file: Path, label_map: tuple[str, ...]) -> None:
    """Add the labels of FILE, a CSV of cell, attribute, class and rater; all or none."""
    import pandas as pd

    from harness.errors import SpecError
    from harness.files.csv_tables import read_table
    from harness.spec.label_classes import LabelError, parse_label_map
    from probes.attributes import label_sampling

    columns, rows = read_table(file)
    table = pd.DataFrame(rows, columns=columns)
    if "class" in table:
        table = table[table["class"] != ""]  # not filled in yet
    try:
        kept, outside = label_sampling.add_table(run_folder, table, parse_label_map(label_map))
    except (SpecError, LabelError) as error:
        raise SpecError(f"{file}: {error}") from None
    out(f"{kept} labels added; `audit report {run_folder}` takes them in")
    if outside:
        out(
            f"{outside} of them are of images that were not drawn by `audit labels "
            "sample`: no share leans on them"
        )


@labels_group.command("agreement")
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@one_line_errors
def agreement_command(run_folder: Path) -> None:
    """Say how far the labellers of RUN agree: Fleiss' kappa, with n, for every attribute."""
    from probes.attributes import label_sampling

    for line in label_sampling.agreement_lines(run_folder):
        out(line)
