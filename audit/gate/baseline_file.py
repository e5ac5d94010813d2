"""The small file that keeps one arm of a run beside a model.

`audit baseline save RUN FILE` writes what a later gate needs: what was planned, what each cell
scored, the digests of all that took part, and the findings. No images. The file is JSON with the
sha256 of its own content, so that one cut off or edited is noticed, and with the number of its
format: what an older version wrote is refused with the reason, never compared by other rules. All
of it is checked when it is read, so that a file edited together with its digest is an error too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import pandas as pd
from pydantic import (
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
)

from audit.gate.side import SETTINGS, Side
from audit.pipeline.margins import KINDS, MOVED, asked_for
from harness import __version__
from harness.errors import AuditError, SpecError
from harness.files.atomic import write_atomic
from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.spec.schema import Spec, parse_spec
from harness.text import slug
from probes.attributes.outcomes import readings

NAME, FORMAT = "diffusion-audit baseline", 2
CHANGED = {
    1: "of diffusion-audit 0.1.0. Since then FAIL means worse than the margin, single prompts are "
    "guarded and instruments carry versions, so its scores are not comparable",
}
"""By format that is no longer read: what has changed since."""
AGAIN = "save it again with `audit baseline save RUN FILE`"
RUN_AGAIN = "run its spec again with this version (`audit run SPEC`), then " + AGAIN

Number = Annotated[float, AllowInfNan(False)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
COLUMNS: dict[str, TypeAdapter[Any]] = {
    "prompt": TypeAdapter(list[StrictStr]),
    "seed": TypeAdapter(list[Seed]),
    "cell": TypeAdapter(list[StrictStr]),
    "made": TypeAdapter(list[StrictBool]),
    "likeness:": TypeAdapter(list[Number | None]),
    "cosines:": TypeAdapter(list[list[Number | None]]),
    "embedding:": TypeAdapter(list[list[Number | None]]),
    "outcome:": TypeAdapter(list[StrictStr | None]),
    "value:": TypeAdapter(list[Number | None]),
}
"""What a column of the cells holds, by its name or what the name begins with."""
PLAIN = ("prompt", "seed", "cell", "made")


class _Measured(BaseModel):
    """A declared metric, as `Side.measured` has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    unit: str
    better: Literal["higher", "lower", "target"] | None
    span: Number | None
    margin: Annotated[Number, Field(gt=0)]


class _Content(BaseModel):
    """What a baseline file holds, as far as its form goes; see `Side`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    version: str
    arm: str
    cells: dict[str, list[object]]
    settings: dict[str, str | int | Number | bool | None]
    targets: dict[str, dict[str, dict[str, Number]]]
    spec: JsonObject
    instruments: dict[str, str]
    made_with: JsonObject
    audited: list[JsonObject]
    findings: list[JsonObject]
    measured: dict[str, _Measured] = {}


def save(side: Side, path: Path) -> None:
    """Write a baseline file, whole or not at all."""
    cells = side.cells.astype(object).where(side.cells.notna(), None)
    content = side._asdict() | {
        "format": f"{NAME} {FORMAT}",
        "version": __version__,
        "cells": {name: cells[name].tolist() for name in cells},
        "spec": side.spec.model_dump(mode="json"),
    }
    # Through JSON once, so that the digest is of what a reader will read.
    content = json.loads(json.dumps(content))
    text = json.dumps({"digest": canonical_digest(content), "content": content}, indent=0)
    write_atomic(path, text.encode() + b"\n")


def load(path: Path) -> Side:
    """Read a baseline file.

    Raises:
        AuditError: It is cut off, edited, of another format, or no baseline file.
    """
    content, digest = _content(path)
    _check_format(path, content)
    try:
        own = canonical_digest(content)
    except UnicodeEncodeError as error:
        _refuse(path, f"text that is no Unicode ({error.reason})")
    if own != digest:
        raise AuditError(f"{path}: was edited: its digest is not that of its content; {AGAIN}")
    try:
        held = _Content.model_validate(content)
    except ValidationError as error:
        _refuse(path, _first(error))
    side = Side(
        arm=held.arm,
        cells=_cells(path, held.cells),
        settings=dict(held.settings),
        targets=held.targets,
        spec=_spec(path, held.spec),
        instruments=held.instruments,
        made_with=held.made_with,
        audited=held.audited,
        findings=held.findings,
        measured={key: one.model_dump() for key, one in held.measured.items()},
    )
    _check(path, side)
    return side


def _spec(path: Path, raw: JsonObject) -> Spec:
    """The spec that a baseline keeps; of several mistakes in it the first is told."""
    try:
        return parse_spec(raw, path)
    except SpecError as error:
        raise SpecError(str(error).split("\n", 1)[0]) from None


def _content(path: Path) -> tuple[JsonObject, Any]:
    """What the file holds, and the digest it carries."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(
            f"{path}: no whole baseline file ({type(error).__name__}: {reason}); {AGAIN}"
        ) from None
    if not isinstance(whole, dict) or not isinstance(whole.get("content"), dict):
        raise AuditError(f"{path}: no whole baseline file: no 'content' in it; {AGAIN}")
    return whole["content"], whole.get("digest")


