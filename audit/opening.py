"""Open an audit: a spec, its run directory, and the device it works on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import yaml

import reference
from audit.checkpoints import models
from audit.damage import refuse
from audit.prompts import Prompt, resolve_prompts
from audit.spec import Spec, SpecError, load_spec, parse_spec
from audit.store import Run

NEEDED = {
    "errors": ["attribute", "instrument", "true", "outcome", "count"],
    "labels": ["cell", "attribute", "class"],
}
"""Columns of the tables that a spec may name."""


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
    known, text, path = run.provenance(), run.read_text("spec.yaml"), folder / "spec.yaml"
    if known is None or text is None:
        raise SpecError(f"{folder}: no run here (spec.yaml and provenance.json are missing)")
    raw = yaml.safe_load(text)
    return _audit(parse_spec(raw, path), Path(known["base"]), run, path)


def _audit(spec: Spec, base: Path, run: Run, path: Path) -> Audit:
    device = models.pick_device(spec.device)
    try:
        prompts = resolve_prompts(spec.prompts, base)
    except ValueError as error:
        raise SpecError(f"{path}: prompts: {error}") from None
    return Audit(spec, base, run, device, models.pick_dtype(spec.dtype, device), prompts)


def read_table(audit: Audit, key: str, source: str) -> pd.DataFrame:
    """A CSV that the spec names under `key`.

    Raises:
        SpecError: It cannot be read, or lacks a column.
    """
    if source.startswith("reference:"):
        path = reference.MODELS.parent / source.removeprefix("reference:")
    else:
        path = audit.base / source
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"{key}: {source}: cannot be read ({error})") from None
    missing = [c for c in NEEDED[key] if c not in table]
    if missing:
        needed = ", ".join(NEEDED[key])
        raise SpecError(f"{key}: {source}: column {missing[0]!r} is missing; needed: {needed}")
    return table
