"""Attention: where in the picture each word of a prompt was looked at, and when."""

import streamlit as st

from dashboard import parts
from dashboard.words import plain
from reports.grids import file_name, read_grid

run = parts.view()
parts.headline(
    "Attention",
    "Cross-attention of the denoiser: where each word went, and at which steps. Attention shows "
    "what was looked at, not what caused the picture.",
)
mine = [
    e
    for e in run.exhibits
    if e.kind in ("heat-over-image", "strip") or e.id.startswith("attention")
]
if not mine:
    parts.empty(
        "This run followed no attention",
        "Add a probe that taps it to `probes:` in the spec (such as `attention`) and run it "
        "again. Pictures are the same, bit for bit, with and without the tap.",
    )
    st.stop()
for i, exhibit in enumerate(mine):
    if exhibit.kind not in parts.PICTURES or not {"row", "column", "cell"} <= set(exhibit.table):
        parts.exhibit(run, exhibit, f"attention {i}")
        continue
    held = read_grid(exhibit.table)
    row = st.selectbox("Picture", held.rows, key=f"row_{i}", bind="query-params")
    part = exhibit.table[exhibit.table["row"].astype(str) == row]
    drawable = run.images(part["cell"].astype(str))
    if part["cell"].astype(str).isin(list(drawable)).all():
        parts.exhibit(run, exhibit._replace(table=part), f"attention {i} {row}")
        continue
    # Maps are laid over their pictures by the report; here its sheet is shown as it is.
    sheet = run.files.top.get(f"report/grids/{file_name(exhibit.id)}")
    st.markdown(f"**{plain(exhibit.caption)}**")
    if sheet is None:
        st.caption(f"The sheet is missing: `audit report {run.folder.name}` draws it.")
    else:
        st.image(sheet.read_bytes(), width="stretch", alt=exhibit.alt)
    parts.csv_button(exhibit.table, exhibit.id.replace("/", "-"), f"attention {i}")
