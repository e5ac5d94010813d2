"""Images: the same prompt and seed under every swap, and how each image was made."""

import streamlit as st

from dashboard import components, evidence, figures, galleries
from dashboard.escaping import count, plain

ROWS = 6
SWAPS = 12

run = components.view()
components.headline(
    "Images",
    "Each line is one prompt and seed: the same starting noise under every swap. A name under an "
    "image opens how it was made.",
)
chosen = components.filters(run, ("checkpoint", "vae", "prompt"))
seeds = run.levels["seed"]
# Every seed of one prompt, as a finding's link wants it.
whole = len(chosen.get("prompt", run.levels["prompt"])) == 1 and st.toggle(
    "Every seed, with what was read", key="seeds", bind="query-params"
)
with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
    if len(seeds) > 1 and not whole:
        seed = st.selectbox("Seed", seeds, key="seed", bind="query-params", width=120)
        chosen["seed"] = [seed]
    size = st.segmented_control(
        "Size",
        ["small", "medium", "large"],
        default="medium",
        key="size",
        bind="query-params",
        required=True,
    )
width = {"small": 88, "medium": 116, "large": 216}[size or "medium"]


def by_swap() -> None:
    """A line a prompt and seed, under every swap."""
    where, values = run.where(chosen)
    lines = run.sql(
        f"SELECT prompt, seed, min(place) AS first FROM plan p {where} GROUP BY 1, 2 ORDER BY 3",
        values,
    )
    page = components.page_of(len(lines), ROWS, "line")
    if lines.empty:
        components.empty("No image passes these filters", "Take one of them away.")
    for number, line in enumerate(lines.iloc[page].itertuples()):
        rows = run.cells(chosen | {"prompt": [line.prompt], "seed": [line.seed]}, SWAPS + 1)
        with st.container(border=True):
            st.markdown(f"**{plain(line.prompt, 200)}** · seed {line.seed}")
            shown = rows.head(SWAPS)
            captions = (
                list(shown["arm"]) if len(run.arms) > 1 else [f"seed {line.seed}"] * len(shown)
            )
            galleries.gallery(run, list(shown["cell"]), captions, f"line {number}", width)
            if len(rows) > SWAPS:
                st.caption(f"The first {SWAPS} arms; choose checkpoints or VAEs to see others.")
    st.caption(f"{count(len(lines), 'line')} of {components.images_word(run.planned)}")
    figures.csv_button(lambda: run.cells(chosen, 1_000_000), "images", "images")

    grids = [e for e in run.figures if e.kind == "grid"]
    if grids and st.toggle("The report's grids", key="grids", bind="query-params"):
        figures.figures(run, grids)


if whole:
    evidence.every_seed(run, chosen, width)
else:
    by_swap()
