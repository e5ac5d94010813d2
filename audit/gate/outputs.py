"""The verdict for readers: lines for a terminal, JUnit, Markdown."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from harness.json_types import JsonObject
from harness.terminal import plain

if TYPE_CHECKING:
    pass

ILLEGAL_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

NUMBERS = ("baseline", "candidate", "value", "low", "high", "worse_high", "p_adjusted", "margin")


def lines(record: JsonObject) -> list[str]:
    """The verdict for a terminal: one line a metric, then the verdict."""
    said = [f"{m['verdict']:<12} {m['id']}: {_sentence(m)}" for m in record["metrics"]]
    return [*said, *record["notes"], *_cells(record), *_rate(record), _head(record)]


def junit(record: JsonObject) -> bytes:
    """The verdict as JUnit XML: one test case a metric."""
    cases = record["metrics"] or [
        {"id": "gate", "verdict": record["verdict"], "note": record["message"]}
    ]
    counts = [c["verdict"] for c in cases]
    suite = ET.Element(
        "testsuite",
        name="audit gate",
        tests=str(len(cases)),
        failures=str(counts.count("FAIL")),
        errors=str(counts.count("ERROR")),
        skipped=str(counts.count("INCONCLUSIVE")),
    )
    elements = {"FAIL": "failure", "ERROR": "error", "INCONCLUSIVE": "skipped"}
    for case in cases:
        node = ET.SubElement(suite, "testcase", classname="audit.gate", name=_legal(case["id"]))
        if case["verdict"] in elements:
            text = _sentence(case) if "margin" in case else case["note"]
            ET.SubElement(node, elements[case["verdict"]], message=_legal(text))
    told: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return told


def markdown(record: JsonObject) -> str:
    """The verdict as Markdown: a heading, a table of the metrics, what was lost, false fails."""
    page = [f"## audit gate: {_escaped(_head(record))}", ""]
    if record["metrics"]:
        page += [
            "| verdict | metric | baseline | candidate | difference, 95 % | worse by at most | "
            "margin | p of 'within the margin', adjusted | needs |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for m in record["metrics"]:
            number = {k: _number(m[k]) for k in NUMBERS}
            page.append(
                f"| {m['verdict']} | {_escaped(m['id'])} | {number['baseline']} | "
                f"{number['candidate']} | {_difference(number)} | {number['worse_high']} | "
                f"{number['margin']} | {number['p_adjusted']} | "
                f"{_escaped(' · '.join(t for t in (m['needs'], m['note']) if t))} |"
            )
        page.append("")
    page += [f"- {_escaped(t)}" for t in [*_cells(record), *_rate(record), *record["notes"]]]
    return "\n".join(page) + "\n\n"


def _head(record: JsonObject) -> str:
    of = f", for {record['estimand']}" if record["metrics"] else ""
    return f"{record['verdict']}{of}: {record['message']}"


def _sentence(metric: JsonObject) -> str:
    n = {k: _number(metric[k]) for k in NUMBERS}
    most = "" if metric["worse_high"] is None else f"worse by at most {n['worse_high']}, "
    text = (
        f"{n['baseline']} -> {n['candidate']}, difference {_difference(n)}, worse is: "
        f"{metric['bad']}, {most}margin {n['margin']}, p of 'within the margin' "
        f"{n['p_adjusted']} (adjusted), {metric['pairs']} pairs of {metric['prompts']} prompts"
    )
    needs = f"needs {metric['needs']}" if metric["needs"] else ""
    return "; ".join(t for t in (text, needs, metric["note"]) if t)


def _cells(record: JsonObject) -> list[str]:
    if "cells" not in record:
        return []
    c = record["cells"]
    return [
        f"cells: {c['made_by_both']} paired of {c['planned_by_both']} planned by both; baseline "
        f"lacks {c['baseline_lacks']}, candidate lacks {c['candidate_lacks']}; planned by the "
        f"baseline {c['baseline_planned']}, by the candidate {c['candidate_planned']}"
    ]


def _rate(record: JsonObject) -> list[str]:
    if not record["metrics"]:
        return []
    told = [
        "cannot be told" if rate is None else f"{rate:.1%}"
        for rate in (record["false_fail_rate"], record["false_fail_rate_at_margin"])
    ]
    draws = f"{record['false_fail_draws']:,}"
    return [
        f"false FAIL at the margin: with the arms swapped at random and shifted onto the margins, "
        f"this very data fails in {told[1]} of {draws} draws",
        f"A/A: with the arms swapped at random, this very data fails in {told[0]} of {draws} draws",
    ]


def _difference(number: dict[str, str]) -> str:
    """A difference with its interval, where it has one; `number` holds formatted numbers."""
    bounds = "" if number["low"] == "–" else f" [{number['low']}, {number['high']}]"
    return number["value"] + bounds


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _escaped(text: str) -> str:
    return (
        html.escape(plain(" ".join(text.split())), quote=False)
        .replace("|", "\\|")
        .replace("`", "'")
    )


def _legal(text: str) -> str:
    return ILLEGAL_IN_XML.sub("�", plain(text, keep="\n\t"))
