"""Open an audit: a spec, its run directory, and the device it works on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import yaml

import reference
from audit.checkpoints import models
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
    return _audit(load_spec(spec_path), spec_path.parent.resolve(), Run(folder), spec_path)


def reopen(folder: Path) -> Audit:
    """Open an existing run by its own copy of the spec.

    Raises:
        SpecError: The folder holds no run.
    """
    run = Run(folder)
    known = run.read_json("provenance.json")
    path = folder / "spec.yaml"
    if known is None or not path.exists():
        raise SpecError(f"{folder}: no run here (spec.yaml and provenance.json are missing)")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return _audit(parse_spec(raw, path), Path(known["base"]), run, path)


def _audit(spec: Spec, base: Path, run: Run, path: Path) -> Audit:
    device = models.pick_device(spec.device)
    try:
        prompts = resolve_prompts(spec.prompts, base)
    except ValueError as error:
        raise SpecError(f"{path}: prompts: {error}") from None
    spec = beside(spec, base)
    return Audit(spec, base, run, device, models.pick_dtype(spec.dtype, device), prompts)


def beside(spec: Spec, base: Path) -> Spec:
    """The spec with its classifiers' 'local-dir:' paths whole: they are relative to its folder.

    open_clip would take them from the working directory, which is another at the next command.
    """
    prefix = "local-dir:"
    classifiers = {
        name: one.model_copy(
            update={"model": f"{prefix}{(base / one.model.removeprefix(prefix)).resolve()}"}
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
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"{key}: {source}: cannot be read ({error})") from None
    missing = [c for c in NEEDED[key] if c not in table]
    if missing:
        needed = ", ".join(NEEDED[key])
        raise SpecError(f"{key}: {source}: column {missing[0]!r} is missing; needed: {needed}")
    return table
