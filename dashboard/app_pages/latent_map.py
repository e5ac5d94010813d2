"""Latent map: similar images lie together; draw a region to see its images."""

import pandas as pd
import streamlit as st

from dashboard import charts, components, figures, galleries, outcomes, projections
from dashboard.escaping import plain
from reports.text import clip

MOST = 36

run = components.view()
components.headline(
    "Latent map",
    "A point is an image; neighbours are alike to what made the map. Draw a region with the "
    "mouse to see its images.",
)
sources = {f"{s.kind} {s.name} {s.facet}".strip(): s for s in projections.sources(run)}
if not sources:
    components.empty(
        "This run holds nothing to make a map of",
        "A map needs stored latents, a classifier's embeddings or a probe's own map: name a "
        "classifier under `classifiers:` in the spec and run it again.",
    )
    st.stop()
with st.grid(columns=2, min_column_width=240):
    chosen = st.selectbox(
        "Map",
        list(sources),
        format_func=lambda n: clip(sources[n].title, 110),
        key="map",
        bind="query-params",
    )
    readings = {f"{r.title}, by {r.instrument}": r for r in outcomes.readings(run)}
    ways = [n for n in ("checkpoint", "vae", "prompt") if len(run.levels[n]) > 1]
    colour = st.selectbox(
        "Colour", [*readings, *ways] or ["checkpoint"], key="colour", bind="query-params"
    )


@st.cache_resource(show_spinner="Laying out the map …", max_entries=4)
def laid_out(folder: str, opened: int, name: str) -> projections.Map:
    """One map; `opened` tells a run that was read again from its last self."""
    return projections.lay_out(run, sources[name])


laid = laid_out(str(run.folder), run.opened, chosen)
if laid.points.empty:
    components.empty("No map", laid.note)
    st.stop()
rows = run.sql("SELECT cell, arm, checkpoint, vae, prompt, seed FROM plan")
points = laid.points[["cell", "x", "y"]].merge(rows, on="cell")
if colour in readings:
    told = run.sql(f"SELECT cell, outcome FROM {outcomes.told(run, readings[colour])}")
    points = points.merge(told, on="cell", how="left")
    points["group"] = points["outcome"].fillna("no image")
else:
    points["group"] = points[colour].astype(str)

asked = st.query_params.get("region", "")
try:
    numbers = tuple(float(x) for x in asked.split("_"))
except ValueError:
    numbers = ()
region = (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None
# The chart keeps the region that it was opened with: a new one would draw it anew under the hand.
start = st.session_state.setdefault(f"region of {chosen}", region)
event = st.vega_lite_chart(
    spec=charts.scatter(points, components.dark(), start),
    width="stretch",
    theme=None,
    key=f"map {chosen}",
    on_select="rerun",
    selection_mode="region",
    alt=f"{len(points):,} points, one an image, coloured by {colour}",
)
held = event["selection"].get("region", {})
if held.get("x") and held.get("y"):
    region = (*sorted(held["x"]), *sorted(held["y"]))
    st.query_params["region"] = "_".join(f"{x:.4g}" for x in region)
elif st.session_state.get(f"drawn {chosen}"):
    region = None
    st.query_params.pop("region", None)
st.session_state[f"drawn {chosen}"] = bool(held)
st.caption(f"{len(points):,} of {run.planned:,} planned images. {plain(laid.note)}")

if region:
    inside = points[points["x"].between(*region[:2]) & points["y"].between(*region[2:])]
    st.subheader(f"{components.images_word(len(inside))} in the region", anchor=False)
    counts = inside["group"].value_counts()
    whole = points["group"].value_counts(normalize=True)
    table = pd.DataFrame(
        {
            colour: counts.index,
            "images": counts.to_numpy(),
            "share here": (counts / max(1, len(inside))).to_numpy(),
            "share of the map": whole.reindex(counts.index).to_numpy(),
        }
    )
    percent = st.column_config.NumberColumn(format="percent")
    st.dataframe(
        table,
        hide_index=True,
        column_config={"share here": percent, "share of the map": percent},
        alt="What the region's images are, beside the whole map",
    )
    first = inside.head(MOST)
    captions = [plain(text, 30) for text in first["arm"] + " · " + first["group"]]
    galleries.gallery(run, list(first["cell"]), captions, "region", 104)
    if len(inside) > MOST:
        st.caption(f"The first {MOST} of them.")
    figures.csv_button(inside.drop(columns="group"), "region", "region")
else:
    st.caption("No region is drawn.")
figures.csv_button(points, "map", "map")
