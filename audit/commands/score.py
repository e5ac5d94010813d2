"""`audit score`: images made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from audit.commands.endings import FILE, FOLDER, end
from audit.commands.errors import one_line_errors
from audit.commands.labels import LABEL_MAP
from harness.progress import stoppable
from harness.terminal import out as put
from harness.terminal import say


@click.command("score")
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Run folder.")
@click.option("--csv", type=FILE, help="Columns file, prompt, model, pair, mask; others: labels.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    default=["gender-presentation"],
    show_default=True,
    help="Attribute set by name, or a YAML file; repeat for more.",
)
@click.option(
    "--classifier",
    "classifiers",
    multiple=True,
    default=["ViT-B-32:laion2b_s34b_b79k"],
    show_default=True,
    help="open_clip ARCHITECTURE:TAG, hf-hub:…, local-dir:…",
)
@click.option(
    "--instruments",
    type=FILE,
    help="A spec whose `instruments` the attributes may name; see docs/instruments.md.",
)
@click.option("--label-map", multiple=True, help=LABEL_MAP)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad", "resize", "crops"]),
    help="How images that are not square are fitted to the classifier; default: crops.",
)
@stoppable
@one_line_errors
def score_command(
    folder: Path,
    out: Path,
    csv: Path | None,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
    instruments: Path | None,
    label_map: tuple[str, ...],
    fit: Any,
) -> None:
    """Score imported images; prompts from a CSV or the files."""
    from audit.pipeline import analyse
    from audit.pipeline import imported_images as folders
    from audit.pipeline.plan import begin
    from audit.pipeline.run import score, working
    from audit.pipeline.session import read_instruments
    from harness.spec.label_classes import parse_label_map

    mapping = parse_label_map(label_map)
    brought = read_instruments(instruments) if instruments else {}
    imported = folders.given_audit(
        folder, csv, out, attributes, classifiers, say, mapping, fit, brought
    )
    audit = imported.audit
    with working(audit, say):
        begin(audit, imported.plan, imported.provenance)
        score(audit, folders.store_images(imported, say), say)
    findings, figures = analyse.analyse(audit, say=say)
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    put(page)
