"""What is read of predicted images on the way, and of images whose prompt was exchanged."""

from __future__ import annotations

import pandas as pd

from harness.plan.cells import ARM
from harness.text import slug
from probes.contracts import (
    Figure,
    Finding,
    MetricSpec,
    Reference,
)
from probes.statistics.intervals import share_interval
from probes.trajectory.names import PREDICTED, PROBE, SWITCHED

AGREEMENT = MetricSpec("agreement with the final image", unit="of images", span=1.0)

AFTER_SWITCH = MetricSpec("share after a switch", "share", "share", span=1.0)


def agreement(
    frame: pd.DataFrame, attribute: str, instrument: str
) -> tuple[list[Finding], list[Figure]]:
    """How often the predicted image is read as the final one is, by arm and step.

    The null is what two unrelated images with these shares would agree by chance: Σ p q.
    """
    final = frame[frame["requested_by"] == ""].drop_duplicates("trajectory")
    last = final.set_index("trajectory")["outcome"]
    shown = frame[frame["kind"] == PREDICTED]
    shown = shown.assign(last=shown["trajectory"].map(last)).dropna(subset=["outcome", "last"])
    findings, rows = [], []
    for (arm, step), part in shown.groupby(["arm", "step"], sort=False):
        n = len(part)
        agreeing = int((part["outcome"] == part["last"]).sum())
        value, low, high = share_interval(agreeing, n)
        p, q = (part[c].value_counts(normalize=True) for c in ("outcome", "last"))
        chance = float(p.mul(q, fill_value=0).sum())
        about = {"checkpoint": str(part["checkpoint"].iloc[0]), "arm": str(arm)}
        about |= {"attribute": attribute, "step": f"{int(step) + 1} of {part['steps'].iloc[0]}"}
        findings.append(
            Finding(
                id=f"{PROBE}/agreement/{instrument}/{slug(str(arm))}/{int(step)}",
                probe=PROBE,
                metric=AGREEMENT,
                subject=about,
                value=value,
                low=low,
                high=high,
                n=n,
                n_clusters=part["prompt"].nunique(),
                reference=Reference(null=chance),
                estimator="Wilson",
                instrument=instrument,
            )
        )
        rows.append((int(step) + 1, value, low, high, str(arm), attribute))
    if not rows:
        return [], []
    table = pd.DataFrame(rows, columns=["x", "value", "low", "high", "group", "facet"])
    caption = (
        f"{attribute}: share of images of which {instrument} reads after a step what it reads of "
        "the final image, with 95 % intervals. It says when the class can be read, not when it "
        "is decided: for that, exchange the prompt."
    )
    alt = f"A line over the steps: agreement with the final image on {attribute}."
    name, about = f"steps/agreement/{instrument}", {"instrument": instrument}
    return findings, [Figure(name, "line", table, caption, alt, subject=about)]


def switched(
    frame: pd.DataFrame, classes: tuple[str, ...], attribute: str, instrument: str
) -> tuple[list[Finding], list[Figure]]:
    """Share of each class in the final images, by the step at which the prompt is exchanged."""
    shown = frame[frame["kind"] == SWITCHED].dropna(subset=["outcome"])
    findings, rows = [], []
    settings = [f for f in ARM if f not in ("checkpoint", "vae", "prompt")]
    varying = [f for f in settings if shown[f].nunique() > 1]
    keys = ["checkpoint", "prompt", "second_text", "switch", *settings]
    for key, part in shown.groupby(keys, sort=False):
        about = {"checkpoint": str(key[0]), "prompt": str(key[1]), "attribute": attribute}
        about |= {"second prompt": str(key[2]), "step": f"{key[3]} of {part['steps'].iloc[0]}"}
        about |= {f: str(part[f].iloc[0]) for f in varying}
        for name in classes:
            value, low, high = share_interval(int((part["outcome"] == name).sum()), len(part))
            place = "/".join(slug(str(k)) for k in (*key, name))
            findings.append(
                Finding(
                    id=f"{PROBE}/switch/{instrument}/{place}",
                    probe=PROBE,
                    metric=AFTER_SWITCH,
                    subject=about | {"class": name},
                    reading="as counted",
                    value=value,
                    low=low,
                    high=high,
                    n=len(part),
                    n_clusters=1,
                    estimator="Wilson",
                    instrument=instrument,
                )
            )
            title = f"{key[0]}: {key[1]} → {key[2]}"
            title += "".join(f" · {f} {part[f].iloc[0]}" for f in varying)
            rows.append((int(key[3]), value, low, high, name, title))
    if not rows:
        return [], []
    table = pd.DataFrame(rows, columns=["x", "value", "low", "high", "group", "facet"])
    caption = (
        f"{attribute}: what {instrument} reads of the final image where the first prompt is "
        "exchanged for the second at a step (at 0 the second is read throughout), same starting "
        "noise. Where the line turns, the attribute is decided. 95 % intervals over seeds."
    )
    alt = f"Lines over the step of the switch: share of each class of {attribute}."
    name, about = f"steps/switch/{instrument}", {"instrument": instrument}
    return findings, [Figure(name, "line", table, caption, alt, subject=about)]
