"""When an image is decided: predicted images on the way, and prompts exchanged on the way.

Two questions. Descriptive: at which step does an instrument first read of the predicted image
(predicted x0, decoded) what it reads of the final one? Causal: if the prompt is exchanged at step
s, whose attribute does the final image show? Where they part, the second is the one about
decisions: an attribute may be settled before an instrument can read it off a blur.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.errors import AuditError
from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.plan.cells import Cell, arm_labels, text_of
from harness.spec.schema import Spec
from harness.taps.record import Tap
from harness.taps.watched_steps import watched_steps
from harness.text import nearest, slug
from probes.attributes.outcomes import outcome_frame, readings
from probes.contracts import (
    AnalysisInput,
    Batch,
    Context,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    Result,
)
from probes.registry import register
from probes.trajectory.latent_rgb import LatentColours, explained, fit
from probes.trajectory.names import PREDICTED, PROBE, SWITCHED
from probes.trajectory.options import StepsOptions, Switch
from probes.trajectory.readings import AGREEMENT, agreement, switched

COLOUR_R2 = MetricSpec("R² of colours from latents", unit="of variance")
MOST_SHOWN = 6


class Predictions:
    """Has the tap `steps` attached; the predicted images themselves are cells."""

    name = "steps"
    version = "1"
    inputs = frozenset({"steps"})

    def cache_key(self) -> JsonObject:
        """Version."""
        return {"version": self.version, "name": self.name}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, forwards (how many the sampler made) and note (why none was told)."""
        notes = [r.notes if r else None for r in batch.taps["steps"]]
        return pd.DataFrame(
            {
                "cell": batch.cells,
                "forwards": [n["forwards"] if n else -1 for n in notes],
                "note": [n["why"] if n else "its steps were not followed" for n in notes],
            }
        )


@register
class StepsProbe(Probe[StepsOptions]):
    """When what the instruments read of an image is decided."""

    name = PROBE
    Options = StepsOptions

    def instruments(self, options: StepsOptions, spec: Spec) -> Sequence[Instrument]:
        """The tap's, and the colours of latents."""
        return (Predictions(), LatentColours())

    def extra_cells(self, options: StepsOptions, spec: Spec, plan: pd.DataFrame) -> Iterable[Cell]:
        """Predicted images by the first VAE, and what the spec's switches need.

        Raises:
            AuditError: A switch's first prompt is none of the suite's.
        """
        own = plan[plan["vae"] == next(iter(spec.vaes))]
        for row in own.itertuples(index=False):
            cell = Cell(*row)
            for step in watched_steps(cell.steps, options.watch):
                about = {"x0": cell.trajectory, "step": step, "vae": cell.vae_file}
                yield cell._replace(
                    cell=canonical_digest(about),
                    kind=PREDICTED,
                    vae_file=f"{cell.vae_file}-step{step:03d}",
                    requested_by=PROBE,
                    step=step,
                )
        for switch in options.switches:
            prompts = list(dict.fromkeys(own["prompt"]))
            if switch.first not in prompts:
                raise AuditError(
                    f"probes.steps.switches: {switch.first!r} is no prompt of this suite; "
                    f"{nearest(switch.first, prompts)}"
                )
            for row in own[own["prompt"] == switch.first].itertuples(index=False):
                yield from _switched(Cell(*row), switch, spec)

    def taps(self, options: StepsOptions, spec: Spec) -> Sequence[Tap]:
        """What keeps the predicted latents of the watched steps."""
        from harness.taps.trajectory import StepsTap

        return (StepsTap(options.watch),)

    def analyse(self, given: AnalysisInput[StepsOptions]) -> Result:
        """Agreement with the final image by step, shares after a switch, colours of latents."""
        tables, plan, labels, spec, _ = given
        findings: list[Finding] = []
        figures: list[Figure] = []
        grid = plan[plan["requested_by"] == ""]
        plan = plan.assign(arm=plan["trajectory"].map(_arms(grid)).fillna(""))
        notes = tables[Predictions.name]
        if "note" in notes and notes["note"].astype(bool).any():
            why = str(notes.loc[notes["note"].astype(bool), "note"].iloc[0])
            findings.append(
                Finding(id=f"{PROBE}/agreement", probe=PROBE, metric=AGREEMENT).not_measured(why)
            )
        for attribute, classifier, instrument in readings(spec):
            if instrument not in tables:
                continue
            frame = outcome_frame(tables, plan, labels, attribute, instrument, classifier)
            found, shown = agreement(frame, attribute.name, instrument)
            findings += found
            figures += shown
            found, shown = switched(frame, attribute.class_names, attribute.name, instrument)
            findings += found
            figures += shown
        found, shown = colours(tables[LatentColours.name], grid)
        return Result(findings + found, figures + shown + _strip(plan))


