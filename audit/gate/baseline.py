"""One arm of a run as the gate sees it, read from the run folder or from a baseline file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from audit.gate.baseline_file import load, save
from audit.gate.side import SETTINGS, Side, needed_instruments
from audit.pipeline.margins import MOVED, Gated, asked_for, gated
from harness.errors import AuditError, SpecError
from harness.json_types import JsonObject
from harness.spec.prompts import resolve_prompts
from harness.spec.schema import Spec, parse_spec, read_own_spec
from harness.spec.sections import GateSpec
from harness.store.damage import refuse
from harness.store.run import Run
from harness.text import nearest, slug
from probes.attributes.outcomes import outcome_frame, readings
from probes.instruments.cell_values import cell_values
from probes.old_rows import old_subjects

__all__ = ["Side", "load", "needed_instruments", "read_side", "save", "side_of_run"]


def read_side(path: Path, arm: str | None = None, rules: GateSpec | None = None) -> Side:
    """A run folder's arm, or a baseline file.

    Args:
        path: Folder or file.
        arm: 'CHECKPOINT', 'CHECKPOINT,VAE' or 'CHECKPOINT,VAE,ADAPTERS'; needed where the run
            holds several.
        rules: The baseline's rules, where it is a candidate.

    Raises:
        AuditError: One line: what is wrong, and what would be right.
    """
    if not path.is_file():
        return side_of_run(path, arm, rules)
    side = load(path)
    if arm is not None and arm not in (side.arm, side.arm.split(",")[0]):
        raise AuditError(f"{path}: holds the arm {side.arm!r}, not {arm!r}")
    return side


def side_of_run(folder: Path, arm: str | None = None, rules: GateSpec | None = None) -> Side:
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
    instruments, held = run.instruments(), gated(spec, rules)
    first = part.iloc[0]
    return Side(
        arm=_arm_name(first["checkpoint"], first["vae"], first["adapters"]),
        cells=_cells(run, part, spec, instruments, held, rules or spec.gate),
        settings=_settings(part, folder),
        targets={p.text: p.targets for p in prompts if p.targets},
        spec=spec,
        instruments=instruments,
        made_with=provenance["made with"],
        audited=[a for a in provenance["audited"] if a.get("of", a["name"]) == first["checkpoint"]],
        findings=_findings(run, str(first["checkpoint"]), str(first["vae"])),
        measured={g.key: about(g) for g in held},
    )


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


def _settings(part: pd.DataFrame, folder: Path) -> JsonObject:
    settings: JsonObject = {}
    for name in SETTINGS:
        values = part[name].unique().tolist()
        if len(values) > 1:
            said = ", ".join(map(str, values))
            raise AuditError(f"{folder}: {name} has {said}; a gate takes one setting at a time")
        settings[name] = values[0]
    # The name of a negative is a label; its text is what was used.
    settings["negative"] = str(part["negative_text"].iloc[0])
    return settings


def _cells(
    run: Run,
    part: pd.DataFrame,
    spec: Spec,
    instruments: dict[str, str],
    held: list[Gated],
    rules: GateSpec,
) -> pd.DataFrame:
    units = set(part["unit"])
    tables = {
        name: run.read_scores(instruments[name], units)
        for name in dict.fromkeys([*needed_instruments(spec), *(g.instrument.name for g in held)])
        if name in instruments
    }
    files = part[["unit", "vae_file"]].drop_duplicates().itertuples(index=False)
    made = {
        cell
        for unit, vae in files
        if run.images_path(unit, vae).exists()
        for cell in run.made_cells(unit, vae)
    }
    for name in needed_instruments(spec):
        if name not in tables:
            continue
        table = tables[name]
        unscored = made - set(table["cell"])
        if unscored:
            raise AuditError(
                f"{run.folder}: {len(unscored)} of {len(made)} images are not scored with "
                f"{name!r}; run the command that made the run again"
            )
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
        if asked_for(rules, MOVED):
            known = [scores["embedding"].get(cell) for cell in cells["cell"]]
            cells[f"embedding:{slug(name)}"] = [
                [] if e is None else [round(float(x), 6) for x in e] for e in known
            ]
    for attribute, classifier, instrument in readings(spec):
        cells[f"outcome:{instrument}"] = None
        if instrument in tables:
            # Labels would calibrate one arm and not the other.
            frame = outcome_frame(tables, part, nobody_labelled, attribute, instrument, classifier)
            cells[f"outcome:{instrument}"] = frame["outcome"].to_numpy()
    for one in held:
        table = tables.get(one.instrument.name, pd.DataFrame())
        values = cell_values(one.instrument, one.metric, table)
        cells[f"value:{one.key}"] = cells["cell"].map(values).astype(float)
    return cells


def about(one: Gated) -> JsonObject:
    """What the gate must know of a declared metric, as a baseline file keeps it."""
    metric = one.metric
    span = metric.span if np.isfinite(metric.span) else None
    return {"unit": metric.unit, "better": metric.better, "span": span, "margin": one.margin}


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


def _findings(run: Run, checkpoint: str, vae: str) -> list[JsonObject]:
    table = run.read_table("findings.parquet")
    if table is None:
        return []
    table = old_subjects(table)
    if not {"subject.checkpoint", "subject.vae"} <= {*table.columns}:
        return []
    mine = (table["subject.checkpoint"] == checkpoint) & (table["subject.vae"] == vae)
    kept = table.loc[
        mine & table["headline"], ["id", "value", "low", "high", "estimand", "n", "unit", "note"]
    ]
    kept = kept.astype(object).where(kept.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in kept.to_dict("records")]
