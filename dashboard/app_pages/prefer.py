"""Prefer: two images of one prompt and seed, blind; which is better?"""

import pandas as pd
import streamlit as st

from dashboard import components, figures
from dashboard.escaping import count, plain
from dashboard.galleries import frame
from harness.errors import AuditError
from harness.store.run import Run
from probes.preference import trials
from probes.preference.estimate import Preference, for_arm, for_left, table
from reports.text import percent

WIDTH = 360
KEYS = {"left": "Left", "right": "Right", "same": "S", "both bad": "B"}

run = components.view()
components.headline(
    "Prefer",
    "Two images of one prompt and seed, sides at random: which is better? Which model made them is "
    "not shown. Some pairs are controls, both of one model.",
)
plan = run.sql(
    f"SELECT p.cell, p.prompt, p.seed, p.arm FROM plan p JOIN {run.images_table()} m USING (cell) "
    "WHERE m.there ORDER BY p.place"
)
arms = list(dict.fromkeys(plan["arm"]))
if len(arms) < 2:
    components.empty(
        "There is nothing to compare",
        "Name two checkpoints, VAEs or adapters in the spec: their images of one prompt and seed "
        "are shown beside each other.",
    )
    st.stop()
if trials.FOLDER in run.files.links:
    components.empty(
        "Judgements cannot be kept",
        f"`{trials.FOLDER}` in the run folder is a link, and links are not followed.",
    )
    st.stop()

with st.grid(columns=3, min_column_width=200):
    first = st.selectbox("One", arms, key="one", bind="query-params")
    others = [a for a in arms if a != first]
    second = st.selectbox("The other", others, key="other", bind="query-params")
    rater = st.text_input(
        "Your name", key="rater", bind="query-params", max_chars=60, placeholder="such as ann"
    ).strip()
if not rater:
    components.empty(
        "Say who you are",
        "Judgements of several people are kept apart. Any short name will do; it is written into "
        "the run folder.",
    )
    st.stop()

folder = Run(run.folder)
try:
    pairs = trials.trials(plan, (str(first), str(second)), rater)
except AuditError as error:
    components.empty("These two cannot be compared", plain(error))
    st.stop()
try:
    known = trials.judged(folder)
except AuditError as error:
    components.empty("A judgement cannot be read", plain(error))
    st.stop()
done = set(known["id"])
last, shown_again = f"last {rater}", f"again {rater}"


def choose(trial: trials.Trial, choice: str) -> None:
    """Write what was chosen of the pair that was on screen."""
    try:
        trials.keep(folder, rater, trial, choice)
    except (AuditError, OSError) as error:
        st.session_state["problem"] = f"Not written: {plain(error)}"
        return
    st.session_state[last] = trial.id
    st.session_state.pop(shown_again, None)


def back() -> None:
    """Show the last pair again."""
    st.session_state[shown_again] = st.session_state.pop(last)


if problem := st.session_state.pop("problem", ""):
    st.error(problem)
wanted = st.session_state.get(shown_again)
left = [t for t in pairs if t.id not in done or t.id == wanted]
st.progress(1 - len(left) / len(pairs), f"{len(pairs) - len(left)} of {count(len(pairs), 'pair')}")
if left:
    trial = next((t for t in left if t.id == wanted), left[0])
    st.markdown(f"**{plain(trial.prompt, 300)}**")
    shown = run.images([trial.left, trial.right])
    with st.container(horizontal=True, gap="medium"):
        for cell, side in ((trial.left, "Left"), (trial.right, "Right")):
            with st.container(width=WIDTH, gap="xxsmall"):
                frame(shown.get(cell), WIDTH, f"{side} image")
                st.caption(side)
    with st.container(horizontal=True, gap="small"):
        for choice, key in KEYS.items():
            st.button(
                choice.capitalize(),
                shortcut=key,
                on_click=choose,
                args=(trial, choice),
                key=f"choose {choice}",
            )
        st.button("Undo", shortcut="U", on_click=back, disabled=last not in st.session_state)
else:
    components.empty(
        "All pairs are judged",
        f"`audit report {run.folder.name}` writes the report again with your judgements in it.",
    )


def line(what: str, found: Preference) -> dict[str, object]:
    """A row of the results."""
    bounds = f"[{percent(found.low)}, {percent(found.high)}]" if found.low == found.low else "–"
    return {
        "wins": what,
        "share": percent(found.value),
        "95 % interval": bounds,
        "judgements": found.n,
        "prompts": found.prompts,
        "raters": found.raters,
        "no winner": percent(found.undecided),
        "would be decided by": f"{found.needed} prompts" if found.needed else "–",
    }


if len(known) and st.toggle("What all judgements say so far", key="results"):
    rows = table(known, plan)
    results = [line(f"{first} against {second}", for_arm(rows, str(first), str(second)))]
    control = for_left(rows)
    if control.n:
        results.append(line("the left image of a control", control))
    found = pd.DataFrame(results)
    st.dataframe(found, hide_index=True, alt="Shares of wins with their intervals")
    st.caption(
        "Pairs without a winner count half. Intervals are clustered by prompt and, from six raters "
        "on, by rater; below that they are for these raters. A control has no better image: its "
        "share says how much a side alone is liked."
    )
    figures.csv_button(rows, "judgements", "judgements")
