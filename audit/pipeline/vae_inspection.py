"""What each VAE of `audit vae` is: digests, kinship, scale and precision, as told by the run.

Written once into `vaes.json`, since all of it needs the weights; the report only reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from audit.pipeline.round_trip_time import clock
from audit.pipeline.session import Audit
from audit.pipeline.vae_table import FILE
from harness.images.stored import pixels
from harness.json_types import JsonObject
from harness.models.vae_files import VAE_CLASSES
from harness.models.vae_identity import VaeIdentity, codec, compare, identify
from harness.models.vae_precision import precision
from harness.models.vae_scaling import RECONSTRUCTED, check_shift, check_vae_scale, settle
from harness.progress import Say
from harness.store.run import Run

if TYPE_CHECKING:
    from diffusers import ModelMixin

MOST_PICTURES, MOST_SIDE = 48, 256
"""Images for the check of the scaling factor, and the side that they are cropped to."""
MOST_ACTIVATIONS = 4
"""Of these, how many are sent through for the range of activations."""


def examine(
    audit: Audit,
    plan: pd.DataFrame,
    vaes: Mapping[str, object],
    paces: Mapping[str, float],
    say: Say,
) -> list[str]:
    """Examine VAEs that the run has not examined yet.

    Args:
        audit: Audit of the round trips.
        plan: Plan of its cells.
        vaes: VAEs by name, on the device that is used.
        paces: Seconds per pixel of a round trip, by VAE; without one no time is said.
        say: Receives progress, a line before each VAE.

    Returns:
        What a user must know at once, one line each: copies, wrong scales, overflows.
    """
    if audit.run.read_json(FILE) is not None:
        return []
    pictures = _pictures(audit.run, plan)
    audited = (audit.run.provenance() or {})["audited"]
    digests = {a["name"]: str(a["digest"]) for a in audited}
    known: list[VaeIdentity] = []
    rows: list[JsonObject] = []
    lines: list[str] = []
    for number, (name, vae) in enumerate(vaes.items(), 1):
        say(
            f"examine {number}/{len(vaes)} {name}: scaling factor on {len(pictures)} images, "
            f"activations in fp32{_about(paces.get(name), pictures)}"
        )
        one = identify(name, audit.spec.vaes[name], vae, digests[name])
        row: JsonObject = dict(one._asdict())
        kin = [(other, compare(other, one)) for other in known]
        row["kin"] = "; ".join(f"{kind} as {o.name}" for o, kind in kin if kind != "different")
        copies = [o.name for o, kind in kin if kind in ("the same file", "a copy")]
        if copies:
            lines.append(f"{name} has the same weights as {copies[0]}")
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


def _about(pace: float | None, pictures: list[NDArray[np.uint8]]) -> str:
    """The time it takes: all are encoded, a third of a round trip, and some decoded too."""
    if pace is None or not pictures:
        return ""
    pixels = float(np.mean([p.shape[0] * p.shape[1] for p in pictures]))
    trips = len(pictures) / 3 + RECONSTRUCTED + MOST_ACTIVATIONS
    return f", about {clock(pace * pixels * trips)}"


def _examined(vae: ModelMixin, pictures: list[NDArray[np.uint8]]) -> JsonObject:
    fitting = []
    if isinstance(vae, tuple(VAE_CLASSES.values())):
        step = codec(vae).step
        cut = [p[: p.shape[0] // step * step, : p.shape[1] // step * step] for p in pictures]
        fitting = [p for p in cut if p.size]
    if not fitting:
        return {"assumed": "", "scale": "cannot tell", "shift": "cannot tell", "precision": {}}
    vae, assumed = settle(vae, fitting)
    scale = check_vae_scale(vae, fitting)
    some = np.stack([p for p in fitting if p.shape == fitting[0].shape][:MOST_ACTIVATIONS])
    tensor = torch.from_numpy(some).permute(0, 3, 1, 2).float() / 127.5 - 1
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
        whole = pixels(png)
        top, left = (max(0, (side - MOST_SIDE) // 2) for side in whole.shape[:2])
        held.append(whole[top : top + MOST_SIDE, left : left + MOST_SIDE])
    return held
