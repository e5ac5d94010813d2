"""Open an audit: a spec, its run directory, and the device it works on."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

import reference
from audit.checkpoints import models
from audit.damage import refuse
from audit.errors import AuditError, reading
from audit.prompts import Prompt, resolve_prompts
from audit.spec import Spec, SpecError, load_spec, parse_spec, read_own_spec
from audit.store import Run

NEEDED = {
    "errors": ["attribute", "instrument", "true", "outcome", "count"],
    "labels": ["cell", "attribute", "class"],
}
"""Columns of the tables that a spec may name."""


MOST_IMAGES = 2_000_000
"""Images of one plan: at ten a second, more than two days."""
MOST_KEY = "AUDIT_MOST_IMAGES"


class Audit(NamedTuple):
    """A spec with all that is needed to work on it."""

    spec: Spec
    base: Path
    run: Run
    device: str
    dtype: torch.dtype
    prompts: list[Prompt]


def open_audit(spec_path: Path, folder: Path) -> Audit:
    """Read a spec for a run directory that may or may not exist."""
    run = Run(folder)
    _ = run.format  # a later version's is refused before anything is read or written
    return _audit(load_spec(spec_path), spec_path.parent.resolve(), run, spec_path)


def reopen(folder: Path) -> Audit:
    """Open an existing run by its own copy of the spec.

    Raises:
        SpecError: The folder holds no run.
        DamagedError: One of the run's files is not what was written.
    """
    run = Run(folder)
    refuse(run)
    path = folder / "spec.yaml"
    with reading(folder / "provenance.json", SpecError, "run the same command again to write it"):
        known = run.provenance()
    if known is None or not path.exists():
        raise SpecError(f"{folder}: no run here (spec.yaml and provenance.json are missing)")
    base = known.get("base") if isinstance(known, dict) else None
    if not isinstance(base, str) or not isinstance(known.get("made with"), dict):
        raise SpecError(
            f"{folder / 'provenance.json'}: lacks 'base' or 'made with': was it edited?"
        )
    return _audit(parse_spec(read_own_spec(path), path), Path(base), run, path)


def _audit(spec: Spec, base: Path, run: Run, path: Path) -> Audit:
    device = models.pick_device(spec.device)
    try:
        prompts = resolve_prompts(spec.prompts, base)
    except AuditError as error:
        raise SpecError(f"{path}: prompts: {error}") from None
    refuse_too_many(spec, len(prompts), path)
    spec = beside(spec, base)
    return Audit(spec, base, run, device, models.pick_dtype(spec.dtype, device), prompts)


def refuse_too_many(spec: Spec, prompts: int, path: Path) -> None:
    """Refuse a grid that nobody meant, before anything is built or loaded for it.

    Args:
        spec: The spec.
        prompts: Number of its prompts.
        path: The spec's file, for the message.

    Raises:
        SpecError: More images than `MOST_IMAGES` or the environment's AUDIT_MOST_IMAGES.
    """
    with reading(f"{MOST_KEY} {os.environ.get(MOST_KEY)!r}", SpecError, "give a whole number"):
        most = int(os.environ.get(MOST_KEY, MOST_IMAGES))
    crossed = prod(
        len(levels) or 1
        for levels in (
            *(spec.checkpoints, spec.vaes, spec.negatives, spec.adapters),
            *(spec.samplers, spec.steps, spec.guidance, spec.sizes),
        )
    )
    count = crossed * prompts * spec.seeds.count
    if count > most:
        raise SpecError(
            f"{path}: {count:,} images ({prompts:,} prompts x {spec.seeds.count:,} seeds x "
            f"{crossed:,} settings); at most {most:,} are planned: name fewer, or set "
            f"{MOST_KEY} to a larger number"
        )


def beside(spec: Spec, base: Path) -> Spec:
    """The spec with its classifiers' 'local-dir:' paths whole: they are relative to its folder.

    open_clip would take them from the working directory, which is another at the next command.
    """
    prefix = "local-dir:"
    classifiers = {
        name: one.model_copy(
            update={
                "model": prefix
                + str((base / Path(one.model.removeprefix(prefix)).expanduser()).resolve())
            }
        )
        if one.model.startswith(prefix)
        else one
        for name, one in spec.classifiers.items()
    }
    return spec.model_copy(update={"classifiers": classifiers})


def read_table(audit: Audit, key: str, source: str) -> pd.DataFrame:
    """A CSV that the spec names under `key`.

    Raises:
        SpecError: It cannot be read, or lacks a column.
    """
    if source.startswith("reference:"):
        path = reference.MODELS.parent / source.removeprefix("reference:")
    else:
        path = audit.base / source
    with reading(f"{key}: {source}: cannot be read", SpecError):
        table = pd.read_csv(path)
    missing = [c for c in NEEDED[key] if c not in table]
    if missing:
        needed = ", ".join(NEEDED[key])
        raise SpecError(f"{key}: {source}: column {missing[0]!r} is missing; needed: {needed}")
    return table
