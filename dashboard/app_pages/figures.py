"""All figures: every figure of every probe, drawn by its kind alone."""

import streamlit as st

from dashboard import components, figures
from reports.text import clip

run = components.view()
components.headline("All figures", "Every figure of every probe in this run, with its data.")
if not run.figures:
    components.empty(
        "No figures yet",
        f"They are written with the findings: `audit report {run.folder.name}`.",
    )
    st.stop()
shown = {e.id: e for e in run.figures}
with st.grid(columns=2, min_column_width=240):
    probe = st.selectbox(
        "Probe",
        ["all", *dict.fromkeys(e.probe for e in shown.values())],
        key="group",
        bind="query-params",
    )
    listed = [name for name in shown if probe in ("all", shown[name].probe)]
    chosen = st.selectbox(
        "Figure",
        listed,
        format_func=lambda name: clip(f"{name}: {shown[name].caption}", 110),
        key="figure",
        bind="query-params",
    )
if chosen:
    figures.figure(run, shown[chosen])
