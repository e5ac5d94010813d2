"""What a folder's configuration describes, against the weights that it holds.

A configuration of a few bytes can describe a model of any size, and the libraries fill tensors
that the weights lack with random numbers. So a component is built once without memory and
counted before it is loaded, and again after.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from audit.checkpoints.folders import check_folder, read_config
from audit.checkpoints.weights import WeightsError, read_header, some
from audit.errors import reading

PACKED = 4
"""Numbers that a quantized weight may hold in one."""
SLACK = 1_000_000
"""Numbers that a model may have beyond its file: buffers that are not saved."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' reports, which quote names of tensors as they are, off the terminal."""
    loggers = [diffusers.utils.logging, transformers.utils.logging]
    levels = [one.get_verbosity() for one in loggers]
    try:
        for one in loggers:
            one.set_verbosity(logging.CRITICAL)
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.set_verbosity(level)


def rehearse_pipeline(folder: Path) -> None:
    """Build every component of a diffusers folder without memory.

    Raises:
        WeightsError: One cannot be built, or is far larger than its weights.
    """
    for name, pair in read_config(folder / "model_index.json").items():
        if isinstance(pair, list) and len(pair) == 2 and pair[0] in ("diffusers", "transformers"):
            kind = getattr(diffusers if pair[0] == "diffusers" else transformers, pair[1], None)
            if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
                rehearse(folder / name, kind)


def rehearse(folder: Path, kind: Any) -> None:
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


def refuse_missing(folder: Path, model: torch.nn.Module) -> None:
    """Refuse a loaded component some of whose weights its files did not hold.

    Raises:
        WeightsError: How many it has and how many there were.
    """
    empty = [n for n, p in model.named_parameters() if p.is_meta]
    if empty:
        raise WeightsError(f"{str(folder)!r} lacks {len(empty)} tensors ({some(empty)})")
    held, has = _held(folder), sum(p.numel() for p in model.parameters())
    if held and has > held:
        raise WeightsError(
            f"{str(folder)!r} holds {held:,} weights; its {type(model).__name__} has {has:,}: some "
            "are missing, and would be random numbers; get it again"
        )


def load_component(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    """One model of diffusers or transformers from a folder of its own, checked before and after.

    Args:
        folder: With config.json and .safetensors.
        kind: Its class.
        dtype: Of all weights.

    Raises:
        WeightsError: It asks for more than data, cannot be loaded, or lacks weights.
    """
    check_folder(folder)
    rehearse(folder, kind)
    with reading(f"{str(folder)!r} cannot be loaded", WeightsError), quiet_libraries():
        model = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    refuse_missing(folder, model)
    return model


def _held(folder: Path) -> int:
    """Numbers in a folder's safetensors files."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        for shape in read_header(path).shapes.values():
            count = 1
            for length in shape:
                count *= length
            total += count
    return total
