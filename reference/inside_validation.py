"""What the probes say of the inside, on reference checkpoints: part of `audit validate`.

Negatives and guidance against the oracle's counts, what is read off latents on prompts left out,
and prompts learned by heart against prompts seen once.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from audit import analysis
from audit.opening import Audit, open_audit
from audit.plan import noise_seed
from audit.run import complete
from audit.stats import share_interval
from probes import Exhibit, Finding
from probes.planes import linear_probe
from reference.train import by_heart
from reference.validation import (
    ATTRIBUTES,
    FIRST_SEED,
    Check,
    frame_of,
    oracle_labels,
    true_shares,
    write_spec,
)
from reference.world import ROLES, neutral_prompt

NEGATIVES = ("woman", "dark skin", "beard")
SEEDS, LATENT_SEEDS, MEMORY_SEEDS = 16, 48, 4


def run(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks; makes and measures pictures in `folder`, and resumes there."""
    yield from negatives(folder, say)
    yield from guidance(folder, say)
    yield from latents(folder, say)
    yield from memory(folder, say)


def negatives(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Shares at every dose against the oracle's reading of the same pictures."""
    audit = make(
        folder,
        "negatives",
        say,
        checkpoints={c: f"reference:{c}" for c in ("balanced", "planted-unet")},
        guidance=3,
        seeds={"count": SEEDS, "start": FIRST_SEED},
        probes=["attributes", "negatives"],
        doses={"negatives": list(NEGATIVES)},
    )
    _, exhibits = analysis.analyse(audit)
    labels = oracle_labels(audit)
    cells = audit.run.read_cells()
    assert cells is not None
    doses = cells[cells["kind"] == "dose"]
    held: list[tuple[str, bool]] = []
    for name, (kind, classes) in ATTRIBUTES.items():
        truth = doses.assign(true=doses["cell"].map(labels[kind]))
        truth = truth[truth["true"].isin(classes)]
        # Of two classes the second says all.
        for each in classes[1:] if len(classes) == 2 else classes:
            shown = _table(exhibits, f"negatives/dose/small.{name}/{each}")
            wanted = (
                truth.assign(y=truth["true"] == each)
                .groupby(["checkpoint", "negative", "prompt"])["y"]
                .mean()
                .groupby(level=["checkpoint", "negative"])
                .mean()
            )
            for row in shown.itertuples():
                dose = f"first {row.x:g} negatives" if row.x else "no negatives"
                checkpoint = str(row.facet).split(" · ")[0]
                true = wanted[checkpoint, dose]
                held.append((kind, row.low <= true <= row.high))
                say(
                    f"{checkpoint}, {dose}, {each}: {row.value:.3f} [{row.low:.3f}, "
                    f"{row.high:.3f}], oracle {true:.3f}"
                )
    for kind in ("gender", "tone"):
        own = [h for k, h in held if k == kind]
        yield Check(
            f"negatives, {kind}: doses and classes whose interval holds the oracle's share",
            f"{np.mean(own):.1%} of {len(own)}",
            "at least 92%",
            float(np.mean(own)) >= 0.92,
        )


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
    )
    _, exhibits = analysis.analyse(audit)
    frame = frame_of(audit, "world-gender")
    shown = _table(exhibits, "negatives/guidance/small.world-gender/woman").set_index("x")
    for level in ("1", "3"):
        held, true = [], []
        for role in ROLES:
            here = (frame["prompt"] == neutral_prompt(role)) & (frame["guidance"] == float(level))
            counts = frame.loc[here, "outcome"].value_counts()
            women, men = int(counts.get("woman", 0)), int(counts.get("man", 0))
            _, low, high = share_interval(women, women + men)
            true.append(true_shares("planted-unet", level, role, "gender")[1])
            held.append(low <= true[-1] <= high)
        row = shown.loc[float(level)]
        yield Check(
            f"guidance {level}, planted-unet: share of women, mean over roles",
            f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            f"holds truth.yaml's {np.mean(true):.3f}",
            bool(row["low"] <= np.mean(true) <= row["high"]),
        )
        yield Check(
            f"guidance {level}, planted-unet: roles whose interval as counted holds truth.yaml's",
            f"{sum(held)} of {len(held)}",
            "at least 92%",
            float(np.mean(held)) >= 0.92,
        )


def latents(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Gender read off final latents on prompts left out, and what must stay at chance."""
    audit = make(
        folder,
        "latents",
        say,
        checkpoints={"balanced": "reference:balanced"},
        guidance=1,
        seeds={"count": LATENT_SEEDS, "start": FIRST_SEED},
        probes=["attributes", "latents"],
        attributes=["world-gender"],
        latents={"umap": False},
    )
    findings, _ = analysis.analyse(audit)
    found = _only(findings, "read from features", feature="final latents")
    yield Check(
        "latents: gender read off final latents, prompts left out",
        f"{_told(found)}, n {found.n}",
        "at least 95%",
        found.value >= 0.95,
    )
    chance = float(found.note.split("permuted: ")[1].split("%")[0]) / 100
    yield Check(
        "control: the same with permuted labels",
        f"{chance:.1%}",
        "within 5 points of one half",
        abs(chance - 0.5) <= 0.05,
    )
    frame = frame_of(audit, "world-gender")
    frame = frame[frame["outcome"].isin(("man", "woman"))]
    # Noise that belongs to other prompts' seeds has nothing to do with these pictures.
    fresh = np.stack(
        [
            np.random.default_rng(
                noise_seed("not in the suite", int(i), shared=False)
            ).standard_normal(512)
            for i in range(len(frame))
        ]
    )
    reading = linear_probe(fresh, frame["outcome"].to_numpy(str), frame["prompt"].to_numpy(str))
    assert reading is not None
    right = float(reading.right.mean())
    yield Check(
        "control: fresh noise, unrelated to the pictures",
        f"{right:.1%}",
        "within 5 points of one half",
        abs(right - 0.5) <= 0.05,
    )


def memory(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """Prompts learned by heart against prompts seen once, by the guidance norm."""
    said = by_heart.train(folder / "by-heart")
    denoiser = str((folder / "by-heart").resolve())
    spec: dict[str, Any] = {
        "checkpoints": {"by heart": {"source": "reference:balanced", "denoiser": denoiser}},
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
            learned = said.index(prompt) < by_heart.EACH
            rows.writerow([cell, "memorised", "yes" if learned else "no"])
    labelled = write_spec(folder / "memory.yaml", name="memory", **spec, labels="labels.csv")
    findings, _ = analysis.analyse(open_audit(labelled, folder / "memory"))
    for metric, least in (
        ("AUC of guidance norm", 0.9),
        ("AUC of diversity of seeds (small)", 0.9),
    ):
        found = _only(findings, metric)
        yield Check(
            f"memory, {by_heart.EACH} prompts learned by heart and {by_heart.EACH} not: {metric}",
            _told(found, share=False),
            "at least .9",
            found.value >= least,
        )


def make(folder: Path, name: str, say: Callable[[str], None], **spec: Any) -> Audit:
    """Make and measure what a spec asks for."""
    audit = open_audit(write_spec(folder / f"{name}.yaml", name=name, **spec), folder / name)
    complete(audit, say)
    return audit


def _table(exhibits: list[Exhibit], name: str) -> pd.DataFrame:
    return next(e.table for e in exhibits if e.id == name)


def _only(findings: list[Finding], metric: str, **subject: str) -> Finding:
    wanted = subject.items()
    (found,) = (f for f in findings if f.metric == metric and wanted <= f.subject.items())
    return found


def _told(found: Finding, share: bool = True) -> str:
    if share:
        return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
