"""Overview: what was audited, what may be claimed of it, and what is missing."""

import pandas as pd
import streamlit as st

from dashboard import charts, components, evidence, figures
from dashboard.escaping import count, plain
from dashboard.findings import LABELS, chosen, frame, tally
from reports.answer import answer
from reports.headline import headline
from reports.overview import HEX, audited_cards

PER_PAGE = 10

run = components.view()
made = run.made()
title = str(run.report.get("title", run.folder.name))
there, planned = int(made["made"].sum()), int(made["planned"].sum())
levels = run.levels
components.headline(
    plain(title, 120),
    " · ".join(
        [
            count(len(levels["checkpoint"]), "checkpoint"),
            count(len(levels["vae"]), "VAE"),
            count(len(levels["prompt"]), "prompt"),
            f"{there:,} of {planned:,} images made",
        ]
    ),
)

if there < planned and not run.files.failures:
    st.info(
        f"**{planned - there:,} images are not made yet.** The run is still being written, or "
        "was stopped; the same `audit run` command goes on. 'Read again' shows what is new."
    )
if run.files.failures:
    worst = made.loc[made["missing"].idxmax(), "reason"]
    failed = count(len(run.files.failures), "unit")
    st.warning(f"**{failed} failed**; the commonest reason: {plain(worst, 200)}")
if run.files.links:
    links = plain(", ".join(run.files.links[:3]), 200)
    more = " and more" if len(run.files.links) > 3 else ""
    st.warning(f"**Links are not followed**, since they could lead out of the run: {links}{more}")
if run.spec_problem:
    st.warning(
        f"**spec.yaml is not read**: {plain(run.spec_problem)}. It may be of another version; "
        "scores cannot be counted anew."
    )

findings = frame(run)
if not run.report:
    components.empty(
        "No findings yet",
        "They are written once all images are measured. For those that are there now: "
        f"`audit report {run.folder.name}`",
    )
else:
    st.subheader("In short", anchor=False)
    by_id = {f.id: f for f in run.findings}
    for statement in answer(run.findings):
        mark = ":material/error:" if statement.apart else ":material/horizontal_rule:"
        details = f"  \n{plain(statement.details, 700)}" if statement.details else ""
        with st.container(gap="xxsmall"):
            st.markdown(f"{mark} **{plain(statement.lead, 400)}**{details}")
            if statement.apart and statement.findings[0] in by_id:
                evidence.link(run, by_id[statement.findings[0]])
    st.subheader("All tests", anchor=False)
    counts = tally(findings[findings["headline"]])
    with st.container(horizontal=True, gap="medium"):
        for verdict, n in counts.items():
            st.metric(LABELS[verdict], f"{n:,}", width=150)
    st.caption(
        "of the headline findings. A test whose interval holds what it is tested against, or whose "
        "adjusted p is above 0.05, reads 'We cannot tell': never a pass. What is no test is "
        "measured and has no verdict."
    )
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        verdicts = st.pills(
            "Verdict",
            list(LABELS),
            selection_mode="multi",
            format_func=lambda v: LABELS[v],
            key="verdict",
            bind="query-params",
            wrap=True,
        )
        all_of = st.toggle("Not only headlines", key="all", bind="query-params")
    with st.grid(columns=4, min_column_width=150):
        pick = {
            name: st.multiselect(
                words, sorted(set(findings[name]) - {""}), key=f"of_{name}", bind="query-params"
            )
            for name, words in (("probe", "Probe"), ("attribute", "Attribute"), ("arm", "Arm"))
        }
        search = st.text_input(
            "Search", key="search", placeholder="a prompt, a metric …", bind="query-params"
        )
    rows = chosen(findings, pick | {"verdict": verdicts}, search, not all_of)
    page = components.page_of(len(rows), PER_PAGE, "page")
    if rows.empty:
        components.empty("No finding passes these filters", "Take one of them away.")
    st.caption(
        "The lines are scales from 0 to 100 %: value, 95 % interval and, as a tick, the target "
        "or, for a distance, what chance alone reaches in 95 % of runs."
    )
    dark = components.dark()
    for place in rows.index[page]:
        finding = run.findings[place]
        told = headline(finding)
        apart = told.verdict == "apart"
        svg, alt = charts.meter_svg(finding, apart, dark)
        with st.container(border=True):
            words, picture = st.columns([4, 1], gap="medium", vertical_alignment="center")
            with words.container(gap="xxsmall"):
                st.badge(told.label, color="primary" if apart else "gray")
                st.markdown(plain(told.sentence))
                st.caption(plain(told.small))
                evidence.link(run, finding)
            if svg:
                picture.image(svg, width=200, alt=alt)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{count(len(rows), 'finding')}")
        figures.csv_button(rows, "findings", "findings")

st.subheader("What is there, and what is missing", anchor=False)
table = made.rename(columns={"arm": "arm (what is compared)"})
st.dataframe(table, hide_index=True, alt="Images planned, made and missing of every arm")
figures.csv_button(table, "made", "made")

cards = audited_cards(run.report.get("audited", []))
if cards:
    st.subheader("What was audited", anchor=False)
    told_cards = [
        {"name": c.name, "kind": c.kind}
        | {k: f"{v[:12]}…" if HEX.fullmatch(v) else v for k, v, _ in c.entries}
        for c in cards
    ]
    audited = pd.DataFrame(told_cards).fillna("")
    st.dataframe(audited, hide_index=True, alt="Checkpoints and VAEs with digests")
    st.caption("Digests are cut; report/report.json has them whole.")
