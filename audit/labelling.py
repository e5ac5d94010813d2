"""People's labels on a run's own pictures: a sample with known probability, kept in the run."""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path

import numpy as np
import pandas as pd

from audit.spec import SpecError
from audit.store import Run, parquet_bytes, write_atomic


def sample(run_path: Path, attribute: str, n: int, seed: int) -> pd.DataFrame:
    """About n pictures to label, each drawn with the same probability; kept, so drawn once.

    Returns:
        cell, pi.

    Raises:
        SpecError: The run has no pictures.
    """
    path = _path(run_path, attribute)
    if not path.exists():
        run = Run(run_path)
        cells = sorted({c for unit, vae in run.image_files() for c in run.made_cells(unit, vae)})
        if not cells:
            raise SpecError(f"{run_path}: the run holds no pictures to label")
        pi = min(1.0, n / len(cells))
        drawn = np.random.default_rng(seed).random(len(cells)) < pi
        table = pd.DataFrame({"cell": cells, "pi": pi})[drawn]
        write_atomic(path, parquet_bytes(table.reset_index(drop=True)))
    return pd.read_parquet(path)


def queue(run_path: Path, attribute: str, labeller: str) -> list[str]:
    """Cells of the kept sample that a labeller has not labelled, in an order of their own."""
    labels = Run(run_path).labels()
    own = labels[(labels["attribute"] == attribute) & (labels["rater"] == labeller)]
    left = set(pd.read_parquet(_path(run_path, attribute))["cell"]) - set(own["cell"])
    return sorted(left, key=lambda c: hashlib.sha256(f"{labeller}/{c}".encode()).digest())


def add(run_path: Path, attribute: str, cell: str, labeller: str, outcome: str) -> None:
    """Keep one label in a file of its own; nothing is overwritten."""
    name = f"label-{time.time_ns():020d}-{secrets.token_hex(4)}"
    Run(run_path).write_labels(name, [(cell, attribute, outcome, labeller)])


def agreement(run_path: Path, attribute: str) -> pd.DataFrame:
    """Pictures that two people labelled, and the share that they label alike."""
    labels = Run(run_path).labels()
    own = labels[labels["attribute"] == attribute].drop_duplicates(["cell", "rater"], keep="last")
    told = own.groupby("cell")["class"].agg(["size", "nunique"])
    rows = [
        (int(raters), len(part), float((part["nunique"] == 1).mean()))
        for raters, part in told[told["size"] > 1].groupby("size")
    ]
    return pd.DataFrame(rows, columns=["raters", "pictures", "agreement"])


def _path(run_path: Path, attribute: str) -> Path:
    name = hashlib.sha256(attribute.encode()).hexdigest()[:16]
    return run_path / "label-samples" / f"{name}.parquet"
