"""`audit components` on mixes of components whose part is known: part of `audit validate`.

Three candidates against `balanced`, of which all components differ in bytes and one, another or
all in effect. What the suite says is held against the oracle's full swap on other seeds
(`attribution_truth.yaml`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from audit.pipeline import component_swaps
from probes.components.shapley import COMPONENTS
from probes.contracts import Finding
from reference.world import HERE, ROLES, neutral_prompt
from validation import shares
from validation.shares import FIRST_SEED, Check
from validation.train.attribution_truth import BASE, CANDIDATES, Mix
from validation.train.shares import stereotype

SEEDS = 32
NULL = {"planted denoiser": ("text encoder", "VAE"), "planted text encoder": ("denoiser", "VAE")}
"""Components of a candidate that differ in bytes alone."""


def run(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks; makes and measures images in `folder`, and resumes there.

    Args:
        folder: Where.
        say: Takes progress.
    """
    truth = yaml.safe_load((HERE / "attribution_truth.yaml").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    path = write_spec(folder)
    for name in CANDIDATES:
        audit = component_swaps.run(path, "base", name, folder / name.replace(" ", "-"), say)
        yield from checks_of(name, component_swaps.findings(audit), truth[name]["shapley"])
    audit = component_swaps.run(path, "base", "base again", folder / "base-again", say)
    found = by_component(component_swaps.findings(audit))
    exact = all(f.value == 0 for f in found.values())
    values = ", ".join(f"{f.value:g}" for f in found.values())
    yield Check("attribution, balanced against itself", values, "exactly 0", exact)


def checks_of(name: str, findings: list[Finding], truth: dict[str, float]) -> Iterator[Check]:
    """One check a component, and the sum."""
    found = by_component(findings)
    for component in COMPONENTS:
        f, wanted = found[component], 0.0 if component in NULL.get(name, ()) else truth[component]
        yield Check(
            f"attribution, {name}: the {component}",
            f"{f.value:+.4f} [{f.low:+.4f}, {f.high:+.4f}]",
            f"holds the oracle's {truth[component]:+.4f}"
            + (" and 0" if component in NULL.get(name, ()) else ""),
            f.low <= truth[component] <= f.high and f.low <= wanted <= f.high,
        )
    whole = found["whole"].value
    rest = abs(sum(found[c].value for c in COMPONENTS) - whole)
    yield Check(f"attribution, {name}: sum less the whole", f"{rest:.1e}", "1e-9", rest <= 1e-9)


def by_component(findings: list[Finding]) -> dict[str, Finding]:
    """Findings of 'this suite' by component, and the whole."""
    names = {f"difference carried by the {c}": c for c in COMPONENTS}
    names["difference of the whole"] = "whole"
    return {
        names[f.metric.name]: f
        for f in findings
        if f.estimand == "this suite" and f.metric.name in names and f.subject["class"] == "woman"
    }


def write_spec(folder: Path) -> Path:
    """The spec of all candidates and its table of prompts."""
    with (folder / "prompts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "stereotype"])
        writer.writerows([neutral_prompt(role), stereotype(role)] for role in ROLES)
    again: dict[str, Mix] = {"base": BASE, "base again": BASE}
    checkpoints = {
        name: {
            "source": "reference:balanced",
            "text_encoder": f"reference:{text}",
            "denoiser": f"reference:{unet}",
            "vae": f"reference:{vae}",
        }
        for name, (text, unet, vae) in (again | CANDIDATES).items()
    }
    return shares.write_spec(
        folder / "audit.yaml",
        name="attribution",
        checkpoints=checkpoints,
        prompts={"csv": "prompts.csv"},
        seeds={"count": SEEDS, "start": FIRST_SEED},
        guidance=1,
        attributes=["world-gender"],
    )