def _arms(grid: pd.DataFrame) -> pd.Series:
    """Arm by trajectory."""
    named = grid.assign(arm=arm_labels(grid)).drop_duplicates("trajectory")
    return named.set_index("trajectory")["arm"]


def _switched(cell: Cell, switch: Switch, spec: Spec) -> Iterator[Cell]:
    """One image's switches; from its last step on nothing is exchanged: it is itself."""
    second = text_of(spec, cell.checkpoint, cell.adapters, switch.second)
    for step in dict.fromkeys(min(s, cell.steps) for s in switch.at):
        if step == cell.steps:
            yield cell._replace(requested_by=PROBE, kind=SWITCHED, second_text=second, switch=step)
            continue
        trajectory = canonical_digest({"from": cell.trajectory, "second": second, "switch": step})
        yield cell._replace(
            cell=canonical_digest({"trajectory": trajectory, "vae": cell.vae_file}),
            trajectory=trajectory,
            kind=SWITCHED,
            requested_by=PROBE,
            switch=step,
            text=second if step == 0 else cell.text,
            second_text=second,
        )


def colours(table: pd.DataFrame, grid: pd.DataFrame) -> tuple[list[Finding], list[Figure]]:
    """The latent-to-colour map of each VAE, and its R² on prompts that it was not fitted to."""
    findings, rows = [], []
    if "sums" not in table:
        return [], []
    held = grid.merge(table.drop_duplicates("cell"), on="cell")
    held = held[held["sums"].map(len) > 0]
    for (checkpoint, vae), part in held.groupby(["checkpoint", "vae"], sort=False):
        side = round(np.sqrt(len(part["sums"].iloc[0])))
        by_prompt = [
            np.sum([np.reshape(s, (side, side)) for s in own], axis=0)
            for _, own in part.groupby("prompt", sort=False)["sums"]
        ]
        total = np.sum(by_prompt, axis=0)
        found = fit(total)
        about = {"checkpoint": str(checkpoint), "vae": str(vae)}
        told = Finding(
            id=f"{PROBE}/latent-rgb/{slug(str(checkpoint))}/{slug(str(vae))}",
            probe=PROBE,
            metric=COLOUR_R2,
            subject=about,
            value=found.r2,
            n=len(part),
        )
        if len(by_prompt) > 1:
            outside = np.array([explained(p, _solution(total - p)) for p in by_prompt])
            told = replace(
                told,
                value=float(np.nanmean(outside)),
                estimator="least squares, mean over prompts left out one by one",
                n_clusters=len(by_prompt),
            )
        else:
            told = replace(told, estimator="least squares, on the images fitted to")
        findings.append(told)
        names = [f"channel {i}" for i in range(len(found.factors))] + ["constant"]
        for name, (r, g, b) in zip(names, [*found.factors, found.bias], strict=True):
            rows.append((str(checkpoint), str(vae), name, r, g, b))
    if not rows:
        return [], []
    shown = pd.DataFrame(rows, columns=["checkpoint", "vae", "latent", "red", "green", "blue"])
    caption = (
        "Linear map from latents to colours (0 to 1), fitted for each VAE by least squares: a "
        "preview without the decoder. R² is among the findings."
    )
    alt = "A table: red, green and blue by latent channel."
    return findings, [Figure("steps/latent-rgb", "table", shown, caption, alt)]


def _solution(total: np.ndarray) -> np.ndarray:
    found = fit(total)
    return np.vstack([found.factors, found.bias])


def _strip(plan: pd.DataFrame) -> list[Figure]:
    """The first seed of the first prompts: predicted images in the order of the steps."""
    shown = plan[(plan["kind"] == PREDICTED)].sort_values("step", kind="stable")
    first = shown[shown["seed"] == shown["seed"].min()]
    chosen = list(dict.fromkeys(plan.loc[plan["requested_by"] == "", "trajectory"]))
    chosen = [t for t in chosen if t in set(first["trajectory"])][:MOST_SHOWN]
    rows = []
    for number, trajectory in enumerate(chosen, 1):
        for row in first[first["trajectory"] == trajectory].itertuples():
            name = f"{number}. {row.arm} · {row.prompt}"
            rows.append((name, f"step {row.step + 1} of {row.steps}", row.cell, ""))
    if not rows:
        return []
    table = pd.DataFrame(rows, columns=["row", "column", "cell", "caption"])
    caption = "What the sampler takes the image to be after a step (predicted x0, decoded)."
    alt = "A strip of images for each prompt, from the first step to the last."
    return [Figure("steps/strip", "strip", table, caption, alt)]
