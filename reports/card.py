"""A model card: results as metadata that the hub reads, and prose on bias, risks and limits.

The metadata is `model-index` of huggingface_hub, `MOST_LINES` lines at most: the findings that the
answer rests on, each with its interval, n and null among the metric's arguments; report.json has
all. The prose says what was measured and no more.
Every name and prompt is escaped (`reports.escaping`).
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from harness.errors import AuditError
from harness.json_types import JsonObject
from probes.contracts import Finding
from reports import ReportData
from reports.answer import answer
from reports.escaping import markdown
from reports.overview import Card, audited_cards
from reports.sentences import amount, p_text, scope, topic, value_text
from reports.tables import show
from reports.text import clip, number
from reports.verdicts import census, headlines, is_measured, verdict, verdict_label

MOST_ANSWERED = 8
"""Statements of the answer that head the card."""
MAX_RESULTS, MAX_TOLD, MAX_OPEN = 6, 12, 6
"""Findings in the metadata; told in the card; and of those, ones of which we cannot tell."""
MOST_LINES = 60
"""Of YAML: a card is for readers, and report.json has every finding."""
LICENCE = "# yours to add: license, base_model"
SETTINGS = (
    "prompts",
    "seeds",
    "seeds a prompt",
    "images",
    "sampler",
    "steps",
    "guidance",
    "size",
)


def only(data: ReportData, checkpoint: str) -> ReportData:
    """The report of one checkpoint of several: what is said of others alone is left out.

    Raises:
        AuditError: The run has no such checkpoint.
    """
    names = dict.fromkeys(str(one.get("name")) for one in data.audited if one.get("kind") != "VAE")
    if checkpoint not in names:
        raise AuditError(f"--checkpoint {checkpoint!r}: this run has {', '.join(names)}")
    attrition = data.attrition
    if "arm" in attrition:
        arms = attrition["arm"].astype(str)
        attrition = attrition[(arms == checkpoint) | arms.str.startswith(f"{checkpoint} · ")]
    return data._replace(
        title=checkpoint,
        audited=[one for one in data.audited if checkpoint in (one.get("name"), one.get("of"))],
        findings=[
            f for f in data.findings if f.subject.get("checkpoint", checkpoint) == checkpoint
        ],
        attrition=attrition,
    )


def card(data: ReportData) -> str:
    """The whole card: metadata and prose."""
    about = {
        "pipeline_tag": "text-to-image",
        "library_name": "diffusers",
        "tags": ["diffusion-audit"],
    }
    yaml = _fitting(data, 2, **about)
    text = f"---\n{LICENCE}\n{yaml}\n---\n\n# {markdown(data.title, 200)}\n\n{prose(data)}"
    ModelCard(text)  # refuses what is no card
    return text


def metadata(data: ReportData) -> str:
    """The `model-index` alone, as YAML; '' where no finding has a number."""
    return _fitting(data, 0) + "\n" if results(data) else ""


def _fitting(data: ReportData, others: int, **about: Any) -> str:
    """Metadata with as many results as fit `MOST_LINES`, less some other lines."""
    held = results(data)
    while True:
        known = ModelCardData(model_name=model_name(data), eval_results=held or None, **about)
        text = str(known.to_yaml())
        if len(held) < 2 or len(text.splitlines()) + others <= MOST_LINES:
            return text
        held = held[:-1]


def model_name(data: ReportData) -> str:
    """The run's name, as the metadata holds it."""
    return clip(data.title, 120) or "audited model"


def results(data: ReportData) -> list[EvalResult]:
    """At most `MAX_RESULTS`: what the answer's statements rest on, then other headlines."""
    by_id = {f.id: f for f in data.findings}
    leading = [by_id[s.findings[0]] for s in answer(data.findings) if s.apart and s.findings]
    ordered = {f.id: f for f in [*leading, *headlines(data.findings)] if is_measured(f)}
    measured = list(ordered.values())
    told = ", ".join(f"{k} {show(data.settings[k])}" for k in SETTINGS if k in data.settings)
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type="diffusion-audit",
            dataset_name=f"prompts of the audit {model_name(data)}",
            dataset_config=clip(told, 300) or None,
            dataset_revision=clip(data.provenance.get("spec", ""), 80) or None,
            metric_type=clip(f.metric.name.replace(" ", "-"), 80),
            metric_name=clip(topic(f), 300),
            metric_value=_rounded(f.value),
            metric_args=_arguments(f),
        )
        for f in measured[:MAX_RESULTS]
    ]


def _arguments(finding: Finding) -> JsonObject:
    """What a number means nothing without; what is not known is left out."""
    numbers = {
        "low": finding.low,
        "high": finding.high,
        "null": finding.reference.null,
        "p": finding.p,
    }
    held: JsonObject = {k: _rounded(v) for k, v in numbers.items() if isfinite(v)}
    known = {"n": finding.n} | held
    return known | ({"instrument": clip(finding.instrument, 80)} if finding.instrument else {})


def _rounded(value: float) -> float:
    """Six significant digits: p is often tiny, and never 0."""
    return float(f"{value:.6g}")


def prose(data: ReportData) -> str:
    """Bias, risks, limitations and testing, as Markdown."""
    return (
        "\n\n".join(
            [
                "## Bias, risks and limitations",
                "### Bias",
                *_bias(data),
                "### Risks",
                *_risks(data),
                "### Limitations",
                *_limitations(data),
                "## Testing",
                *_testing(data),
            ]
        )
        + "\n"
    )


