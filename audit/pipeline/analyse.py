"""From scores to findings and figures, and from those to the report."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from audit.pipeline import vae_table
from audit.pipeline.session import Audit
from audit.pipeline.spec_tables import read_errors, read_labels
from audit.pipeline.text_scores import text_units
from harness.errors import AuditError, SpecError, one_line
from harness.json_types import JsonObject
from harness.progress import Say
from harness.spec.label_classes import resolve_labels
from harness.store.run import Run
from harness.taps import record as taps
from probes.attributes.outcomes import read_as
from probes.contracts import AnalysisInput, Figure, Finding, MetricSpec, ProbeOptions
from probes.error_control import adjusted
from probes.finding_rows import findings_frame
from probes.preference.probe import TABLE, PreferenceProbe
from probes.preference.trials import FOLDER, judged
from probes.registry import Chosen
from reports import ReportData
from reports.image_grids import Pictures, difference_grid, grid_figures
from reports.strips import sheets, strips
from reports.writers import write_report

STEP = "analysis"
"""Folder of the run's `failures` for tracebacks of probes."""


def analyse(
    audit: Audit, others: Sequence[Finding] = (), say: Say | None = None
) -> tuple[list[Finding], list[Figure]]:
    """Ask every probe what the run's scores say; findings and figures are written too.

    Args:
        audit: The audit.
        others: Findings made elsewhere that belong to the same report: they come first, and
            their tests are adjusted together with those of the probes.
        say: Where to say which probe is at work.

    Raises:
        SpecError: The run has no plan, or a file that the spec names cannot be used.
    """
    plan = audit.run.read_cells()
    if plan is None:
        raise SpecError(f"{audit.run.folder}: no plan here; run `audit run` first")
    tables = _tables(audit, plan)
    labels = _labels(audit)
    findings: list[Finding] = list(others)
    figures: list[Figure] = []
    asked = audit.probes
    if TABLE in tables and PreferenceProbe.name not in audit.spec.probes:
        asked = [*asked, Chosen(PreferenceProbe(), ProbeOptions())]  # people have judged since
    for number, (probe, options) in enumerate(asked, 1):
        if say is not None:
            say(f"analyse {number}/{len(asked)} {probe.name}")
        seen = plan
        if "requested_by" in plan:
            seen = plan[plan["requested_by"].isin(["", probe.name])].reset_index(drop=True)
        try:
            given = AnalysisInput(tables, seen, labels, audit.spec, options)
            found, shown = probe.analyse(given)
        except Exception as error:
            findings.append(_failed(audit.run, probe.name, error))
            continue
        audit.run.clear_traceback(STEP, probe.name)
        findings += found
        figures += [replace(figure, probe=probe.name) for figure in shown]
    findings += [*_failed_instruments(audit.run), *_unscored(audit, plan, tables)]
    findings = adjusted(findings)
    audit.run.write_table("findings.parquet", findings_frame(findings))
    return findings, figures


def report(
    audit: Audit, findings: list[Finding], figures: list[Figure], grids: Sequence[str] = ()
) -> Path:
    """Write report/index.html, report.json and the grids' images.

    Args:
        audit: The audit.
        findings: All findings.
        figures: All figures but the grids.
        grids: 'row factor,column factor' of the grids wanted; empty: the factors that vary.

    Returns:
        Path of index.html.
    """
    data = report_data(audit, findings, figures, grids)
    return write_report(data, audit.run.folder / "report")[0]


