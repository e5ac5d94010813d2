"""The gate from end to end: two arms in, one verdict out, as JSON, JUnit and Markdown.

`gate.json` is the truth; the other files say the same for readers that cannot read it.
"""

from __future__ import annotations

import json
import os
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.gate.baseline import Side, side_of_run
from audit.gate.comparability import differences
from audit.gate.decision import EXIT_CODES, Guarded, Judged, judge, worst_pairs
from audit.gate.metric import Metric, Result
from audit.gate.metrics import Grid, metrics, pair
from audit.gate.outputs import junit, markdown
from audit.gate.page import render
from audit.gate.rates import DRAWS
from harness.errors import AuditError
from harness.files.atomic import write_atomic
from harness.json_types import JsonObject
from harness.store.run import Run
from harness.terminal import plain_json
from probes.statistics.intervals import Estimand
from reports.image_grids import Pictures

if TYPE_CHECKING:
    from harness.progress import Say
    from reports.grids import Images

ESTIMANDS: tuple[Estimand, ...] = ("this suite", "prompts like these")


def error(message: str) -> JsonObject:
    """The record of a gate that could not be had."""
    return {"verdict": "ERROR", "message": message, "metrics": [], "notes": []}


def decide(baseline: Side, candidate: Side) -> JsonObject:
    """Compare two arms; what cannot be compared is ERROR with the reason.

    Returns:
        What `gate.json` holds: plain data, None where a number is not measured.
    """
    gate = baseline.spec.gate
    changed = differences(baseline, candidate)
    if changed:
        return error(f"baseline and candidate cannot be compared: {'; '.join(changed)}")
    paired = pair(baseline, candidate)
    held = paired.attrition
    if held.share < gate.common:
        return error(
            f"{held.made_by_both} of the {held.planned_by_both} cells planned by both were made by "
            f"both ({held.share:.0%}; baseline lacks {held.baseline_lacks}, candidate lacks "
            f"{held.candidate_lacks}); {gate.common:.0%} is needed (gate.common)"
        )
    wanted = metrics(baseline, paired, gate)
    if not wanted:
        return error("nothing to compare: the spec names no classifier")
    judged = {e: judge(wanted, e, gate.common) for e in ESTIMANDS}
    chosen = judged[gate.estimand]
    (other,) = (e for e in ESTIMANDS if e != gate.estimand)
    grid = Grid(paired.rows)
    rows = [
        mine._asdict()
        | {"other estimand": _beside(theirs, other)}
        | {"worst": [grid.cell(*at) for at in worst_pairs(metric)]}
        for mine, theirs, metric in zip(chosen.results, judged[other].results, wanted, strict=True)
    ]
    if chosen.guard:
        rows.append(_guard_row(chosen.guard, judged[other].guard, other, wanted, grid))
    record = {
        "verdict": chosen.verdict,
        "message": _message(chosen),
        "estimand": gate.estimand,
        "false_fail_rate": chosen.rates.same,
        "false_fail_rate_at_margin": chosen.rates.at_margin,
        "false_fail_draws": DRAWS,
        "prompt_move_unseen": chosen.guard.unseen if chosen.guard else None,
        "other estimand": {
            "estimand": other,
            "verdict": judged[other].verdict,
            "false_fail_rate": judged[other].rates.same,
            "false_fail_rate_at_margin": judged[other].rates.at_margin,
        },
        "cells": held._asdict() | {"share": held.share},
        "metrics": rows,
        "notes": _notes(baseline, candidate),
        "baseline": {"arm": baseline.arm, "audited": baseline.audited},
        "candidate": {"arm": candidate.arm, "audited": candidate.audited},
        "settings": baseline.settings,
        "instruments": baseline.instruments,
        "gate": gate.model_dump(mode="json"),
    }
    plain: JsonObject = _plain(record)
    return plain


def make_candidate(spec: Path, folder: Path, baseline: Side, arm: str | None, say: Say) -> Side:
    """Make and measure what a candidate's spec asks for, if it can be compared at all.

    Raises:
        AuditError: It differs from the baseline; nothing was generated.
        Stopped: Ctrl-C or SIGTERM; what is done is kept.
    """
    from audit.pipeline import analyse, run
    from audit.pipeline.plan import begin, plan_audit
    from audit.pipeline.session import open_audit

    audit = open_audit(spec, folder)
    with run.working(audit, say):
        plan, provenance = plan_audit(audit, say)
        begin(audit, plan, provenance)
        run.score(audit, plan, say)  # before there are images: writes which instruments these are
        changed = differences(baseline, side_of_run(folder, arm, baseline.spec.gate))
        if changed:
            raise AuditError(f"{spec}: cannot be compared with the baseline: {'; '.join(changed)}")
        run.generate(audit, plan, say)
        run.score(audit, plan, say)
    analyse.report(audit, *analyse.analyse(audit))
    return side_of_run(folder, arm, baseline.spec.gate)


