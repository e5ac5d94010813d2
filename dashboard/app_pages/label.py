"""Label: one picture at a time, by keyboard, blind to prompt and classifier."""

import streamlit as st

from audit.attributes import OUTCOMES
from audit.labels import labelling
from dashboard import figures, galleries, parts
from dashboard.words import plain

KEYS = {"nobody": "N", "several": "S", "cannot tell": "X"}
SHOWN = 320

run = parts.view()
parts.headline(
    "Label",
    "What do you see? Neither the prompt nor what a classifier said is shown. A few hundred labels "
    "turn counts into shares that can be defended.",
)
attributes = {a.name: a for a in run.spec.attributes} if run.spec else {}
if not attributes:
    parts.empty(
        "This run declares no attribute to label",
        "Name some under `attributes:` in the spec and run it again."
        + (f" (spec.yaml: {plain(run.spec_problem)})" if run.spec_problem else ""),
    )
    st.stop()
if "labels" in run.files.links:
    parts.empty(
        "Labels cannot be kept", "`labels` in the run folder is a link, and links are not followed."
    )
    st.stop()

with st.grid(columns=3, min_column_width=200):
    name = st.selectbox(
        "Attribute",
        list(attributes),
        format_func=lambda n: attributes[n].title or n,
        key="label_attribute",
        bind="query-params",
    )
    labeller = st.text_input(
        "Your name", key="labeller", bind="query-params", max_chars=60, placeholder="such as ann"
    ).strip()
    wanted = st.number_input(
        "Pictures to draw",
        20,
        5000,
        200,
        20,
        key="draw",
        bind="query-params",
        help="The sample is drawn once for all who label and kept in the run.",
    )
if not labeller:
    parts.empty(
        "Say who you are",
        "Labels of several people are kept apart, so that their agreement can be told. Any short "
        "name will do; it is written into the run folder.",
    )
    st.stop()

attribute = attributes[name]
mine = f"queue {run.folder} {name} {labeller}"
if mine not in st.session_state:
    with st.spinner("Drawing the sample …"):
        try:
            size = len(labelling.sample(run.folder, name, int(wanted), 0))
            st.session_state[mine] = labelling.queue(run.folder, name, labeller)
        except (OSError, ValueError) as error:
            st.error(f"The sample cannot be drawn: {plain(error)}")
            st.stop()
    st.session_state[f"size {mine}"] = size
    st.session_state[f"now {mine}"] = 0
queue: list[str] = st.session_state[mine]
size = st.session_state[f"size {mine}"]


def keep(cell: str, outcome: str) -> None:
    """Write one label; the next picture follows only if that succeeded."""
    try:
        labelling.add(run.folder, name, cell, labeller, outcome)
    except (OSError, ValueError) as error:
        st.session_state["label problem"] = f"Not kept: {error}"
        return
    st.session_state.pop("label problem", None)
    st.session_state[f"now {mine}"] += 1
    queue.remove(cell)


problem = st.session_state.get("label problem")
if problem:
    st.error(plain(problem))
done = size - len(queue)
st.progress(done / max(1, size), text=f"{done:,} of {size:,} labelled by {plain(labeller, 40)}")
if not queue:
    parts.empty(
        "All of the sample is labelled",
        f"`audit report {run.folder.name}` writes the report again with your labels in it.",
    )
else:
    cell = queue[0]
    picture, choices = st.columns([1, 1.2], gap="large")
    with picture:
        galleries.frame(run.picture(cell), SHOWN, "the picture to label")
    with choices:
        st.markdown(f"**{plain(attribute.title or name)}**")
        classes = list(attribute.class_names)
        for i, outcome in enumerate([*classes, *OUTCOMES]):
            digit = str((i + 1) % 10) if i < 10 else None
            st.button(
                plain(outcome),
                key=f"label {i}",
                shortcut=KEYS.get(outcome) if i >= len(classes) else digit,
                on_click=keep,
                args=(cell, outcome),
                width="stretch",
            )
        st.caption("Press the key beside a name. 'cannot tell' is an answer, too.")

with st.expander("Agreement between labellers"):
    try:
        agreement = labelling.agreement(run.folder, name)
    except (OSError, ValueError) as error:
        agreement = None
        st.caption(plain(error))
    if agreement is not None and len(agreement):
        st.dataframe(agreement, hide_index=True, alt="Agreement between labellers")
        figures.csv_button(agreement, "agreement", "agreement")
    elif agreement is not None:
        st.caption("It takes two people who labelled the same pictures.")
