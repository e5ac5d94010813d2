"""What each VAE of `audit vae` is: digests, kinship, scale and precision, as told by the run.

Written once into `vaes.json`, since all of it needs the weights; the report only reads it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from audit.opening import Audit
from audit.store import Run
from audit.vae.files import VAE_CLASSES
from audit.vae.scale import check_shift, check_vae_scale, precision, settle
from audit.vae.vaes import VaeIdentity, codec, compare, identify
from probes import Exhibit

FILE = "vaes.json"
MOST_PICTURES, MOST_SIDE = 48, 256
"""Pictures for the check of the scaling factor, and the side that they are cropped to."""


def examine(audit: Audit, plan: pd.DataFrame, vaes: Mapping[str, Any]) -> list[str]:
    """Examine VAEs that the run has not examined yet.

    Returns:
        What a user must know at once, one line each: copies, wrong scales, overflows.
    """
    if audit.run.read_json(FILE) is not None:
        return []
    pictures = _pictures(audit.run, plan)
    audited = (audit.run.provenance() or {})["audited"]
    digests = {a["name"]: str(a["digest"]) for a in audited}
    known: list[VaeIdentity] = []
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for name, vae in vaes.items():
        one = identify(name, audit.spec.vaes[name], vae, digests[name])
        row: dict[str, Any] = dict(one._asdict())
        kin = [(other, compare(other, one)) for other in known]
        row["kin"] = "; ".join(f"{kind} as {o.name}" for o, kind in kin if kind != "different")
        copies = [o.name for o, kind in kin if kind in ("the same file", "a copy")]
        if copies:
            lines.append(f"{name} is {copies[0]} under another name")
        known.append(one)
        row |= _examined(vae, pictures)
        if row["assumed"]:
            lines.append(f"{name}: {row['assumed']}")
        if row["scale"].startswith("wrong"):
            lines.append(f"{name}: scaling factor {row['scaling_factor']:g} is {row['scale']}")
        lines += [
            f"{name} {verdict} in {dtype}"
            for dtype, verdict in row["precision"].items()
            if verdict != "fits"
        ]
        rows.append(row)
    audit.run.write_json(FILE, rows)
    return lines


def exhibits(run: Run) -> list[Exhibit]:
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
                "scaling factor": r["scaling_factor"],
                "scale from data": r["scale"],
                "shift": r["shift"],
                **r["precision"],
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
        "factor against the spread of the latents of these pictures."
    )
    return [Exhibit("vae/identity", "table", table, caption, "A row a VAE with its digests.")]


def _examined(vae: Any, pictures: list[NDArray[np.uint8]]) -> dict[str, Any]:
    fitting = []
    if isinstance(vae, tuple(VAE_CLASSES.values())):
        step = codec(vae).step
        cut = [p[: p.shape[0] // step * step, : p.shape[1] // step * step] for p in pictures]
        fitting = [p for p in cut if p.size]
    if not fitting:
        return {"assumed": "", "scale": "cannot tell", "shift": "cannot tell", "precision": {}}
    vae, assumed = settle(vae, fitting)
    scale = check_vae_scale(vae, fitting)
    tensor = torch.from_numpy(fitting[0].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return {
        "assumed": assumed,
        "scaling_factor": vae.config.scaling_factor,
        "scale": f"{scale.verdict} ({scale.why})",
        "shift": check_shift(vae),
        "precision": precision(vae, tensor)[1],
    }


def _pictures(run: Run, plan: pd.DataFrame) -> list[NDArray[np.uint8]]:
    """The first originals, cropped at their centre."""
    held = []
    for row in plan.drop_duplicates("trajectory").head(MOST_PICTURES).itertuples():
        png = run.image(str(row.unit), str(row.vae_file), str(row.cell))
        if png is None:
            continue
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        top, left = (max(0, (side - MOST_SIDE) // 2) for side in pixels.shape[:2])
        held.append(pixels[top : top + MOST_SIDE, left : left + MOST_SIDE])
    return held
