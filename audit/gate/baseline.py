"""One arm of a run as the gate sees it, and the small file that keeps it beside a model.

`audit baseline save RUN FILE` writes what a later gate needs: what was planned, what each cell
scored, the digests of all that took part, and the findings. No images. The file is JSON with the
sha256 of its own content, so that one cut off or edited is told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from audit.atomic import write_atomic
from audit.damage import refuse
from audit.errors import AuditError
from audit.plan import ARM
from audit.prompts import nearest, resolve_prompts, slug
from audit.spec import Spec, SpecError, canonical_digest, parse_spec, read_own_spec
from audit.store import Run
from probes.outcomes import clip_readings, outcome_frame

FORMAT = "diffusion-audit baseline 1"
SETTINGS = tuple(f for f in ARM if f not in ("checkpoint", "vae", "adapters"))


class Side(NamedTuple):
    """One arm, with all that decides whether it may be compared.

    Attributes:
        arm: checkpoint, VAE and, unless none, adapters, by name.
        cells: one planned cell a row: prompt, seed, cell; made (bool); by classifier
            'likeness:NAME' and 'cosines:NAME' (with the cells of the same prompt, in the rows'
            order); by instrument 'outcome:NAME'. NaN or None where there is none.
        settings: negative, sampler, steps, guidance, width, height.
        targets: by prompt, attribute and class: the prompts' own.
        spec: of the run.
        instruments: name to folder, which holds the digest.
        made_with: batch size, device, precision, libraries.
        audited: components of this run with their digests.
        findings: of this arm; kept for readers, not used by the gate.
    """

    arm: str
    cells: pd.DataFrame
    settings: dict[str, Any]
    targets: dict[str, dict[str, dict[str, float]]]
    spec: Spec
    instruments: dict[str, str]
    made_with: dict[str, Any]
    audited: list[dict[str, Any]]
    findings: list[dict[str, Any]]


def read_side(path: Path, arm: str | None = None) -> Side:
    """A run folder's arm, or a baseline file.

    Args:
        path: Folder or file.
        arm: 'CHECKPOINT', 'CHECKPOINT,VAE' or 'CHECKPOINT,VAE,ADAPTERS'; needed where the run
            holds several.

    Raises:
        AuditError: One line: what is wrong, and what would be right.
    """
    if not path.is_file():
        return side_of_run(path, arm)
    side = load(path)
    if arm is not None and arm not in (side.arm, side.arm.split(",")[0]):
        raise AuditError(f"{path}: holds the arm {side.arm!r}, not {arm!r}")
    return side


def side_of_run(folder: Path, arm: str | None = None) -> Side:
    """One arm of a run folder; errors as `read_side`."""
    run = Run(folder)
    refuse(run)
    provenance, plan = run.provenance(), run.read_plan()
    path, text = folder / "spec.yaml", run.read_text("spec.yaml")
    if provenance is None or plan is None or text is None:
        raise SpecError(f"{folder}: no run here, and no baseline file")
    spec = parse_spec(read_own_spec(path), path)
    prompts = resolve_prompts(spec.prompts, Path(provenance["base"]))
    part = _arm_of(plan, spec, arm, folder)
    instruments = run.read_json("instruments.json") or {}
    first = part.iloc[0]
    return Side(
        arm=_arm_name(first["checkpoint"], first["vae"], first["adapters"]),
        cells=_cells(run, part, spec, instruments),
        settings=_settings(part, folder),
        targets={p.text: p.targets for p in prompts if p.targets},
        spec=spec,
        instruments=instruments,
        made_with=provenance["made with"],
        audited=[a for a in provenance["audited"] if a.get("of", a["name"]) == first["checkpoint"]],
        findings=_findings(run, str(first["checkpoint"]), str(first["vae"])),
    )


def save(side: Side, path: Path) -> None:
    """Write a baseline file, whole or not at all."""
    cells = side.cells.astype(object).where(side.cells.notna(), None)
    content = side._asdict() | {
        "format": FORMAT,
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
        AuditError: It is cut off, edited, or no baseline file.
    """
    again = "save it again with `audit baseline save RUN FILE`"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        content, digest = whole["content"], whole["digest"]
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(
            f"{path}: no whole baseline file ({type(error).__name__}: {reason}); {again}"
        ) from None
    if canonical_digest(content) != digest:
        raise AuditError(f"{path}: was edited: its digest is not that of its content; {again}")
    if content.pop("format", None) != FORMAT:
        raise AuditError(f"{path}: not in the format {FORMAT!r}; {again}")
    cells = pd.DataFrame(content["cells"])
    for name in cells:
        if str(name).startswith("likeness:"):
            cells[name] = cells[name].astype(float)
    spec = parse_spec(content["spec"], path)
    return Side(**(content | {"cells": cells, "spec": spec}))


