"""From a finding to its images: a link, and every seed of a prompt with what it was read as."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboard import components, galleries
from dashboard.escaping import count, plain
from dashboard.outcomes import Reading, readings, told
from dashboard.queries import RunView
from harness.json_types import JsonObject
from probes.contracts import Finding

MOST = 96
"""Images of one arm."""
ORDERS = {"seed": "p.place", "doubt first": "t.certainty NULLS FIRST, p.place"}


def link(run: RunView, finding: Finding) -> None:
    """A link to the images that a finding is about."""
    query = where_of(run, finding)
    if query:
        st.page_link(
            "app_pages/images.py",
            label="Images",
            icon=":material/grid_view:",
            query_params=kept() | query,
        )


def where_of(run: RunView, finding: Finding) -> JsonObject:
    """The images page's choices for a finding: its prompt, its arms, its reading."""
    subject = finding.subject
    query: JsonObject = {}
    arms = [subject[k] for k in ("arm", "baseline") if subject.get(k) in run.arms]
    levels = run.sql(
        "SELECT DISTINCT checkpoint, vae FROM plan WHERE list_contains(?, arm)", [arms]
    )
    for factor in ("checkpoint", "vae"):
        if len(levels) and len(run.levels[factor]) > 1:
            query[factor] = sorted(set(levels[factor].astype(str)))
        elif subject.get(factor) in run.levels[factor]:
            query[factor] = [subject[factor]]
    if subject.get("prompt") in run.levels["prompt"]:
        query["prompt"] = [subject["prompt"]]
        query["seeds"] = "true"
    if not query and finding.status != "failed":
        return {}
    for reading in readings(run):
        if reading.instrument == finding.instrument:
            query["reading"] = label_of(reading)
    return query


def label_of(reading: Reading) -> str:
    """A reading as the choice names it, and the address."""
    return f"{reading.title} ({reading.instrument})"


def kept() -> JsonObject:
    """What of the address holds on every page: the run."""
    run = st.query_params.get("run")
    return {"run": run} if run else {}


def every_seed(run: RunView, chosen: dict[str, list[object]], width: int) -> None:
    """All images of the chosen prompt, arm by arm: filtered by outcome, sorted by doubt."""
    known = {label_of(r): r for r in readings(run)}
    reading: Reading | None = None
    order = "seed"
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        if known:
            name = st.selectbox(
                "Read as",
                list(known),
                key="reading",
                bind="query-params",
                width=460,
            )
            reading = known[name]
            order = (
                st.segmented_control(
                    "In order of", list(ORDERS), default="seed", key="order", bind="query-params"
                )
                or "seed"
            )
    rows = read(run, chosen, reading, order)
    if reading is not None:
        seen = sorted({o for o in rows["outcome"] if isinstance(o, str)})
        wanted = st.pills("Only", seen, selection_mode="multi", key="outcome", wrap=True)
        if wanted:
            rows = rows[rows["outcome"].isin(wanted)]
    if rows.empty:
        components.empty("No image passes these filters", "Take one of them away.")
    for number, (arm, part) in enumerate(rows.groupby("arm", sort=False)):
        with st.container(border=True):
            st.markdown(f"**{plain(arm, 160)}** · {count(len(part), 'image')}")
            first = part.head(MOST)
            captions = [
                " · ".join(filter(None, [o if isinstance(o, str) else "", f"seed {s}"]))
                for o, s in zip(first["outcome"], first["seed"], strict=True)
            ]
            galleries.gallery(run, list(first["cell"]), captions, f"seeds {number}", width)
            if len(part) > MOST:
                st.caption(f"The first {MOST}.")


def read(
    run: RunView, chosen: dict[str, list[object]], reading: Reading | None, order: str
) -> pd.DataFrame:
    """The chosen rows of the plan with outcome and certainty (None where nothing was read)."""
    where, values = run.where(chosen)
    if reading is None:
        return run.cells(chosen, 100_000).assign(outcome=None, certainty=None)
    return run.sql(
        f"""SELECT p.*, t.outcome, t.certainty FROM plan p
            LEFT JOIN {told(run, reading)} t USING (cell) {where} ORDER BY {ORDERS[order]}""",
        values,
    )