def report_data(
    audit: Audit, findings: list[Finding], figures: list[Figure], grids: Sequence[str] = ()
) -> ReportData:
    """All that a report is made of; arguments as in `report`."""
    plan, whole = audit.run.read_plan(), audit.run.read_cells()
    assert plan is not None
    assert whole is not None
    provenance = audit.run.provenance() or {}
    spec = audit.spec

    def outcomes(attribute: str, instrument: str) -> pd.Series:
        tables = {instrument: _scores(audit, plan, instrument)}
        if tables[instrument].empty:
            return pd.Series(dtype=object)
        return read_as(tables, plan, _labels(audit), spec, attribute, instrument)

    return ReportData(
        title=spec.name,
        audited=provenance["audited"],
        settings=settings_of(audit, plan) | provenance["made with"],
        findings=findings,
        figures=vae_table.verdicts(findings)
        + figures
        + strips(findings, plan, outcomes)
        + sheets(findings, plan)
        + grid_figures(plan, grids)
        + difference_grid(plan, _scores(audit, plan, "fidelity"))
        + vae_table.figures(audit.run),
        attrition=attrition_table(audit, plan),
        provenance={k: v for k, v in provenance.items() if k not in ("base", "audited")}
        | {
            "instruments": audit.run.instruments(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
        reproduce=[
            f"audit show {audit.run.folder.name} CELL",
            f"audit show {audit.run.folder.name} {plan['cell'].iloc[0][:12]}",
        ],
        images=Pictures(
            audit.run,
            whole,
            next((taps.folder(t) for t in audit.taps if t.name == "attention"), ""),
        ),
    )


def settings_of(audit: Audit, plan: pd.DataFrame) -> JsonObject:
    """What held for all images; of images made elsewhere it is not known how."""
    if (plan["kind"] == "round trip").any():
        return {"images": int(plan["trajectory"].nunique())}
    known: JsonObject = {"prompts": len(audit.prompts)}
    if (plan["kind"] != "made").all():
        return known | {"images": int(plan["trajectory"].nunique())}
    return known | {
        "seeds a prompt": audit.spec.seeds.count,
        "images": int(plan["cell"].nunique()),
        "sampler": sorted(plan["sampler"].unique()),
        "steps": sorted(int(s) for s in plan["steps"].unique()),
        "guidance": sorted(float(g) for g in plan["guidance"].unique()),
        "size": sorted({f"{w} x {h}" for w, h in zip(plan.width, plan.height, strict=True)}),
    }


def attrition_table(audit: Audit, plan: pd.DataFrame) -> pd.DataFrame:
    """By checkpoint and VAE: images planned, made, failed, and the commonest reason."""
    made = {
        cell for unit, vae in audit.run.image_files() for cell in audit.run.made_cells(unit, vae)
    }
    reasons = audit.run.missing_images().set_index("cell")["reason"].to_dict()
    of_units = audit.run.failures()
    missing = ~plan["cell"].isin(made)
    rows = []
    for (checkpoint, vae), part in plan.groupby(["checkpoint", "vae"], sort=False):
        lost = part[missing[part.index]]
        why = [
            reasons.get(c) or of_units.get(u) or "not made yet"
            for c, u in zip(lost["cell"], lost["unit"], strict=True)
        ]
        reason = max(set(why), key=why.count) if why else ""
        rows.append((f"{checkpoint} · {vae}", len(part), len(part) - len(lost), len(lost), reason))
    return pd.DataFrame(rows, columns=["arm", "planned", "made", "failed", "reason"])


def _failed(run: Run, probe: str, error: Exception) -> Finding:
    """A probe that raised: its exception in one line, and where the traceback is."""
    reason = one_line(error)
    path = run.write_traceback(STEP, probe, f"{reason}\n\n{traceback.format_exc()}")
    note = f"{reason} (traceback: {path.relative_to(run.folder)})"
    return Finding(
        id=f"{probe}/{STEP}",
        probe=probe,
        metric=MetricSpec(STEP),
        status="failed",
        headline=True,
        note=note,
    )


def _unscored(audit: Audit, plan: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> list[Finding]:
    """A finding for each instrument of images that has not scored all of them.

    A run that was stopped while it scored, or that lost a file of scores, would else count these
    images as missing without a word.
    """
    made = audit.run.made_of(plan)
    found = []
    for instrument in audit.instruments:
        if instrument.inputs != {"images"}:
            continue
        table = tables.get(instrument.name)
        scored = set() if table is None or table.empty else set(table["cell"])
        left = len(made - scored)
        folder = audit.run.instruments().get(instrument.name)
        if left and not (folder and audit.run.tracebacks(folder)):  # those are said by themselves
            note = (
                f"{left:,} of {len(made):,} images have no scores yet and count as missing; run "
                "the command that made the run again"
            )
            found.append(
                Finding(
                    id=f"{instrument.name}/scores",
                    probe=instrument.name,
                    metric=MetricSpec("scores"),
                    instrument=instrument.name,
                    status="not-measured",
                    headline=True,
                    note=note,
                )
            )
    return found


def _failed_instruments(run: Run) -> list[Finding]:
    """A finding for each instrument that raised on some of the run's units."""
    found = []
    for name, folder in (run.instruments()).items():
        files = run.tracebacks(folder)
        if not files:
            continue
        lines = files[0].read_text(encoding="utf-8", errors="replace").splitlines()
        reason = lines[0] if lines else "no reason is kept"
        note = (
            f"it failed on {len(files)} files of images, for example {files[0].stem}: {reason} "
            f"(traceback: {files[0].relative_to(run.folder)})"
        )
        found.append(
            Finding(
                id=f"{name}/measurement",
                probe=name,
                metric=MetricSpec("measurement"),
                instrument=name,
                status="failed",
                headline=True,
                note=note,
            )
        )
    return found


class _Tables(dict[str, pd.DataFrame]):
    """Scores by instrument; one that has not measured anything yet is said to be missing."""

    def __missing__(self, name: str) -> pd.DataFrame:
        raise AuditError(
            f"nothing is scored with {name!r} yet; run the command that made the run again"
        )


def _tables(audit: Audit, plan: pd.DataFrame) -> dict[str, pd.DataFrame]:
    folders = audit.run.instruments()
    units = set(plan["unit"]) | set(text_units(audit).values())
    tables = _Tables(
        {name: audit.run.read_scores(folder, units) for name, folder in folders.items()}
    )
    rows = [
        (p.text, attribute, name, share)
        for p in audit.prompts
        for attribute, shares in p.targets.items()
        for name, share in shares.items()
    ]
    if rows:
        tables["targets"] = pd.DataFrame(rows, columns=["prompt", "attribute", "class", "share"])
    for attribute in audit.spec.attributes:
        drawn = audit.run.read_sample(attribute.name)
        if drawn is not None:
            tables[f"drawn.{attribute.name}"] = drawn
    if (audit.run.folder / FOLDER).exists():
        tables[TABLE] = judged(audit.run)
    errors = read_errors(audit)
    if errors is not None:
        tables["errors"] = errors
    return tables


def _scores(audit: Audit, plan: pd.DataFrame, instrument: str) -> pd.DataFrame:
    """One instrument's rows; empty where it measured nothing."""
    folders = audit.run.instruments()
    if instrument not in folders:
        return pd.DataFrame()
    return audit.run.read_scores(folders[instrument], set(plan["unit"]))


def _labels(audit: Audit) -> pd.DataFrame:
    """The run's own labels and those that the spec names, spelled as declared."""
    mapping = audit.spec.labels.map if audit.spec.labels else {}
    where = f"{audit.run.folder / 'labels'}"
    own = resolve_labels(audit.run.labels(), audit.spec.attributes, mapping, where)
    return pd.concat([own, read_labels(audit)], ignore_index=True)
