"""What a folder's configuration describes, against the weights that it holds.

A configuration of a few bytes can describe a model of any size. So a component is built once
without memory and counted before it is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.errors import reading
from harness.library_logs import quiet_libraries
from harness.models.folders import read_config
from harness.models.safetensors_header import WeightsError, read_header

if TYPE_CHECKING:
    from diffusers import ModelMixin

PACKED = 4
"""Numbers that a quantized weight may hold in one."""
SLACK = 1_000_000
"""Numbers that a model may have beyond its file: buffers that are not saved."""


def rehearse(folder: Path, kind: type[ModelMixin]) -> None:
    """Build a component's class without memory, as its folder's config.json describes it.

    Args:
        folder: Of the component, with config.json and .safetensors.
        kind: Class of diffusers or transformers.

    Raises:
        WeightsError: It cannot be built, or is far larger than its weights.
    """
    held = _held(folder)
    if not held or not (folder / "config.json").is_file():
        return
    with (
        reading(f"{str(folder / 'config.json')!r} describes no {kind.__name__}", WeightsError),
        quiet_libraries(),
        torch.device("meta"),
    ):
        if hasattr(kind, "config_class"):
            model = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
        else:
            model = kind.from_config(read_config(folder / "config.json"))
    wanted = sum(p.numel() for p in model.parameters())
    if wanted > PACKED * held + SLACK:
        raise WeightsError(
            f"{str(folder / 'config.json')!r} describes {wanted:,} weights; {held:,} are there"
        )


def _held(folder: Path) -> int:
    """Numbers in a folder's safetensors files."""
    return sum(read_header(path).numbers for path in sorted(folder.glob("*.safetensors")))
