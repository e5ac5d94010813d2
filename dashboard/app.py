"""The dashboard: routes only."""

from __future__ import annotations

import duckdb
import streamlit as st

from dashboard import components, image_dialog
from dashboard.escaping import plain
from dashboard.images import icon
from dashboard.run_index import RunError

PAGES = {
    "overview": ("Overview", ":material/summarize:"),
    "images": ("Images", ":material/grid_view:"),
    "attributes": ("Attributes", ":material/bar_chart:"),
    "vae": ("VAE", ":material/compare:"),
    "latent_map": ("Latent map", ":material/scatter_plot:"),
    "attention": ("Attention", ":material/visibility:"),
    "compare": ("Compare", ":material/difference:"),
    "label": ("Label", ":material/label:"),
    "prefer": ("Prefer", ":material/thumbs_up_down:"),
    "figures": ("All figures", ":material/stacks:"),
}

# An image of our own: named icons and emoji would be fetched from afar.
st.set_page_config(page_title="diffusion-audit", page_icon=icon(), layout="wide")
page = st.navigation(
    [
        st.Page(f"app_pages/{name}.py", title=title, icon=sign, default=name == "overview")
        for name, (title, sign) in PAGES.items()
    ]
)
components.choose_run()
try:
    damaged = components.view().damaged
    if damaged:
        st.warning(
            f"{len(damaged)} files of this run are damaged and left out: "
            f"{plain(', '.join(damaged[:5]))}. Run the command that made the run again."
        )
    page.run()
    image_dialog.show_history(components.view())
except RunError as error:
    st.error(plain(error))
    st.button("Look again", on_click=components.forget)
except (OSError, duckdb.IOException) as error:
    st.error(f"A file of the run cannot be read; it may have been removed: {plain(error)}")
    st.button("Look again", on_click=components.forget)
