"""A short summary with one image, for model sites that take Markdown or a little HTML."""

from __future__ import annotations

import io

import altair as alt
import pandas as pd

from probes.contracts import Finding
from reports import ReportData
from reports.answer import answer
from reports.card import SETTINGS
from reports.escaping import html, markdown
from reports.grids import read_grid, sheet
from reports.off_target import plural, worst
from reports.plots import INK, MUTED, STYLES, WIDE, bar, common_start, value_scale
from reports.sentences import attribute, sentence, topic
from reports.tables import show
from reports.text import clip
from reports.verdicts import census, headlines, is_measured, verdict_label

MAX_TOLD, MAX_DRAWN = 6, 12
PICTURE = "summary.png"
CAVEAT = (
    "This speaks of these prompts and settings only. An instrument reads how a person is presented "
    "in an image; it cannot know who anyone is."
)


def summary_markdown(data: ReportData, has_image: bool) -> str:
    """Markdown of a few lines."""
    parts = [f"### {markdown(data.title, 120)}: audit", markdown(_first(data), 600)]
    if has_image:
        parts.append(f"![{markdown(_alt(data), 300)}]({PICTURE})")
    lines = [f"- **{markdown(lead, 300)}.** {markdown(text, 500)}" for lead, text in _told(data)]
    return "\n\n".join([*parts, "\n".join(lines), CAVEAT]) + "\n"


def summary_html(data: ReportData, has_image: bool) -> str:
    """The same as HTML of the plainest tags, which sites that filter HTML let through."""
    parts = [f"<h3>{html(data.title, 120)}: audit</h3>", f"<p>{html(_first(data), 600)}</p>"]
    if has_image:
        parts.append(f'<p><img src="{PICTURE}" alt="{html(_alt(data), 300)}"></p>')
    lines = [
        f"<li><strong>{html(lead, 300)}.</strong> {html(text, 500)}</li>"
        for lead, text in _told(data)
    ]
    return "\n".join([*parts, "<ul>", *lines, "</ul>", f"<p>{CAVEAT}</p>"]) + "\n"


def summary_image(data: ReportData) -> bytes | None:
    """One PNG: the headline shares and distances with their intervals, else the first grid."""
    drawn = _drawable(data)
    if drawn:
        table = pd.DataFrame(drawn)
        chart = bar(table, {"": STYLES[0]}, value_scale(table), WIDE)
        chart = chart.configure_view(stroke=None).properties(
            background="white",
            padding={"left": 24, "right": 40, "top": 24, "bottom": 24},
            title=alt.TitleParams(
                text=clip(data.title, 80),
                subtitle=[s for s in (clip(table["same"][0], 120), _rule(table)) if s],
                anchor="start",
                color=INK,
                subtitleColor=MUTED,
                fontSize=20,
                subtitleFontSize=13,
                offset=16,
            ),
        )
        buffer = io.BytesIO()
        chart.save(buffer, format="png", scale_factor=1.5)
        return buffer.getvalue()
    for figure in data.figures:
        if figure.kind == "grid":
            return sheet(read_grid(figure.table), figure.caption, data.images)
    return None


def _drawable(data: ReportData) -> list[dict[str, object]]:
    """Rows of the chart: the worst prompts of the answer, else headlines that are shares.

    Of a mean share opposite stereotypes cancel: it never stands where single prompts are off.
    """
    cases = worst(data.findings, MAX_DRAWN)
    if cases:
        several = len({c.about for c in cases}) > 1
        start = common_start(c.prompt for c in cases)
        return [
            {
                "label": clip(
                    f"{c.arm}: {c.prompt.removeprefix(start).strip()}, {plural(c.name)}", 90
                ),
                "value": c.value,
                "low": c.low,
                "high": c.high,
                "group": "",
                "facet": "",
                "target": c.target,
                "same": f"The worst prompts {f'({start} …)' if start else ''}"
                + ("" if several else f": {c.about}"),
            }
            for c in cases
        ]
    measured = [
        f for f in headlines(data.findings) if is_measured(f) and f.low >= 0 and f.high <= 1
    ]
    for how in ("share", "distance"):
        chosen = [f for f in measured if f.metric.kind == how][:MAX_DRAWN]
        if chosen:
            break
    told = [_parts(f) for f in chosen]
    varying = [i for i in range(3) if len({t[i] for t in told}) > 1] or [0, 1, 2]
    return [
        {
            "label": clip(", ".join(t[i] for i in varying if t[i]) or topic(f), 90),
            "value": f.value,
            "low": f.low,
            "high": f.high,
            "group": "",
            "facet": "",
            "target": f.reference.value if how == "share" else f.reference.null,
            "same": ", ".join(t[i] for i in range(3) if i not in varying and t[i]),
        }
        for f, t in zip(chosen, told, strict=True)
    ]


def _parts(finding: Finding) -> tuple[str, str, str]:
    """Prompt, class and arm: of these a row is told by those that differ between rows."""
    subject = finding.subject
    arm = subject.get("arm", subject.get("checkpoint", ""))
    what = subject.get("class", "") or attribute(finding)
    return subject.get("prompt", "all prompts"), what, arm


def _rule(table: pd.DataFrame) -> str:
    return (
        "The mark is the target, or what chance alone would score."
        if (table["target"].notna().any())
        else ""
    )


def _first(data: ReportData) -> str:
    counted = census(data.findings)
    told = ", ".join(f"{n:,} {label.lower()}" for label, n in counted.items())
    settings = ", ".join(f"{k} {show(data.settings[k])}" for k in SETTINGS if k in data.settings)
    return (
        f"Measured by diffusion-audit ({settings}). Of {sum(counted.values()):,} tests: "
        f"{told or 'none'}. Brackets hold 95 % intervals."
    )


def _alt(data: ReportData) -> str:
    drawn = _drawable(data)
    if not drawn:
        return "Images of the audit, side by side."
    return f"{len(drawn)} shares as dots with 95 % intervals, beside their targets."


def _told(data: ReportData) -> list[tuple[str, str]]:
    """Lead and details of the answer's first statements; of a run without any, its headlines."""
    stated = answer(data.findings)[:MAX_TOLD]
    if stated:
        return [(s.lead, s.details) for s in stated]
    measured = [f for f in headlines(data.findings) if is_measured(f) or f.status == "failed"]
    return [(verdict_label(f), sentence(f)) for f in measured[:MAX_TOLD]]
