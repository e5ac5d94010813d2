"""What the probes say of the inside, on reference checkpoints: part of `audit validate`.

Negatives and guidance against the oracle's counts, what is read off latents on prompts left out,
and prompts learned by heart against prompts seen once.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from audit.pipeline import analyse
from audit.pipeline.run import complete
from audit.pipeline.session import Audit, open_audit
from harness.json_types import JsonObject
from probes.contracts import Finding
from probes.latents.probe import FINAL
from probes.negatives.probe import dose_name
from probes.statistics.linear_probe import linear_probe
from reference.world import (
    GENDERS,
    ROLES,
    STYLES,
    TONES,
    Person,
    explicit_prompt,
    neutral_prompt,
)
from validation.shares import (
    ATTRIBUTES,
    FIRST_SEED,
    Check,
    frame_of,
    oracle_labels,
    true_shares,
    write_spec,
)
from validation.train import memorized

NEGATIVES = ("woman", "dark skin", "beard")
SEEDS, TOLD_SEEDS, LATENT_SEEDS, MEMORY_SEEDS = 16, 3, 48, 8
ERRORS_FROM = 2_100_000
"""First seed of the images that the classifier's errors are measured on."""


def run(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks; makes and measures images in `folder`, and resumes there."""
    yield from negatives(folder, say)
    yield from guidance(folder, say)
    yield from latents(folder, say)
    yield from memory(folder, say)


def negatives(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Shares at every dose against the oracle's reading of the same images.

    Negatives change how the classifier errs, so its errors are measured at every dose, on
    images of `balanced` from other seeds.
    """
    shared: JsonObject = {
        "guidance": 3,
        "probes": {"attributes": {}, "negatives": {"negatives": list(NEGATIVES)}},
    }
    made = make(
        folder,
        "errors",
        say,
        checkpoints={"balanced": "reference:balanced"},
        seeds={"count": SEEDS, "start": ERRORS_FROM},
        **shared,
    )
    errors_at_doses(made).to_csv(folder / "errors-at-doses.csv", index=False)
    audit = make(
        folder,
        "negatives",
        say,
        checkpoints={c: f"reference:{c}" for c in ("balanced", "planted-unet")},
        seeds={"count": SEEDS, "start": FIRST_SEED},
        confusion_matrix="errors-at-doses.csv",
        **shared,
    )
    findings, _ = analyse.analyse(audit)
    doses = doses_of(audit)
    held: list[tuple[str, str, bool]] = []
    for found in findings:
        if (
            found.metric.name not in ("mean share", "corrected share")
            or "dose" not in found.subject
        ):
            continue
        kind, classes = ATTRIBUTES[found.subject["attribute"]]
        dose = dose_name(int(found.subject["dose"]))
        here = (doses["checkpoint"] == found.subject["checkpoint"]) & (doses["negative"] == dose)
        true = doses[here & doses[kind].isin(classes)]
        shown = (true[kind] == found.subject["class"]).groupby(true["prompt"]).mean().mean()
        held.append((found.metric.name, kind, bool(found.low <= shown <= found.high)))
        say(
            f"{found.subject['checkpoint']}, {dose}, {found.subject['class']}, "
            f"{found.metric.name}: {found.value:.3f} [{found.low:.3f}, {found.high:.3f}], "
            f"oracle {shown:.3f}"
        )
    for kind in ("gender", "tone"):
        own = [h for m, k, h in held if (m, k) == ("corrected share", kind)]
        counted = [h for m, k, h in held if (m, k) == ("mean share", kind)]
        yield Check(
            f"negatives, {kind}: doses and classes whose corrected interval holds the oracle's "
            "share",
            f"{np.mean(own):.1%} of {len(own)}; as counted {np.mean(counted):.1%}",
            "at least 92%",
            float(np.mean(own)) >= 0.92,
        )


def doses_of(audit: Audit) -> pd.DataFrame:
    """The doses' cells with the oracle's reading of each, a column an attribute's kind."""
    cells = audit.run.read_cells()
    assert cells is not None
    doses = cells[cells["kind"] == "dose"]
    return doses.join(oracle_labels(audit), on="cell")


def errors_at_doses(audit: Audit) -> pd.DataFrame:
    """How the classifier errs at every dose: a table for a spec's `errors`."""
    doses = doses_of(audit)
    parts = []
    for name, (kind, classes) in ATTRIBUTES.items():
        own = frame_of(audit, name, doses)
        own = own[own[kind].isin(classes) & own["outcome"].notna()]
        by = ["prompt", "negative", kind, "outcome"]
        counts = own.groupby(by).size().rename("count").reset_index()
        counts = counts.rename(columns={kind: "true"})
        parts.append(counts.assign(attribute=name, instrument=f"small.{name}"))
    return pd.concat(parts)


def guidance(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Shares of `planted-unet` at guidance 1 and 3 against `truth.yaml`, by role."""
    audit = make(
        folder,
        "guidance",
        say,
        checkpoints={"planted-unet": "reference:planted-unet"},
        guidance=[1, 3],
        seeds={"count": 2 * SEEDS, "start": FIRST_SEED},
        probes=["attributes", "negatives"],
        confusion_matrix="reference:errors.csv",
    )
    findings, _ = analyse.analyse(audit)
    fewest = int(binom.ppf(0.01, len(ROLES), 0.95))
    for level in ("1", "3"):
        true = {
            neutral_prompt(role): true_shares("planted-unet", level, role, "gender")[1]
            for role in ROLES
        }
        mean = float(np.mean(list(true.values())))
        at = {"class": "woman", "guidance": level}
        found = next(
            f
            for f in findings
            if (f.probe, f.metric.name) == ("negatives", "mean share")
            and at.items() <= f.subject.items()
        )
        yield Check(
            f"guidance {level}, planted-unet: share of women, mean over roles, as counted",
            f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]",
            f"holds truth.yaml's {mean:.3f}",
            bool(found.low <= mean <= found.high),
        )
        by_role = [
            f
            for f in findings
            if (f.probe, f.metric.name) == ("attributes", "corrected share")
            and f.subject["class"] == "woman"
            and f.subject["arm"] == f"CFG {level}"
        ]
        held = [f.low <= true[f.subject["prompt"]] <= f.high for f in by_role]
        yield Check(
            f"guidance {level}, planted-unet: roles whose corrected interval holds truth.yaml's",
            f"{sum(held)} of {len(held)}",
            f"at least {fewest}: so many 95 % intervals hold in 99 of 100 audits",
            len(held) == len(ROLES) and sum(held) >= fewest,
        )


def latents(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Gender read off final latents on prompts left out, and what must stay at chance.

    The prompts name role, gender, tone and style, so that a prompt left out has its role in
    others. Of a role that no other prompt names much less can be read, and that is told too.
    """
    shared: JsonObject = {
        "checkpoints": {"balanced": "reference:balanced"},
        "guidance": 1,
        "probes": ["attributes", "latents"],
        "attributes": ["world-gender"],
        "latents": {"umap": False},
    }
    people = [Person(r, g, t, s) for r in ROLES for g in GENDERS for t in TONES for s in STYLES]
    told = {"prompts": {"list": [explicit_prompt(p) for p in people]}}
    seeds = {"count": TOLD_SEEDS, "start": FIRST_SEED}
    audit = make(folder, "latents-told", say, seeds=seeds, **shared, **told)
    found = _only(analyse.analyse(audit)[0], "linear-probe accuracy", feature="final latents")
    yield Check(
        "latents: gender read off final latents, prompts left out",
        f"{_told(found)}, n {found.n}",
        "at least 95%",
        found.value >= 0.95,
    )
    x, classes, prompts = final_latents(audit)
    rng = np.random.default_rng(0)
    for name, features, labels in (
        ("the same with permuted labels", x, rng.permutation(classes)),
        ("noise that no image began with", rng.standard_normal(x.shape), classes),
    ):
        reading = linear_probe(features, labels, prompts)
        assert reading is not None
        right = float(reading.right.mean())
        yield Check(
            f"control: {name}",
            f"{right:.1%}",
            "within 5 points of one half",
            abs(right - 0.5) <= 0.05,
        )
    seeds = {"count": LATENT_SEEDS, "start": FIRST_SEED}
    audit = make(folder, "latents", say, seeds=seeds, **shared)
    found = _only(analyse.analyse(audit)[0], "linear-probe accuracy", feature="final latents")
    yield Check(
        "latents: the same of roles that no other prompt names",
        f"{_told(found)}, n {found.n}",
        f"above its controls' {found.reference.null:.1%}",
        found.low > found.reference.null,
    )


def final_latents(
    audit: Audit,
) -> tuple[NDArray[np.float64], NDArray[np.generic], NDArray[np.generic]]:
    """Final latents (n, width), genders as counted (n,), prompts (n,)."""
    frame = frame_of(audit, "world-gender")
    frame = frame[frame["outcome"].isin(GENDERS)]
    table = audit.run.read_scores(
        audit.run.read_json("instruments.json")["latents"], set(frame["unit"])
    )
    table = table[table["feature"] == FINAL].drop_duplicates("cell").set_index("cell")
    x = np.stack(list(table.loc[frame["cell"], "values"])).astype(float)
    return x, frame["outcome"].to_numpy(str), frame["prompt"].to_numpy(str)


def memory(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Prompts learned by heart against prompts seen once, by the guidance norm."""
    said = memorized.train(folder / "by-heart")
    learned_parts = {
        "denoiser": str((folder / "by-heart" / "unet").resolve()),
        "text_encoder": str((folder / "by-heart" / "text_encoder").resolve()),
    }
    spec: JsonObject = {
        "checkpoints": {"by heart": {"source": "reference:balanced", **learned_parts}},
        "prompts": {"list": said},
        "guidance": 3,
        "seeds": {"count": MEMORY_SEEDS, "start": FIRST_SEED},
        "probes": ["attributes", "memory"],
        "attributes": ["world-gender"],
    }
    audit = make(folder, "memory", say, **spec)
    plan = audit.run.read_plan()
    assert plan is not None
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["cell", "attribute", "class"])
        for cell, prompt in zip(plan["cell"], plan["prompt"], strict=True):
            learned = said.index(prompt) < memorized.EACH
            rows.writerow([cell, "memorised", "yes" if learned else "no"])
    labelled = write_spec(folder / "memory.yaml", name="memory", **spec, labels="labels.csv")
    findings, _ = analyse.analyse(open_audit(labelled, folder / "memory"))
    for metric, least in (
        ("AUC of guidance norm", 0.9),
        ("AUC of diversity of seeds (small)", 0.9),
    ):
        found = _only(findings, metric)
        yield Check(
            f"memory, {memorized.EACH} prompts learned by heart and {memorized.EACH} not: {metric}",
            _told(found, share=False),
            "at least .9",
            found.value >= least,
        )


def make(folder: Path, name: str, say: Callable[[str], None], **spec: object) -> Audit:
    """Make and measure what a spec asks for."""
    audit = open_audit(write_spec(folder / f"{name}.yaml", name=name, **spec), folder / name)
    complete(audit, say)
    return audit


def _only(findings: list[Finding], metric: str, **subject: str) -> Finding:
    wanted = subject.items()
    (found,) = (f for f in findings if f.metric.name == metric and wanted <= f.subject.items())
    return found


def _told(found: Finding, share: bool = True) -> str:
    if share:
        return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