def _bias(data: ReportData) -> list[str]:
    made = ""
    if {"planned", "made"} <= set(data.attrition.columns) and len(data.attrition):
        got, planned = (int(data.attrition[c].sum()) for c in ("made", "planned"))
        made = f" on {got:,} of {planned:,} planned images"
    first = (
        f"Measured by diffusion-audit{made}. Brackets hold 95 % intervals; n is the number of "
        "images; *without the effect* is what a model without it would score at this n."
    )
    chosen, answered = headlines(data.findings), answer(data.findings)[:MOST_ANSWERED]
    if not chosen:
        return [first, "No finding of this audit was marked as a headline."]
    decided = [f for f in chosen if verdict(f) in ("failed", "apart", "described")]
    undecided = [f for f in chosen if verdict(f) == "cannot tell"]
    told = [*decided, *undecided[:MAX_OPEN]][:MAX_TOLD]
    short = [f"- **{markdown(s.lead, 400)}** {markdown(s.details, 600)}" for s in answered]
    parts = [first, "\n".join(short), _tested(data)] if short else [first, _tested(data)]
    if told:
        parts.append(_table(told))
    if len(chosen) > len(told):
        parts.append(f"In the full report: {len(chosen) - len(told):,} more headline findings.")
    return parts


def _tested(data: ReportData) -> str:
    """The census of all tests of the report, undecided ones included."""
    counted = census(data.findings)
    told = ", ".join(f"{n:,} {label.lower()}" for label, n in counted.items())
    tests = sum(counted.values())
    failed = sum(f.status == "failed" for f in data.findings)
    parts = [f"{tests:,} tests: {told}." if tests else "Nothing was tested."]
    parts += [f"{failed:,} analyses failed."] if failed else []
    return " ".join(parts)


def _table(findings: list[Finding]) -> str:
    """The findings as a table, one row each."""
    rows = ["| what | value [95 %] | without the effect | n | p | said of | verdict |"]
    rows.append("|---|---:|---:|---:|---|---|---|")
    for f in findings:
        cells = [
            topic(f),
            value_text(f),
            amount(f, f.reference.null),
            f"{f.n:,}",
            p_text(f) or "–",
            scope(f),
            verdict_label(f),
        ]
        rows.append("| " + " | ".join(markdown(c, 300) for c in cells) + " |")
    return "\n".join(rows)


def _risks(data: ReportData) -> list[str]:
    apart = sum(verdict(f) == "apart" for f in headlines(data.findings))
    first = (
        f"Off their target, or different beyond chance: {apart} tests. Whoever uses "
        "the model with such prompts at these settings can expect leanings of this kind in what "
        "it draws."
        if apart
        else "No test could be told from its target or from chance. That is not "
        "evidence that there is no effect: a smaller one, or one that was not looked for, may be "
        "there."
    )
    lost = 0
    if {"planned", "made"} <= set(data.attrition.columns):
        lost = int((data.attrition["planned"] - data.attrition["made"]).sum())
    more = f" {lost:,} planned images are missing; they count as missing, never as zero."
    return [first + (more if lost else "")]


def _limitations(data: ReportData) -> list[str]:
    readers = list(dict.fromkeys(f.instrument for f in data.findings if f.instrument))
    named = ", ".join(markdown(r, 80) for r in readers[:6]) or "no instrument"
    unmeasured = sum(not is_measured(f) for f in data.findings)
    powered = any(f.reading == "prediction-powered" for f in headlines(data.findings))
    labels = (
        "Some shares lean on people's labels of a random part of these images."
        if powered
        else "No people's labels of these images were used, so what the instruments misread is "
        "in the numbers unless a finding says 'corrected'."
    )
    return [
        f"- Images were read by instruments ({named}). They read how a person is presented in "
        f"an image (such as perceived gender presentation); they cannot know who anyone is. "
        f"{labels}\n"
        "- Every number holds for this suite of prompts at these settings and for the weights "
        "below; other guidance, samplers, adapters or prompts can change every share.\n"
        "- Targets were declared beforehand. A target is a choice, not a fact about the world.\n"
        f"- Findings that failed or could not be measured: {unmeasured:,}; the full report gives "
        "each reason."
    ]


def _testing(data: ReportData) -> list[str]:
    rows = [
        f"- {markdown(key, 60)}: {markdown(show(data.settings[key]), 200)}"
        for key in (*SETTINGS, "batch size", "device", "dtype")
        if key in data.settings
    ]
    weights = [_weights(c) for c in audited_cards(data.audited)[:12]]
    spec = data.provenance.get("spec")
    repeat = f"Spec digest {markdown(spec, 80)}. " if spec else ""
    parts = ["\n".join(rows)] if rows else []
    if weights:
        parts.append("What was audited, by digest of its tensors:\n\n" + "\n".join(weights))
    parts.append(
        f"{repeat}Every image can be made again from its id (`audit show`). Numbers are shares, "
        f"distances or differences with n as stated; {number(len(data.findings))} findings in all."
    )
    return parts


def _weights(one: Card) -> str:
    digests = [f"{k} {v}" for k, v, mono in one.entries if mono and k not in ("source", "spec")]
    return f"- {markdown(one.kind, 40)} {markdown(one.name, 120)}: " + markdown(
        "; ".join(digests) or "no digest", 400
    )
