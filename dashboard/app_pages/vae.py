"""VAE: what each one changes in the same latents, whose images it changes, and what it is."""

import pandas as pd
import streamlit as st

from dashboard import components, figures, galleries
from dashboard.escaping import plain, signed
from harness.images.image_ref import ImageRef

MOST = 8
PROBES = ("vae", "spectrum")

run = components.view()
components.headline(
    "VAE",
    "The same latents through every VAE, or images there and back. Each image is its own "
    "control: it is held against the first VAE's, or against the original.",
)
mine = [e for e in run.figures if e.probe in PROBES]
vaes = run.levels["vae"]
if len(vaes) < 2 and not mine:
    components.empty(
        "This run has one VAE and no round trip",
        "Name several under `vaes:` in the spec and add `probes: [attributes, vae, spectrum]`; or "
        "send images through VAEs with `audit vae IMAGES --vae own --vae FILE`.",
    )
    st.stop()

leading = [e for e in mine if e.leads]
figures.figures(run, leading)

st.subheader("Images that changed most", anchor=False)
if len(vaes) > 1 and "fidelity" in run.instruments:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        vae = st.selectbox("VAE", vaes[1:], key="through", bind="query-params", width=240)
        order = st.selectbox(
            "First",
            ["most changed", "lightened most", "darkened most", "least changed"],
            key="first",
            bind="query-params",
            width=200,
        )
    by = {
        "most changed": "s.mse DESC",
        "least changed": "s.mse",
        "lightened most": "s.lightness_shift DESC",
        "darkened most": "s.lightness_shift",
    }[order]
    table = run.scores("fidelity")
    rows = run.sql(
        f"""SELECT p.cell, p.arm, p.prompt, p.seed, r.cell AS reference, r.vae AS held_against,
                   s.* EXCLUDE (cell)
            FROM plan p JOIN {table} s USING (cell)
            JOIN plan r ON r.trajectory = p.trajectory AND r.vae = ?
            WHERE p.vae = ? AND s.mse IS NOT NULL ORDER BY {by}, p.place LIMIT ?""",
        [vaes[0], vae, MOST],
    )
    if rows.empty:
        st.caption("No image of this VAE was measured.")
    with st.grid(columns=2, min_column_width=350):
        for i, row in enumerate(rows.itertuples()):
            with st.container(border=True):
                shift = f"ΔE {row.delta_e:.1f} · lightness {signed(row.lightness_shift)}"
                st.markdown(f"**{plain(row.prompt, 160)}** · seed {row.seed}")
                st.caption(f"{plain(row.arm)} · {shift}")
                cells = [row.reference, row.cell, str(ImageRef(row.cell, minus=row.reference))]
                captions = [str(vaes[0]), str(vae), "changed, 8\u00a0×"]
                galleries.gallery(run, cells, captions, f"vae {i}", 96)
    figures.csv_button(rows, "changed", "changed")
else:
    grids = [e for e in mine if e.kind == "grid"] + [
        e for e in run.figures if e.id == "grid/vae/changed"
    ]
    if grids:
        figures.figures(run, grids)
    else:
        st.caption("Not measured: add ‘vae’ to ‘probes:’ in the spec and run it again.")

drawn = [e for e in mine if e.kind != "table"]
if drawn:
    st.subheader("How much, and at which frequencies", anchor=False)
    figures.figures(run, drawn)
tables = [e for e in mine if e.kind == "table" and e.id != "vae/identity" and not e.leads]
if tables:
    st.subheader("Groups affected more than the rest", anchor=False)
    figures.figures(run, tables)

st.subheader("What each VAE is, and whether it may be swapped", anchor=False)
known = run.json("vaes.json")
identity = [e for e in mine if e.id == "vae/identity"]
if identity:
    figures.figures(run, identity)
elif isinstance(known, list) and known:
    st.dataframe(pd.DataFrame(known), hide_index=True, alt="A row a VAE with its digests")
else:
    audited = [a for a in run.report.get("audited", []) if a.get("kind") == "VAE"]
    if audited:
        known_of = pd.DataFrame(audited).reindex(columns=["name", "of", "source", "digest"])
        known_of["digest"] = known_of["digest"].astype(str).str[:16]
        st.dataframe(known_of, hide_index=True, alt="The VAEs of this run")
    if run.spec and not run.spec.allow_latent_space_mismatch and run.levels["kind"] == ["made"]:
        st.caption(
            "All of them passed as swaps: one whose latents have another shape, or do not "
            "correlate with the own VAE's, is refused before anything is made."
        )
    st.caption("Scale, precision and kinship are measured by ‘audit vae IMAGES --vae …’.")
