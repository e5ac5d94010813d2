"""`audit convert`: pickled weights to safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from audit.commands.endings import FILE
from audit.commands.errors import one_line_errors
from harness.terminal import out as put


@click.command("convert")
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="Default: beside FILE, ending in .safetensors.")
@click.option("--key", help="Where a training checkpoint keeps the weights, such as `model`.")
@one_line_errors
def convert_command(file: Path, out: Path | None, key: str | None) -> None:
    """Convert FILE (.ckpt, .pt, .pth, .bin) to safetensors.

    Nothing in the file is run.
    """
    from harness.models import pickle_convert

    for line in pickle_convert.lines(pickle_convert.convert(file, out, key)):
        put(line)