def _check_format(path: Path, content: JsonObject) -> None:
    found = re.fullmatch(rf"{NAME} (\d{{1,6}})", str(content.get("format")))
    if found is None:
        _refuse(path, f"its format is {str(content.get('format'))[:60]!r}, not '{NAME} {FORMAT}'")
    number = int(found[1])
    if number in CHANGED:
        raise AuditError(f"{path}: a baseline in format {number}, {CHANGED[number]}; {RUN_AGAIN}")
    if number != FORMAT:
        raise AuditError(
            f"{path}: a baseline in format {number} (diffusion-audit "
            f"{str(content.get('version'))[:20]}); this is diffusion-audit {__version__}, which "
            f"reads format {FORMAT}: update it, or {AGAIN}"
        )


def _cells(path: Path, columns: dict[str, list[object]]) -> pd.DataFrame:
    """The cells' table, each column checked for what it may hold."""
    missing = [name for name in PLAIN if name not in columns]
    if missing:
        _refuse(path, f"cells: no column {missing[0]!r}")
    checked: dict[str, list[object]] = {}
    for name, values in columns.items():
        kind = name if name in PLAIN else f"{name.partition(':')[0]}:"
        if kind not in COLUMNS:
            _refuse(path, f"cells: unknown column {name[:60]!r}")
        try:
            checked[name] = COLUMNS[kind].validate_python(values)
        except ValidationError as error:
            _refuse(path, f"cells.{name}: {_first(error)}")
        if len(values) != len(columns["prompt"]):
            _refuse(
                path, f"cells: {name!r} has {len(values)} rows, 'prompt' {len(columns['prompt'])}"
            )
    cells = pd.DataFrame(checked)
    for name in cells:
        if str(name).startswith(("likeness:", "value:")):
            cells[name] = cells[name].astype(float)
        if str(name).startswith("outcome:"):
            cells[name] = cells[name].astype(object)
    return cells


def _check(path: Path, side: Side) -> None:
    """That the parts fit each other."""
    cells, spec = side.cells, side.spec
    if cells.empty:
        _refuse(path, "no cells")
    twice = cells[cells.duplicated(["prompt", "seed"])]
    if len(twice):
        first = twice.iloc[0]
        _refuse(path, f"cells: seed {first['seed']} of {first['prompt'][:60]!r} is there twice")
    missing = [name for name in SETTINGS if name not in side.settings]
    if missing:
        _refuse(path, f"settings: no {missing[0]!r}")
    for column in sorted(_expected(side) - set(cells)):
        _refuse(path, f"cells: no column {column!r}, though its instrument is named")
    sizes = cells.groupby("prompt", sort=False)["prompt"].transform("size").to_numpy()
    for column in (c for c in cells if str(c).startswith("cosines:")):
        lengths = cells[column].map(len).to_numpy()
        if (lengths != sizes).any():
            _refuse(path, f"cells.{column}: a row needs one number for each cell of its prompt")
    for name in spec.gate.margins:
        if name.split("/")[0] not in KINDS and name not in side.measured:
            _refuse(path, f"spec.gate.margins: {name[:60]!r} is no metric")
    known = {a.name: a for a in spec.attributes}
    for prompt, by_attribute in side.targets.items():
        for name, shares in by_attribute.items():
            if name not in known:
                _refuse(path, f"targets: {prompt[:60]!r} names no attribute {name[:60]!r}")
            try:
                known[name].shares(shares)
            except ValueError as error:
                _refuse(path, f"targets of {prompt[:60]!r}: {error}")
    if any(not isinstance(one.get("name"), str) for one in side.audited):
        _refuse(path, "audited: a component without a name")


def _expected(side: Side) -> set[str]:
    """The columns of the instruments that the arm was scored with."""
    columns = {f"outcome:{r.instrument}" for r in readings(side.spec)}
    columns = {c for c in columns if c.removeprefix("outcome:") in side.instruments}
    for name in map(slug, side.spec.classifiers):
        if f"{name}.likeness" in side.instruments:
            columns |= {f"likeness:{name}", f"cosines:{name}"}
            if asked_for(side.spec.gate, MOVED):
                columns.add(f"embedding:{name}")
    return columns | {f"value:{key}" for key in side.measured}


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _refuse(path: Path, reason: str) -> NoReturn:
    raise AuditError(f"{path}: no valid baseline file: {reason}; {AGAIN}")
