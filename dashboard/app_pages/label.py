"""Label: one image at a time, by keyboard, blind to prompt and classifier."""

import secrets
from pathlib import Path

import streamlit as st

from dashboard import components, figures
from dashboard.escaping import plain
from dashboard.label_routes import SIDES
from harness.json_types import JsonObject
from harness.spec.attributes import OUTCOMES, AttributeSpec
from probes.attributes import label_sampling

KEYS = dict(zip(OUTCOMES, "NSX", strict=True))

FOLDER = Path(__file__).parents[1]
LABELLER = st.components.v2.component(
    "audit_labeller",
    html='<div class="labeller"></div>',
    css=(FOLDER / "labeller.css").read_text(encoding="utf-8"),
    js=(FOLDER / "labeller.js").read_text(encoding="utf-8"),
)


def labeller_data(
    attribute: AttributeSpec, left: list[str], size: int, labeller: str
) -> JsonObject:
    """What the labeller in the browser starts from.

    Args:
        attribute: Attribute to label.
        left: Cells that this person has not labelled, in the order to show.
        size: Number of images in the sample.
        labeller: The person's name.
    """
    classes = [
        (c, str((i + 1) % 10) if i < 10 else "") for i, c in enumerate(attribute.class_names)
    ]
    names = components.folders()
    return {
        "key": secrets.token_hex(8),
        "run": next(n for n, folder in names.items() if Path(folder).resolve() == run.folder),
        "attribute": attribute.name,
        "title": attribute.title or attribute.name,
        "labeller": labeller,
        "queue": left,
        "size": size,
        "done": size - len(left),
        "choices": [{"outcome": o, "key": k} for o, k in (*classes, *KEYS.items())],
        "sides": SIDES,
        "finished": "All of the sample is labelled. "
        f"`audit report {run.folder.name}` writes the report again with your labels in it.",
    }


run = components.view()
components.headline(
    "Label",
    "What do you see? Neither the prompt nor what a classifier said is shown. A few hundred labels "
    "turn counts into shares that can be defended.",
)
attributes = {a.name: a for a in run.spec.attributes} if run.spec else {}
if not attributes:
    components.empty(
        "This run declares no attribute to label",
        "Name some under `attributes:` in the spec and run it again."
        + (f" (spec.yaml: {plain(run.spec_problem)})" if run.spec_problem else ""),
    )
    st.stop()
if "labels" in run.files.links:
    components.empty(
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
        "Images to draw",
        20,
        5000,
        200,
        20,
        key="draw",
        bind="query-params",
        help="The sample is drawn once for all who label and kept in the run.",
    )
if not labeller:
    components.empty(
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
            size = len(label_sampling.sample(run.folder, name, int(wanted), 0))
            left = label_sampling.queue(run.folder, name, labeller)
        except (OSError, ValueError) as error:
            st.error(f"The sample cannot be drawn: {plain(error)}")
            st.stop()
    st.session_state[mine] = labeller_data(attribute, left, size, labeller)
data: JsonObject = st.session_state[mine]
if data["queue"]:
    LABELLER(key=f"labeller {data['key']}", data=data, on_finished_change=lambda: None)
else:
    components.empty("All of the sample is labelled", data["finished"])

with st.expander("Agreement between labellers"):
    try:
        agreement = label_sampling.agreement(run.folder, name)
    except (OSError, ValueError) as error:
        agreement = None
        st.caption(plain(error))
    if agreement is not None and len(agreement):
        st.dataframe(agreement, hide_index=True, alt="Agreement between labellers")
        figures.csv_button(agreement, "agreement", "agreement")
    elif agreement is not None:
        st.caption("It takes two people who labelled the same images.")
