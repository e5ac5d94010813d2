"""Which files a run holds: one walk that follows no link, so that nothing outside is read.

All reading starts from this index. Names from the plan are looked up in it, never joined into
a path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from harness.errors import AuditError
from harness.store.damage import PATTERNS

K = TypeVar("K")


class RunError(AuditError):
    """The folder cannot be shown; one line for the reader."""


class Files(NamedTuple):
    """The files of one run, by what they are.

    Attributes:
        top: spec.yaml, plan.parquet and so on, by name; 'report/…' and 'gate/…' too.
        images: by (unit, VAE file).
        scores: all files of an instrument's folder (name@digest).
        latents: by unit, or unit-VAE of a round trip.
        attention: what the attention taps kept, by unit; of several settings, all.
        labels: in order of name.
        failures: by unit.
        links: names of links, none of which is followed.
    """

    root: Path
    top: dict[str, Path]
    images: dict[tuple[str, str], Path]
    scores: dict[str, list[Path]]
    latents: dict[str, Path]
    attention: dict[str, list[Path]]
    labels: list[Path]
    failures: dict[str, Path]
    links: list[str]


def index(folder: Path) -> Files:
    """Walk a run directory.

    Raises:
        RunError: There is no such folder, or it holds no run.
    """
    try:
        root = folder.resolve(strict=True)
    except OSError:
        raise RunError(f"{folder}: no such folder; was the run removed or renamed?") from None
    files = Files(root, {}, {}, {}, {}, {}, [], {}, [])
    for parts, path in _walk(root, files.links):
        match parts:
            case (name,) | ("report" | "gate", name):
                files.top["/".join(parts) if len(parts) > 1 else name] = path
            case ("report", "grids", name):
                files.top[f"report/grids/{name}"] = path
            case ("images", unit, name) if name.endswith(".parquet"):
                files.images[unit, path.stem] = path
            case ("scores", instrument, _, name) if name.endswith(".parquet"):
                files.scores.setdefault(instrument, []).append(path)
            case ("latents", name) if name.endswith(".safetensors"):
                files.latents[path.stem] = path
            case ("taps", tap, name) if tap.startswith("attention@"):
                files.attention.setdefault(path.stem, []).append(path)
            case ("labels", name) if name.endswith(".parquet"):
                files.labels.append(path)
            case ("failures", name) if name.endswith(".txt"):
                files.failures[path.stem] = path
    if "plan.parquet" not in files.top:
        why = "it is a link, and links are not followed" if "plan.parquet" in files.links else ""
        raise RunError(
            f"{folder}: no run here: plan.parquet is missing{f' ({why})' if why else ''}; "
            "`audit run SPEC --out FOLDER` makes one"
        )
    return files


def checked(files: Files) -> list[Path]:
    """The files that hold a checksum."""
    top = [path for name, path in files.top.items() if name in PATTERNS]
    lists = [*files.scores.values(), *files.attention.values(), files.labels]
    alone = (files.images, files.latents, files.failures)
    return [*top, *chain(*lists), *chain(*(held.values() for held in alone))]


def without(files: Files, left_out: set[Path]) -> Files:
    """The index without some files."""

    def alone(held: dict[K, Path]) -> dict[K, Path]:
        return {key: path for key, path in held.items() if path not in left_out}

    def several(held: dict[str, list[Path]]) -> dict[str, list[Path]]:
        kept = {key: [p for p in paths if p not in left_out] for key, paths in held.items()}
        return {key: paths for key, paths in kept.items() if paths}

    return files._replace(
        top=alone(files.top),
        images=alone(files.images),
        scores=several(files.scores),
        latents=alone(files.latents),
        attention=several(files.attention),
        labels=[p for p in files.labels if p not in left_out],
        failures=alone(files.failures),
    )


def stamp(folder: Path) -> tuple[int, ...]:
    """What changes when a run does: times of its tables and folders, cheap enough for each click.

    Raises:
        RunError: The folder is gone.
    """
    names = (
        "plan.parquet",
        "instruments.json",
        "findings.parquet",
        "report/report.json",
        "gate/gate.json",
        "images",
        "failures",
    )
    if not (folder / "plan.parquet").exists():
        raise RunError(f"{folder}: the run is no longer here; it was removed or moved while open")
    times = []
    for name in names:
        try:
            times.append((folder / name).lstat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


def _walk(
    root: Path, links: list[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Files below a folder with their path's parts, sorted; links are noted and left alone."""
    try:
        entries = sorted(os.scandir(root.joinpath(*above)), key=lambda e: e.name)
    except OSError:
        return  # removed while it was walked
    for entry in entries:
        parts = (*above, entry.name)
        if entry.is_symlink():
            links.append("/".join(parts))
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(root, links, parts)
        elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
            yield parts, Path(entry.path)
