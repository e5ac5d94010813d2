"""`audit init`: a first spec, from weights or from an A1111 text."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from audit.commands.endings import FILE
from audit.commands.errors import one_line_errors
from harness.errors import SpecError, reading
from harness.terminal import out as put
from harness.terminal import say


@click.command("init")
@click.argument("weights", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=FILE, default="audit.yaml", show_default=True, help="Spec to write.")
@click.option(
    "--parameters",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File with an A1111 'parameters' text; - for standard input.",
)
@click.option("--force", is_flag=True, help="Overwrite a spec that is there.")
@one_line_errors
def init_command(
    weights: tuple[Path, ...], out: Path, parameters: Path | None, force: bool
) -> None:
    """Write a first spec for WEIGHTS.

    Checkpoints, VAEs, LoRAs and embeddings, in files and folders, are recognised by their tensors.
    Without any, the working directory is looked through. Of several families, one spec each.
    """
    from audit.pipeline.new_spec import Settings, settings_of, specs
    from harness.files.atomic import write_atomic

    settings = settings_of(_text_of(parameters)) if parameters else Settings()
    paths = list(weights) or ([] if parameters else [Path()])
    made = specs(paths, settings, out)
    there = [path for path in made if path.exists()]
    if there and not force:
        raise SpecError(f"{there[0]}: is there already; name another with --out, or add --force")
    for path, text in made.items():
        write_atomic(path, text.encode())
        put(path)
    say(f"next: audit plan {next(iter(made))}")


def _text_of(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    with reading(f"--parameters {str(path)!r}", SpecError, "name a text file, or - to paste it"):
        return path.read_text(encoding="utf-8")
