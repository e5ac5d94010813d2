"""Two tables of VAEs: which to ship, and what each of them is, as `audit vae` found it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose

import pandas as pd

from harness.models.latent_spaces import KNOWN
from harness.store.run import Run
from probes.contracts import Figure, Finding
from probes.vae.metrics import DELTA_E, DETAIL_LOSS, LIGHTNESS_SHIFT, MS_SSIM, PSNR, SSIM
from reports.vae_answer import (
    Shifts,
    copies,
    direction,
    has_originals,
    listed,
    over_all_images,
    shifts,
)
from reports.verdicts import has_interval, verdict

FILE = "vaes.json"
DTYPES = ("float32", "float16", "bfloat16")
"""Precisions in which a VAE was tried, see `harness.models.vae_precision`."""


COLUMNS = (
    (PSNR, "PSNR dB", 1),
    (SSIM, "SSIM", 3),
    (MS_SSIM, "MS-SSIM", 3),
    (DELTA_E, "ΔE", 2),
    (DETAIL_LOSS, "detail lost", 3),
    (LIGHTNESS_SHIFT, "L* shift", 2),
)
"""Metrics of the table with their heading and decimal places."""


def verdicts(findings: Sequence[Finding]) -> list[Figure]:
    """The table of which VAE to ship: a row a VAE, its numbers, whom it affects, its copies.

    Args:
        findings: All findings, adjusted over the report.
    """
    own = over_all_images(findings)
    if not own:
        return []
    numbers = {(f.subject["arm"], f.metric.name): f for f in own}
    same, tested = copies(own), {one.arm: one for one in shifts(findings)}
    rows = []
    for arm in dict.fromkeys(f.subject["arm"] for f in own):
        row = {"VAE": arm}
        for metric, heading, digits in COLUMNS:
            row[heading] = number_text(numbers.get((arm, metric.name)), digits)
        one = tested.get(arm)
        if arm in same:
            row["verdict"] = f"makes the same images as {same[arm]}"
        elif one is not None:
            row["verdict"] = _verdict(one)
            groups = [f.subject for f in one.groups[:1] if verdict(f) == "apart"]
            row["most for"] = "".join(f"{s['group']}: {s['class']}" for s in groups) or "no group"
        rows.append(row)
    reference = "the original" if any(map(has_originals, own)) else "what the first VAE made of it"
    caption = (
        f"Which VAE to ship. Each image is compared with {reference}; brackets hold 95 % "
        "intervals. Only differences that stand after adjustment over all tests are named."
    )
    alt = "A row a VAE: its numbers, what clearly differs, whose images it affects most."
    table = pd.DataFrame(rows).fillna("–")
    table = table.loc[:, (table != "–").any()]
    return [Figure("vae/verdicts", "table", table, caption, alt, "vae", leads=True)]


def number_text(finding: Finding | None, digits: int) -> str:
    """'28.4 [27.8, 29.1]'; '–' where there is no number.

    Args:
        finding: A finding, or None.
        digits: Decimal places.
    """
    if finding is None or finding.status != "measured":
        return "–"
    low, high = (f"{end:.{digits}f}" for end in (finding.low, finding.high))
    bounds = f" [{low}, {high}]" if has_interval(finding) else ""
    return f"{finding.value:.{digits}f}{bounds}"


def _verdict(one: Shifts) -> str:
    """'against faithful: images lighter, SSIM lower', without the numbers."""
    clear = [direction(f) for f in one.overall if verdict(f) == "apart"]
    against = f"against {one.baseline}: " if one.baseline else ""
    return against + (listed(clear) or "no clear shift")


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
                "latent space": _space(r["channels"], r["scaling_factor"]),
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


def _space(channels: int, factor: float | None) -> str:
    """Name of the published latent space with these channels and this scaling factor."""
    for known in KNOWN.values():
        if factor is not None and channels == known.channels and isclose(factor, known.factor):
            return known.name
    return "none that is published"


def _factor(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
