"""`audit vae`: images through VAEs and back."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FILE, FOLDER, end
from audit.commands.errors import old_spellings, one_line_errors
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say


@click.command("vae", cls=old_spellings({"--longest": "--max-side", "--batch": "--batch-size"}))
@click.argument("images", type=FOLDER)
@click.option(
    "--vae",
    "vaes",
    multiple=True,
    required=True,
    help="Folder, .safetensors file or reference:NAME; NAME=SOURCE names it. Repeat for more.",
)
@click.option("--csv", type=FILE, help="Columns file, label …; `mask` names an image of skin.")
@click.option("--out", type=FOLDER, default=Path("vae-run"), show_default=True)
@click.option(
    "--max-side",
    type=click.IntRange(min=8),
    default=1024,
    show_default=True,
    help="Longest side in pixels; larger images are scaled down.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Images per forward pass.",
)
@click.option("--attribute", "attributes", multiple=True, help="Also measure it before and after.")
@click.option("--classifier", "classifiers", multiple=True, help="As in `audit score`.")
@stoppable
@one_line_errors
def vae_command(
    images: Path,
    vaes: tuple[str, ...],
    csv: Path | None,
    out: Path,
    max_side: int,
    batch_size: int,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
) -> None:
    """Measure VAE reconstruction error on IMAGES.

    IMAGES is a folder or a run; the error is reported overall and by group.
    """
    from audit.pipeline import analyse, vae_audit

    audit = vae_audit.run(
        images, csv, vaes, out, max_side, batch_size, attributes, classifiers, say
    )
    findings, figures = analyse.analyse(audit, say=say)
    for line in vae_audit.table(findings):
        put(line)
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    put(page)
