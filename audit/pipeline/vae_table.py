"""The table of what each VAE is, as `audit vae` found it and the run keeps it."""

from __future__ import annotations

import pandas as pd

from harness.store.run import Run
from probes.contracts import Figure

FILE = "vaes.json"
DTYPES = ("float32", "float16", "bfloat16")
"""Precisions in which a VAE was tried, see `harness.models.vae_precision`."""


def figures(run: Run) -> list[Figure]:
    """The tables of what was examined; none where nothing was."""
    rows = run.read_json(FILE)
    if not rows:
        return []
    table = pd.DataFrame(
        [
            {
                "VAE": r["name"],
                "class": r["kind"],
                "latents": f"{r['channels']} channels, 1 for {r['pixels']} x {r['pixels']} pixels",
                "scaling factor": _factor(r["scaling_factor"]),
                "scale from data": r["scale"],
                "shift": r["shift"],
                **{name: r["precision"].get(name, "not checked") for name in DTYPES},
                "kin": r["kin"] or "none of these",
                "weights": r["normalised"][:16],
                "encoder": r["encoder"][:16],
                "decoder": r["decoder"][:16],
            }
            for r in rows
        ]
    )
    caption = (
        "Which VAE is which. 'weights', 'encoder' and 'decoder' are digests that do not depend on "
        "file layout or precision: equal ones are copies. 'scale from data' holds the scaling "
        "factor against the spread of the latents of these images."
    )
    alt = "A row a VAE with its digests."
    return [Figure("vae/identity", "table", table, caption, alt, "vae")]


def _factor(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
