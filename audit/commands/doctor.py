"""What this machine has: one line a check."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from audit.commands.errors import one_line_errors
from harness.terminal import out as put

NEEDED = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "pandas",
    "pyarrow",
    "scipy",
    "statsmodels",
    "scikit-image",
    "altair",
    "vl-convert-python",
    "safetensors",
    "peft",
)


def checks() -> Iterator[tuple[bool, str]]:
    """(healthy, sentence) for each check."""
    yield True, f"python {platform.python_version()} on {platform.platform()}"
    for name in NEEDED:
        try:
            yield True, f"{name} {version(name)}"
        except PackageNotFoundError:
            yield False, f"{name} is missing: install diffusion-audit again"
    import torch

    try:
        import torchvision  # noqa: F401

        yield True, "torch and torchvision match"
    except Exception as error:
        yield False, f"torchvision does not fit torch: {str(error).splitlines()[0]}"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield True, f"cuda: {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    elif torch.backends.mps.is_available():
        yield True, "mps: Apple GPU"
    else:
        yield (
            True,
            f"no GPU: the CPU is used, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        )
    yield True, f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB free on this disk"
    import reference
    from probes.instruments.kinds.python import installed

    yield True, f"instruments: {', '.join(sorted(installed())) or 'none installed'}"
    missing = [
        f"{name}: {kind}"
        for name in reference.names()
        for kind, folder in reference.components(name).items()
        if not any(folder.iterdir())
    ]
    yield not missing, f"reference models: {', '.join(missing) or ', '.join(reference.names())}"


@click.command("doctor")
@one_line_errors
def doctor_command() -> None:
    """Check libraries, device, memory, disk, reference models."""
    healthy = True
    for ok, text in checks():
        healthy &= ok
        put(f"{'ok ' if ok else 'BAD'} {text}")
    sys.exit(0 if healthy else 1)
