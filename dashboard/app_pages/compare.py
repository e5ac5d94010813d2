"""Compare: runs beside each other, rankings, and what the gate says."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import charts, components, figures
from dashboard.escaping import plain
from dashboard.findings import across
from dashboard.gates import MARKS, metric_rows, read_gate
from dashboard.paired_runs import paired
from dashboard.run_index import RunError
from probes.contracts import Figure

run = components.view()
components.headline(
    "Compare",
    "Arms of one run share their noise and are compared in pairs. Runs stand side by side: "
    "intervals that overlap settle nothing.",
)
names = components.folders()
runs = {}
for name, folder in names.items():
    try:
        runs[name] = components.open_view(folder)
    except RunError as error:
        st.warning(plain(error))
if len(runs) > 1:
    st.subheader("Runs side by side", anchor=False)
    metrics = [
        m
        for m in dict.fromkeys(
            f.metric.name for r in runs.values() for f in r.findings if f.headline
        )
        if not across(runs, m).empty
    ]
    if metrics:
        metric = st.selectbox("Metric", metrics, key="metric", bind="query-params")
        table = across(runs, metric)
        made = charts.facets(Figure("runs", "bar", table, "", ""), list(runs), components.dark())
        if made:
            figures.draw(made, "runs", f"{metric}: dots with intervals, one for each run", False)
        with st.expander("Table"):
            st.dataframe(table, hide_index=True, alt=f"{metric} of every run")
        figures.csv_button(table, "runs", "runs")
    else:
        components.empty("No headline findings to compare", "The runs have no report yet.")
else:
    components.empty(
        "One run is open",
        "Name several to compare them: `audit dashboard RUN ANOTHER`.",
    )

if len(runs) > 1:
    st.subheader("The same arm, image by image", anchor=False)
    with st.container(horizontal=True):
        first = st.selectbox("From", list(runs), key="from", bind="query-params", width=260)
        rest = [n for n in runs if n != first]
        second = st.selectbox("To", rest, key="to", bind="query-params", width=260)
    changes = paired(runs[str(first)], runs[str(second)])
    if changes.empty:
        components.empty(
            "These two runs share no image",
            "Pairs are images of one arm, prompt, noise and setting in both runs, such as those of "
            "a checkpoint before and after.",
        )
    else:
        drawn = Figure("paired", "bar", changes, "", "")
        made = charts.facets(drawn, list(runs), components.dark())
        if made:
            figures.draw(made, "paired", "change of a share by arm, with its interval", False)
        st.caption(
            f"Shares of {plain(second)} minus those of {plain(first)}, with 95 % intervals for "
            "these prompts, over pairs of one prompt, noise and setting. None of them is tested: "
            "‘audit gate’ decides."
        )
        figures.csv_button(changes, "paired", "paired")

rankings = [(name, e) for name, r in runs.items() for e in r.figures if e.ranking]
if rankings:
    st.subheader("Ranking", anchor=False)
    for figure in {e.id: e for _, e in rankings}.values():
        tables = [
            e.table.assign(facet=name if len(runs) > 1 else "")
            for name, e in rankings
            if e.id == figure.id
        ]
        merged = pd.concat(tables).sort_values("value", ignore_index=True)
        figures.figure(run, replace(figure, table=merged), "ranking")

st.subheader("The gate", anchor=False)
gates = {}
for name, r in runs.items():
    for file in ("gate/gate.json", "gate.json"):
        if file in r.files.top:
            gates[f"{name}/{file}"] = r.files.top[file]
gates |= {file: Path(file) for file in components.given()["gates"]}
if not gates:
    other = next((n for n in runs if n != run.folder.name), "CANDIDATE")
    components.empty(
        "No gate was asked",
        f"`audit gate {run.folder.name} {other} --out {run.folder.name}/gate` says whether a "
        "candidate may ship after its baseline; it is then shown here. For a gate elsewhere: "
        "`audit dashboard RUN --gate FILE`.",
    )
else:
    chosen = st.selectbox("Gate", list(gates), key="gate", bind="query-params")
    try:
        record = read_gate(gates[chosen])
    except (OSError, ValueError) as error:
        st.warning(f"{plain(chosen)}: cannot be read ({plain(error)})")
        st.stop()
    verdict = str(record.get("verdict", "ERROR"))
    colour, icon = MARKS.get(verdict, MARKS["ERROR"])
    st.badge(verdict, color=colour, icon=icon)
    st.markdown(plain(record.get("message", "")))
    rows = metric_rows(record)
    if len(rows):
        ids = rows["label"].str.rpartition("/")  # metric/instrument/class
        shown = rows.assign(facet=ids[0], label=ids[2])
        made = charts.facets(Figure("gate", "bar", shown, "", ""), (), components.dark())
        if made:
            st.markdown("**Candidate minus baseline, with 95 % intervals**")
            figures.draw(made, "gate", "differences with intervals", False)
        st.dataframe(rows.drop(columns="group"), hide_index=True, alt="The gate's metrics")
        figures.csv_button(rows, "gate", "gate")
    for note in record.get("notes", []):
        st.caption(plain(note))
    st.download_button(
        "gate.json",
        json.dumps(record, indent=2),
        "gate.json",
        "application/json",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )
