"""A CycloneDX 1.7 bill of materials with model cards: what was audited, and what was found of it.

Every checkpoint and VAE is a component of type machine-learning-model. Its headline findings are
performance metrics with value, slice and confidence interval; what the report says is off target or
differs is a fairness assessment. Digests are those of configuration and tensors, not of files, so
they stand as properties and not as hashes. Specification: https://cyclonedx.org/docs/1.7/json/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

from harness.files.atomic import write_atomic
from harness.json_types import JsonObject
from probes.contracts import Finding
from reports import ReportData
from reports.answer import answer
from reports.overview import Card, audited_cards, flat
from reports.sentences import attribute, group, sentence, topic
from reports.tables import show
from reports.text import clip
from reports.verdicts import has_interval, headlines, is_measured

FILE = "bom.cdx.json"
MOST = 500
"""Metrics of one component."""
TOOL = "diffusion-audit"


def write(data: ReportData, folder: Path) -> None:
    """Write bom.cdx.json."""
    text = json.dumps(document(data), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / FILE, text.encode("utf-8", "replace"))


def document(data: ReportData) -> JsonObject:
    """The bill of materials as JSON has it."""
    created = str(data.provenance.get("created", ""))
    spec = str(data.provenance.get("spec", ""))
    version = str(data.provenance.get("written by", TOOL)).rpartition(" ")[2]
    tool = {"type": "application", "name": TOOL, "version": version}
    about: JsonObject = {"tools": {"components": [tool]}}
    if created:
        about["timestamp"] = created
    about["component"] = {
        "type": "application",
        "bom-ref": "audit",
        "name": clip(data.title, 120) or "audit",
        "properties": _properties({"spec-sha256": spec}, data.settings),
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{spec} {created}')}",
        "version": 1,
        "metadata": about,
        "components": [
            _component(number, card, data.findings)
            for number, card in enumerate(audited_cards(data.audited), 1)
        ],
    }


def _component(number: int, card: Card, findings: Sequence[Finding]) -> JsonObject:
    key = "vae" if card.kind == "VAE" else "checkpoint"
    own = [f for f in findings if f.subject.get(key) == card.name]
    if key == "vae":  # a checkpoint's own findings are not the VAE's
        own = [f for f in own if "attribute" not in f.subject or "baseline" in f.subject]
    measured = [f for f in headlines(own) if is_measured(f)]
    model: JsonObject = {}
    if measured:
        metrics = [_metric(f) for f in measured[:MOST]]
        model["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    harms = _harms(own)
    limits = [sentence(f) for f in own if f.headline and not is_measured(f)]
    considered: JsonObject = {}
    if harms:
        considered["fairnessAssessments"] = harms
    if limits:
        considered["technicalLimitations"] = [clip(text, 300) for text in limits[:MOST]]
    if considered:
        model["considerations"] = considered
    made: JsonObject = {
        "type": "machine-learning-model",
        "bom-ref": f"model-{number}",
        "name": card.name,
        "description": card.kind,
        "properties": _properties({name: value for name, value, _ in card.entries}),
    }
    return made | ({"modelCard": model} if model else {})


def _metric(finding: Finding) -> JsonObject:
    """A finding as a performance metric; its slice says who, of what and for which prompt."""
    metric: JsonObject = {
        "type": clip(finding.metric.name, 80),
        "value": f"{finding.value:.6g}",
        "slice": clip(topic(finding), 300),
    }
    if has_interval(finding):
        metric["confidenceInterval"] = {
            "lowerBound": f"{finding.low:.6g}",
            "upperBound": f"{finding.high:.6g}",
        }
    return metric


def _harms(findings: Sequence[Finding]) -> list[JsonObject]:
    """What the answer says is off target or differs, by the people that it is about."""
    by_id = {f.id: f for f in findings}
    harms = []
    for statement in answer(findings):
        if not statement.apart:
            continue
        about = [by_id[name] for name in statement.findings if name in by_id]
        groups = dict.fromkeys(attribute(f) or group(f).strip() for f in about)
        whose = ", ".join(filter(None, groups)) or "all who are shown"
        harms.append({"groupAtRisk": clip(whose, 300), "harms": clip(statement.text, 1000)})
    return harms


def _properties(*tables: JsonObject) -> list[JsonObject]:
    """Values as CycloneDX has them: text by name, in this tool's own namespace."""
    return [
        {"name": f"{TOOL}:{clip(str(name), 80)}", "value": clip(show(value), 300)}
        for table in tables
        for name, value in flat(table).items()
        if value not in (None, "")
    ]