def needed_instruments(spec: Spec) -> list[str]:
    """The instruments that the gate reads: likeness and every CLIP attribute."""
    names = [slug(n) for n in spec.classifiers]
    clip = [a.name for a in spec.attributes if a.instrument == "clip"]
    return [f"{n}.{kind}" for n in names for kind in ["likeness", *clip]]


def _arm_of(plan: pd.DataFrame, spec: Spec, arm: str | None, folder: Path) -> pd.DataFrame:
    arms = plan[["checkpoint", "vae", "adapters"]].drop_duplicates()
    known = [_arm_name(*one) for one in arms.itertuples(index=False)]
    if arm is None:
        if len(known) > 1:
            raise AuditError(
                f"{folder}: holds {len(known)} arms; name one of them: {'; '.join(known)}"
            )
        return plan
    checkpoint, vae, adapters = (arm.split(",") + ["", ""])[:3]
    found = plan[plan["checkpoint"] == checkpoint]
    found = found[found["vae"] == (vae or next(iter(spec.vaes), ""))]
    found = found[found["adapters"] == (adapters or next(iter(spec.adapters)))]
    if found.empty:
        raise AuditError(f"{folder}: no arm {arm!r}; {nearest(arm, known)}")
    return found


def _arm_name(checkpoint: str, vae: str, adapters: str) -> str:
    return f"{checkpoint},{vae}" + ("" if adapters == "none" else f",{adapters}")


def _settings(part: pd.DataFrame, folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in SETTINGS:
        values = part[name].unique().tolist()
        if len(values) > 1:
            said = ", ".join(map(str, values))
            raise AuditError(f"{folder}: {name} has {said}; a gate takes one setting at a time")
        settings[name] = values[0]
    # The name of a negative is a label; its text is what was used.
    settings["negative"] = str(part["negative_text"].iloc[0])
    return settings


def _cells(run: Run, part: pd.DataFrame, spec: Spec, instruments: dict[str, str]) -> pd.DataFrame:
    units = set(part["unit"])
    tables = {
        name: run.read_scores(instruments[name], units)
        for name in needed_instruments(spec)
        if name in instruments
    }
    files = part[["unit", "vae_file"]].drop_duplicates().itertuples(index=False)
    made = {
        cell
        for unit, vae in files
        if run.images_path(unit, vae).exists()
        for cell in run.made_cells(unit, vae)
    }
    cells = part[["prompt", "seed", "cell"]].reset_index(drop=True)
    cells["made"] = cells["cell"].isin(made)
    nobody_labelled = pd.DataFrame(columns=["cell", "attribute", "class"])
    nothing = pd.DataFrame({"cell": [], "likeness": [], "embedding": []})
    for name in spec.classifiers:
        scores = tables.get(f"{slug(name)}.likeness", nothing)
        scores = (scores if len(scores) else nothing).drop_duplicates("cell").set_index("cell")
        likeness = cells["cell"].map(scores["likeness"]).astype(float)
        cells[f"likeness:{slug(name)}"] = likeness.round(6)
        cells[f"cosines:{slug(name)}"] = _cosines(cells, scores["embedding"])
    for attribute, classifier, instrument in clip_readings(spec):
        cells[f"outcome:{instrument}"] = None
        if instrument in tables:
            # Labels would calibrate one arm and not the other.
            frame = outcome_frame(tables, part, nobody_labelled, attribute, instrument, classifier)
            cells[f"outcome:{instrument}"] = frame["outcome"].to_numpy()
    return cells


def _cosines(cells: pd.DataFrame, embeddings: pd.Series) -> list[list[float | None]]:
    rows: list[list[float | None]] = [[] for _ in range(len(cells))]
    for _, own in cells.groupby("prompt", sort=False):
        held = [embeddings.get(cell) for cell in own["cell"]]
        width = max((len(h) for h in held if h is not None), default=1)
        stack = np.stack(
            [np.full(width, np.nan) if h is None else np.asarray(h, float) for h in held]
        )
        stack /= np.linalg.norm(stack, axis=1, keepdims=True)
        for at, row in zip(own.index, (stack @ stack.T).round(6), strict=True):
            rows[at] = [None if np.isnan(x) else float(x) for x in row]
    return rows


def _findings(run: Run, checkpoint: str, vae: str) -> list[dict[str, Any]]:
    table = run.read_table("findings.parquet")
    if table is None:
        return []
    mine = table["subject"].str.contains(f"checkpoint: {checkpoint};", regex=False)
    mine &= table["subject"].str.contains(f"vae: {vae};", regex=False)
    kept = table.loc[
        mine & table["headline"], ["id", "value", "low", "high", "estimand", "n", "unit", "note"]
    ]
    kept = kept.astype(object).where(kept.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in kept.to_dict("records")]
