"""`audit attribute`: exchange the three components of two checkpoints in all combinations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from audit.pipeline.plan import begin, plan_audit
from audit.pipeline.run import generate, score, working
from audit.pipeline.session import Audit, open_audit
from harness.errors import SpecError
from harness.json_types import JsonObject
from harness.progress import Say
from harness.spec.schema import Spec
from harness.spec.sections import CheckpointSpec, Loras, Strength
from harness.text import nearest
from probes.attributes.outcomes import outcome_frame, readings, reported_classes
from probes.components.shapley import (
    CARRIED,
    LEFT_OVER,
    PROBE,
    WHOLE,
    attribute_share,
    combinations,
)
from probes.contracts import Figure, Finding

STEREOTYPE = "stereotype"
"""Column of the prompts' table: the class that the prompt's stereotype expects."""


def mixed(spec: Spec, a: str, b: str) -> Spec:
    """The spec with the four mixes of text encoder and denoiser, and both VAEs.

    Settings that a checkpoint carries (sampler, steps, guidance, trigger words) stay those of A,
    so that components alone differ.

    Raises:
        SpecError: No such checkpoint, or both are the same name.
    """
    for name in (a, b):
        if name not in spec.checkpoints:
            raise SpecError(f"{name!r} is no checkpoint; {nearest(name, tuple(spec.checkpoints))}")
    one, two = spec.checkpoints[a], spec.checkpoints[b]
    mixes: dict[str, CheckpointSpec] = {}
    for text, denoiser, vae in combinations():
        if not vae:
            mixes[mix_name(text, denoiser)] = one.model_copy(
                update={
                    "text_encoder": _source(two if text else one, "text_encoder"),
                    "denoiser": _source(two if denoiser else one, "denoiser"),
                    "loras": _loras(two if text else one, two if denoiser else one),
                }
            )
    vaes = {"A": _source(one, "vae"), "B": _source(two, "vae")}
    update: JsonObject = {"checkpoints": mixes, "vaes": vaes, "baseline": None}
    return spec.model_copy(update=update)


def mix_name(text: bool, denoiser: bool) -> str:
    """What the mix of a text encoder and a denoiser is called; True: B's."""
    return f"text {'B' if text else 'A'}, denoiser {'B' if denoiser else 'A'}"


def run(spec_path: Path, a: str, b: str, folder: Path, say: Say) -> Audit:
    """Make and measure all eight combinations; run again to resume."""
    audit = open_audit(spec_path, folder)
    audit = replace(audit, spec=mixed(audit.spec, a, b))
    with working(audit, say):
        plan, provenance = plan_audit(audit, say)
        provenance |= {"exchanged": {"A": a, "B": b}}
        begin(audit, plan, provenance)
        generate(audit, plan, say)
        score(audit, plan, say)
    return audit


def findings(audit: Audit) -> list[Finding]:
    """Shapley values of every class of every attribute by every classifier."""
    plan = audit.run.read_plan()
    assert plan is not None
    names = (audit.run.provenance() or {})["exchanged"]
    folders = audit.run.instruments()
    tables = {n: audit.run.read_scores(f, set(plan["unit"])) for n, f in folders.items()}
    found: list[Finding] = []
    for attribute, classifier, instrument in readings(audit.spec):
        frame = outcome_frame(tables, plan, audit.run.labels(), attribute, instrument, classifier)
        told = frame["outcome"].isin(attribute.class_names)
        for one in reported_classes(attribute):
            hit = (frame["outcome"] == one).astype(float).where(told)
            subject = {"attribute": attribute.name, "class": one}
            subject |= {"checkpoint": names["B"], "baseline": names["A"]}
            declared = {
                p.text: 1 if p.slots[STEREOTYPE] == one else -1
                for p in audit.prompts
                if p.slots.get(STEREOTYPE)
            }
            wide = by_combination(frame.assign(hit=hit))
            found += attribute_share(wide, subject, instrument, declared)
    return found


def by_combination(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt and seed: columns 0 to 7 hold `hit` of each of `combinations()`."""
    columns = {}
    for i, (text, denoiser, vae) in enumerate(combinations()):
        own = (frame["checkpoint"] == mix_name(text, denoiser)) & (
            frame["vae"] == ("B" if vae else "A")
        )
        columns[i] = frame[own].set_index(["prompt", "seed"])["hit"]
    return pd.DataFrame(columns).reset_index()


def figures(found: list[Finding]) -> list[Figure]:
    """A bar a component, for every attribute and class."""
    carried = {metric: component for component, metric in CARRIED.items()}
    rows = [
        (
            carried[f.metric],
            f.value,
            f.low,
            f.high,
            f"{f.subject['attribute']}: {f.subject['class']} ({f.instrument})",
        )
        for f in found
        if f.metric in carried and f.estimand == "this suite"
    ]
    if not rows:
        return []
    table = pd.DataFrame(rows, columns=["label", "value", "low", "high", "facet"])
    caption = (
        "What each component carries of the difference between the checkpoints, along the "
        "prompts' stereotypes: Shapley values with 95 % intervals. They sum to the whole."
    )
    alt = "A dot with an interval for the text encoder, the denoiser and the VAE."
    return [
        Figure(f"{PROBE}/shapley", "bar", table.assign(group="", target=0.0), caption, alt, PROBE)
    ]


def table(found: list[Finding]) -> list[str]:
    """Lines for the terminal: one a component, the whole, and what is left over."""
    lines = []
    for f in found:
        if f.estimand == "this suite" and f.metric in (*CARRIED.values(), WHOLE, LEFT_OVER):
            about = f"{f.subject['attribute']} {f.subject['class']} ({f.instrument})"
            bounds = f"[{f.low:+.3f}, {f.high:+.3f}]"
            lines.append(f"{about}: {f.metric.name}: {f.value:+.3f} {bounds}, n {f.n}")
    return lines


def _loras(text: CheckpointSpec, denoiser: CheckpointSpec) -> Loras:
    """Each component keeps the LoRAs of the checkpoint that it comes from."""
    files = [*text.loras, *(f for f in denoiser.loras if f not in text.loras)]
    nothing = Strength()
    return {
        file: Strength(
            denoiser=denoiser.loras.get(file, nothing).denoiser,
            text_encoder=text.loras.get(file, nothing).text_encoder,
        )
        for file in files
    }


def _source(checkpoint: CheckpointSpec, part: str) -> str:
    own: str | None = getattr(checkpoint, part)
    return own or checkpoint.source
