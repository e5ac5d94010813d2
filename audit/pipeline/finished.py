"""Whether a run is finished: nothing that it was made from, and nothing in it, has changed since.

Then the same command has nothing to do, and no model is loaded and nothing hashed to find that
out: files are compared by path, size, time of change and inode. What such a comparison cannot see
(a disk that changes bytes by itself) `audit report` and the dashboard see by the files' checksums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

import reference
from audit.pipeline.session import Audit
from harness.hashing import canonical_digest

FILE = "finished.json"
PAGE = "report/index.html"
CODE = ("harness", "probes", "reports", "audit")
PREFIXES = ("local-dir:",)
LONGEST_PATH = 1024


def finished_page(audit: Audit) -> Path | None:
    """The report of a run that is finished; None where there is something to do."""
    page = audit.run.folder / PAGE
    if not page.exists() or not (audit.run.folder / FILE).exists():
        return None
    said = audit.run.read_json(FILE)
    known = said.get("state") if isinstance(said, dict) else None
    return page if known == state(audit) else None


def mark_finished(audit: Audit) -> None:
    """Note that the run is finished as it is now."""
    audit.run.write_json(FILE, {"state": state(audit)})


def state(audit: Audit) -> dict[str, str]:
    """Digests of all that the run depends on: the spec, its files, the software, the run itself."""
    spec = audit.spec.model_dump(mode="json")
    sources = [path for text in strings(spec) for path in _path_of(text, audit.base)]
    folder = audit.run.folder.resolve()
    own = [p for p in files(folder) if p != folder / FILE]
    return {
        "spec": audit.spec.digest(),
        "prompts": canonical_digest([[p.text, p.slots, p.group, p.targets] for p in audit.prompts]),
        "sources": canonical_digest([seen(path) for path in sources]),
        "models": canonical_digest(seen(reference.MODELS)),
        "software": canonical_digest([_code(), sorted(set(_installed()))]),
        "run": canonical_digest([_identity(path) for path in own]),
    }


def seen(path: Path) -> list[object]:
    """What tells a file, or all files of a folder, from changed ones without reading them."""
    return [str(path), *(_identity(one) for one in files(path))]


def files(path: Path) -> Iterator[Path]:
    """The file, or all files below the folder, in the order of their paths."""
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def strings(value: object) -> Iterator[str]:
    """All texts in plain data, keys of mappings included: where a spec may name a file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for both in value.items() for one in both for text in strings(one))
    elif isinstance(value, Sequence):
        yield from (text for one in value for text in strings(one))


def _path_of(text: str, base: Path) -> list[Path]:
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    if not text or "\0" in text or "\n" in text or len(text) > LONGEST_PATH:
        return []
    try:
        path = base / Path(text).expanduser()
        return [path.resolve()] if path.exists() else []
    except (OSError, RuntimeError):  # no path at all, or the home of nobody
        return []


def _identity(path: Path) -> list[object]:
    try:
        found = path.stat()
    except OSError:
        return [str(path), "cannot be read"]
    return [str(path), found.st_size, found.st_mtime_ns, found.st_ino]


def _code() -> list[object]:
    folders = [Path(import_module(name).__path__[0]) for name in CODE]
    return [_identity(p) for folder in folders for p in files(folder) if p.suffix == ".py"]


def _installed() -> Iterator[str]:
    """Every installed distribution with its version: any of them may change a number."""
    for one in distributions():
        yield f"{one.name} {one.version}"
