"""The images behind the findings: strips for the answer's first statements, a sheet a prompt.

Under every image of a strip stands what the instrument read it as. The images are those of the
first seeds, never those that show most, and beside them stand the same seeds of an arm that is
not off. A sheet has one prompt's images of every arm; headline findings link to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from harness.plan.cells import ARM, arm_labels
from probes.contracts import Figure, Finding
from reports.answer import answer
from reports.text import clip
from reports.verdicts import headlines, is_measured, verdict

MOST, COLUMNS = 3, 8
MOST_SHEETS, MOST_ARMS = 24, 12
Outcomes = Callable[[str, str], pd.Series]
"""Outcomes by cell of an attribute and an instrument."""


def strip_of(finding_id: str) -> str:
    """Id of the strip of a finding's images."""
    return f"strip/{finding_id}"


def sheet_of(prompt: str) -> str:
    """Id of the sheet of a prompt's images."""
    return f"sheet/{prompt}"


def behind(figures: Iterable[Figure], findings: Iterable[Finding]) -> dict[str, Figure]:
    """The strips and sheets among some figures, by id; other grids stand for themselves."""
    wanted = {strip_of(f.id) for f in findings}
    wanted |= {sheet_of(f.subject["prompt"]) for f in findings if "prompt" in f.subject}
    return {e.id: e for e in figures if e.id in wanted}


def sheets(findings: Sequence[Finding], plan: pd.DataFrame) -> list[Figure]:
    """A sheet for every prompt of the first headline findings.

    Args:
        findings: All findings, adjusted over the report.
        plan: The plan.
    """
    named = (f.subject["prompt"] for f in headlines(findings) if "prompt" in f.subject)
    plan = plan.assign(arm=arm_labels(plan)) if len(plan) else plan.assign(arm="")
    found = []
    for prompt in list(dict.fromkeys(named))[:MOST_SHEETS]:
        own = plan[plan["prompt"] == prompt].drop_duplicates(["arm", "seed"])
        arms = own["arm"].drop_duplicates().head(MOST_ARMS)
        seeds = own["seed"].drop_duplicates().head(COLUMNS)
        own = own[own["arm"].isin(arms) & own["seed"].isin(seeds)]
        if own.empty:
            continue
        columns = "seed " + own["seed"].astype(str)
        table = pd.DataFrame({"row": own["arm"], "column": columns, "cell": own["cell"]})
        caption = f"“{clip(prompt, 120)}”: the first {len(seeds)} seeds of {len(arms)} arms."
        alt = "A grid of images: a row an arm, a column a seed."
        about = {"prompt": prompt}
        table = table.reset_index(drop=True)
        found.append(Figure(sheet_of(prompt), "grid", table, caption, alt, subject=about))
    return found


def strips(findings: Sequence[Finding], plan: pd.DataFrame, outcomes: Outcomes) -> list[Figure]:
    """Strips for the first statements that rest on images.

    Args:
        findings: All findings, adjusted over the report.
        plan: The plan.
        outcomes: What each image was read as.
    """
    by_id = {f.id: f for f in findings}
    plan = plan.assign(arm=arm_labels(plan)) if len(plan) else plan.assign(arm="")
    found: list[Figure] = []
    for statement in answer(findings):
        if len(found) == MOST:
            break
        lead = by_id.get(statement.findings[0]) if statement.findings else None
        if lead is None or not statement.apart or not {"arm", "attribute"} <= lead.subject.keys():
            continue
        rows = _rows(lead, findings, plan)
        if rows.empty:
            continue
        read = outcomes(lead.subject["attribute"], lead.instrument)
        rows["caption"] = [str(o) if isinstance(o, str) else "" for o in rows["cell"].map(read)]
        found.append(_figure(lead, rows))
    return found


def _rows(lead: Finding, findings: Sequence[Finding], plan: pd.DataFrame) -> pd.DataFrame:
    """Cells of the strip: columns row (an arm), column (a seed or prompt) and cell."""
    arm = lead.subject["arm"]
    if "prompt" in lead.subject:
        beside = _not_off(lead, findings)
        chosen = plan[plan["prompt"] == lead.subject["prompt"]]
        arms = [arm, *([beside] if beside else [])]
        seeds = chosen.loc[chosen["arm"] == arm, "seed"].drop_duplicates().head(COLUMNS)
        chosen = chosen[chosen["seed"].isin(seeds)]
        column = "seed " + chosen["seed"].astype(str)
    elif "baseline" in lead.subject:
        arms = [lead.subject["baseline"], arm]
        shared = plan.loc[plan["arm"] == arm, "prompt"].drop_duplicates().head(COLUMNS)
        chosen = plan[plan["prompt"].isin(shared)]
        seed = chosen["seed"].iloc[0] if len(chosen) else 0
        chosen = chosen[chosen["seed"] == seed]
        column = chosen["prompt"].astype(str)
    else:
        return pd.DataFrame()
    chosen = chosen.assign(row=chosen["arm"], column=column)
    chosen = chosen[chosen["arm"].isin(arms)].drop_duplicates(["arm", "column"])
    place = {name: i for i, name in enumerate(arms)}
    chosen = chosen.sort_values("arm", key=lambda a: a.map(place), kind="stable")
    return chosen[["row", "column", "cell"]].reset_index(drop=True)


def _not_off(lead: Finding, findings: Sequence[Finding]) -> str:
    """The arm nearest its target on the same prompt, where it is not off; else ''."""
    same = ("prompt", "attribute")
    others = [
        f
        for f in findings
        if f.metric == lead.metric
        and f.instrument == lead.instrument
        and f.reading == lead.reading
        and all(f.subject.get(k) == lead.subject[k] for k in same)
        and _one_factor(f, lead)
        and is_measured(f)
        and verdict(f) != "apart"
    ]
    return min(others, key=lambda f: f.value).subject["arm"] if others else ""


def _one_factor(one: Finding, other: Finding) -> bool:
    """Whether two arms differ in a single factor, so that the images tell what it does."""
    return sum(one.subject.get(k) != other.subject.get(k) for k in ARM) == 1


def _figure(lead: Finding, rows: pd.DataFrame) -> Figure:
    shown = " and ".join(f"“{clip(r, 60)}”" for r in rows["row"].drop_duplicates())
    if "prompt" in lead.subject:
        prompt = clip(lead.subject["prompt"], 80)
        which = f"The first {rows['column'].nunique()} seeds of “{prompt}”"
    else:
        which = f"The first seed of the first {rows['column'].nunique()} prompts"
    caption = f"{which}, {shown}, and what {lead.instrument} read them as."
    return Figure(
        strip_of(lead.id),
        "grid",
        rows,
        caption,
        "A row of images an arm, each with what it was read as.",
        subject=dict(lead.subject),
    )
