"""Attributes: shares against targets, who is counted together, and where classifiers doubt."""

import streamlit as st

from dashboard import charts, components, figures, galleries, outcomes
from dashboard.escaping import plain
from probes.contracts import Figure

MOST, MOST_PAGES = 24, 20

run = components.view()
components.headline(
    "Attributes",
    "What classifiers read in the images. Classes are declared and read from appearance: they "
    "say how an image looks to an instrument, not who a person is.",
)
readings = outcomes.readings(run)
if not readings:
    components.empty(
        "No attribute was measured in this run",
        "Name some under `attributes:` in the spec, with a classifier, and run it again: images "
        "that are there are measured, not made anew."
        + (f" (spec.yaml: {plain(run.spec_problem)})" if run.spec_problem else ""),
    )
    st.stop()

names = {f"{r.instrument}/{r.attribute.name}": r for r in readings}
label = st.selectbox(
    "Attribute and instrument",
    list(names),
    format_func=lambda n: f"{names[n].title}, by {names[n].instrument}",
    key="reading",
    bind="query-params",
)
reading = names[label]
if reading.attribute.note:
    st.caption(plain(reading.attribute.note))
chosen = components.filters(run, ("checkpoint", "vae", "prompt"))

st.subheader("Shares of the images you chose", anchor=False)
table = outcomes.shares(run, reading, chosen)
two = len(reading.attribute.class_names) == 2
shown = table[table["label"] == reading.attribute.class_names[1]] if two else table
shown = shown.assign(facet="told " + shown["label"], label=shown["group"])
one = Figure("shares", "bar", shown, "", "")
made = charts.facets(one, components.known(run), components.dark())
if made is None or table["value"].isna().all():
    components.empty(
        "No image was told a class", "Choose other prompts, or see what they were below."
    )
else:
    figures.draw(made, "shares", "dots with 95 % intervals, one for each arm", True)
    st.caption(
        "Prompts weigh alike and are taken as fixed; 95 % intervals. Of images that were told a "
        "class; those that were not are counted in the table below."
    )
figures.csv_button(table, "shares", "shares")
lost = outcomes.not_told(run, reading, chosen)
st.dataframe(
    lost, hide_index=True, alt="Images of every arm that were told no class, by what they were"
)

st.subheader("Where the classifier doubts", anchor=False)
if reading.classifier is None:
    st.caption("Colorimetry has no probability to doubt with.")
else:
    st.caption(
        "The least certain first: below "
        f"{100 * reading.classifier.cannot_tell_below:.0f} % it is counted as 'cannot tell'. "
        "To know how often it errs, label some: the page Label."
    )
    pages = min(MOST_PAGES, -(-int(lost["images"].sum()) // MOST))
    page = st.pagination(pages, key="doubt", bind="query-params") if pages > 1 else 1
    doubts = outcomes.uncertain(run, reading, chosen, MOST, (page - 1) * MOST)
    if doubts.empty:
        st.caption("No more images.")
    galleries.gallery(
        run,
        list(doubts["cell"]),
        [f"{row.outcome} {100 * row.certainty:.0f} %" for row in doubts.itertuples()],
        "doubts",
        104,
    )
    figures.csv_button(doubts, "doubts", "doubts")

peers = [r for r in readings if r.attribute.name == reading.attribute.name and r != reading]
if peers:
    st.subheader("Where classifiers disagree", anchor=False)
    other = st.selectbox(
        "With", peers, format_func=lambda r: r.instrument, key="peer of " + reading.instrument
    )
    apart = outcomes.disagreeing(run, reading, other, MOST)
    if apart.empty:
        st.caption("They tell every image alike.")
    captions = [f"{r.outcome} or {r.other}" for r in apart.itertuples()]
    galleries.gallery(run, list(apart["cell"]), captions, "apart", 104)
    figures.csv_button(apart, "disagreement", "apart")

mine = [
    e
    for e in run.figures
    if e.kind != "grid"
    and (
        e.subject.get("instrument") == reading.instrument
        or reading.attribute.name in (e.subject.get("attribute"), e.subject.get("by"))
        or (e.probe == "attributes" and not e.subject)
    )
]
if mine:
    st.subheader("The report's figures", anchor=False)
    figures.figures(run, mine)