def exit_code(record: JsonObject, allow_inconclusive: bool = False) -> int:
    """0 pass, 1 regression, 2 error, 3 inconclusive (0 where that is allowed)."""
    code = EXIT_CODES[record["verdict"]]
    return 0 if allow_inconclusive and code == 3 else code


def write(
    record: JsonObject,
    folder: Path,
    baseline: Path | None = None,
    candidate: Path | None = None,
) -> None:
    """Write gate.json, junit.xml, gate.md and index.html.

    Args:
        record: Of `decide` or `error`.
        folder: Where; gate.md is also appended to $GITHUB_STEP_SUMMARY.
        baseline: Run folder that has the baseline's images, for the page; a baseline file
            has none.
        candidate: The same of the candidate.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / "gate.json", plain_json(text).encode("utf-8", "replace") + b"\n")
    write_atomic(folder / "junit.xml", junit(record))
    page = markdown(record)
    write_atomic(folder / "gate.md", page.encode())
    write_atomic(folder / "index.html", render(record, _pictures(baseline), _pictures(candidate)))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(page)


def _pictures(folder: Path | None) -> Images:
    run = Run(folder) if folder is not None and folder.is_dir() else None
    plan = run.read_plan() if run is not None else None
    if run is None or plan is None:
        return lambda cell: None
    pictures, known = Pictures(run, plan), set(plan["cell"])
    return lambda cell: pictures(cell) if cell in known else None


def _beside(result: Result, estimand: Estimand) -> JsonObject:
    """What the estimand that was not chosen says of a metric."""
    kept = ("value", "low", "high", "worse_high", "p_adjusted", "needs")
    return {"estimand": estimand, "verdict": result.verdict} | {k: getattr(result, k) for k in kept}


def _guard_row(
    guard: Guarded, theirs: Guarded | None, other: Estimand, wanted: list[Metric], grid: Grid
) -> JsonObject:
    """The prompt that moved most, as one more row of the metrics."""
    prompt = grid.prompts[guard.prompt]
    note = f"the prompt that moved most: {prompt!r}"
    worst = worst_pairs(wanted[guard.metric], prompt=guard.prompt)
    return guard.result._asdict() | {
        "note": f"{note}; {_unseen(guard)}" if _unseen(guard) else note,
        "prompt": prompt,
        "other estimand": _beside((theirs or guard).result, other),
        "worst": [grid.cell(*at) for at in worst],
    }


def _unseen(guard: Guarded) -> str:
    """What the guard could not have seen, in words; '' where no share is guarded."""
    if isnan(guard.unseen):
        return ""
    return (
        f"at {guard.seeds} seeds a prompt, a share of one prompt may move by up to "
        f"{guard.unseen:.2f} unseen"
    )


def _message(judged: Judged) -> str:
    results = judged.results + ([judged.guard.result] if judged.guard else [])
    failed = [r.id for r in results if r.verdict == "FAIL"]
    if failed:
        return f"worse than its margin: {', '.join(failed)}"
    missing = [r.id for r in results if r.verdict == "ERROR"]
    if missing:
        return f"not measured: {', '.join(missing)}"
    open_ = [r for r in results if r.verdict == "INCONCLUSIVE"]
    if open_:
        return f"{len(open_)} of {len(judged.results)} metrics are not decided by this much data"
    inside = f"all {len(judged.results)} metrics lie inside their margins"
    unseen = _unseen(judged.guard) if judged.guard else ""
    return f"{inside}; {unseen}" if unseen else inside


def _notes(baseline: Side, candidate: Side) -> list[str]:
    notes = []
    for key, value in baseline.made_with.items():
        other = candidate.made_with.get(key)
        if other != value:
            notes.append(f"made with another {key}: {value} -> {other}; pixels change with it")
    if candidate.spec.gate != baseline.spec.gate:
        notes.append("the candidate's own gate section is not read: the baseline's holds")
    return notes


def _plain(value: object) -> Any:
    """As JSON takes it: no numpy, None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
