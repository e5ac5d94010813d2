"""A run directory of any size without a model: squares for images, random scores.

Plan, files and report are written by the functions that write real ones, so that a reader of
runs cannot tell the difference. Used by benchmarks and by the dashboard's tests.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from harness.hashing import sha256
from harness.images.a1111 import write_parameters
from harness.plan.cells import Arm, make_plan, units_of
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec, parse_spec
from harness.store.damage import check
from harness.store.run import Run
from probes.attributes.metrics import SHARE
from probes.contracts import Figure, Finding, Reference
from probes.finding_rows import findings_frame
from probes.statistics.intervals import share_interval
from reports import ReportData
from reports.formats.json import as_json

SIDE, DIMENSIONS, DISTINCT = 32, 32, 64
"""Of images in px, of embeddings, and how many different images there are."""
LARGE = {"checkpoints": 4, "vaes": 2, "prompts": 250, "seeds": 50, "attributes": 8, "batch": 250}
"""100,000 images and 1.1 million rows of scores."""


def make(
    folder: Path,
    *,
    checkpoints: int = 2,
    vaes: int = 2,
    prompts: int = 4,
    seeds: int = 4,
    attributes: int = 2,
    batch: int = 16,
    prompt_texts: list[str] | None = None,
) -> Run:
    """Write a whole run: checkpoints x vaes x prompts x seeds images, attributes + 3 scores each.

    Args:
        folder: where; made.
        checkpoints: how many.
        vaes: how many; the first is 'own'.
        prompts: how many.
        seeds: of every prompt.
        attributes: of three classes each; every one is scored for every image.
        batch: images a unit.
        prompt_texts: in place of 'a portrait of worker N'.
    """
    texts = prompt_texts or [f"a portrait of worker {i}" for i in range(prompts)]
    spec = _spec(folder, checkpoints, vaes, texts, seeds, attributes, batch)
    run = Run(folder)
    arms = {
        name: Arm(
            digests={"text_encoder": sha256(b"t"), "denoiser": sha256(name.encode())},
            schedulers={"own": sha256(b"s")},
            vaes={vae: sha256(vae.encode()) for vae in spec.vaes},
            size=(SIDE, SIDE),
        )
        for name in spec.checkpoints
    }
    plan = make_plan(spec, [Prompt(t, {}, "", {}) for t in texts], arms)
    run.write_text("spec.yaml", yaml.safe_dump(spec.model_dump(mode="json"), allow_unicode=True))
    run.write_plan(plan)
    run.write_provenance({"base": str(folder), "audited": [], "made with": {}})
    names = ["small.likeness", "fidelity", "skin", *(f"small.{a.name}" for a in spec.attributes)]
    run.write_json("instruments.json", {name: f"{name}@0" for name in names})
    rng = np.random.default_rng(0)
    pictures = [_png(rng) for _ in range(DISTINCT)]
    counts: dict[tuple[str, ...], int] = {}
    for unit in units_of(plan):
        for vae, rows in unit.rows.groupby("vae_file"):
            cells = rows.drop_duplicates("cell").reset_index(drop=True)
            picked = rng.integers(DISTINCT, size=len(cells))
            images = [
                {"cell": c, "png": pictures[i][0], "sha256": pictures[i][1], "reason": None}
                for c, i in zip(cells["cell"], picked, strict=True)
            ]
            run.write_images(unit.id, str(vae), images)
            _score(run, spec, unit.id, str(vae), cells, picked, rng, counts)
    findings = _findings(spec, plan, counts)
    run.write_table("findings.parquet", findings_frame(findings))
    data = ReportData(
        title="synthetic",
        audited=[{"kind": "denoiser", "name": n, "digest": sha256(n.encode())} for n in arms],
        settings={"prompts": len(texts)},
        findings=findings,
        figures=_figures(findings, plan),
        attrition=pd.DataFrame(columns=["arm", "planned", "made", "failed", "reason"]),
        provenance={},
        reproduce=[],
        images=lambda cell: None,
    )
    run.write_json("report/report.json", as_json(data))
    check(run, lambda text: None)
    return run


def _spec(
    folder: Path,
    checkpoints: int,
    vaes: int,
    texts: list[str],
    seeds: int,
    attributes: int,
    batch: int,
) -> Spec:
    raw: dict[str, Any] = {
        "name": "synthetic",
        "checkpoints": {f"model-{i}": f"model-{i}.safetensors" for i in range(checkpoints)},
        "vaes": {"own": "own"} | {f"vae-{i}": f"vae-{i}.safetensors" for i in range(1, vaes)},
        "prompts": {"list": texts},
        "seeds": seeds,
        "attributes": [
            {
                "name": f"look-{i}",
                "classes": [
                    {"name": n, "prompts": [f"{n} {i}"]} for n in ("round", "square", "odd")
                ],
            }
            for i in range(attributes)
        ],
        "classifiers": {"small": {"model": "ViT-B-32", "pretrained": "none"}},
        "probes": ["attributes", "vae"],
        "batch_size": batch,
    }
    return parse_spec(raw, folder / "spec.yaml")


def _png(rng: np.random.Generator) -> tuple[bytes, str]:
    """A square on a ground, and the digest of its pixels."""
    from PIL.PngImagePlugin import PngInfo

    pixels = np.full((SIDE, SIDE, 3), rng.integers(200, 256, 3), np.uint8)
    top, left = rng.integers(2, SIDE // 2, 2)
    pixels[top : top + 12, left : left + 12] = rng.integers(0, 200, 3)
    chunks = PngInfo()
    chunks.add_itxt("parameters", write_parameters("a prompt", "", {"Steps": "20", "Seed": "1"}))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue(), sha256(pixels.tobytes())


def _score(
    run: Run,
    spec: Spec,
    unit: str,
    vae: str,
    cells: pd.DataFrame,
    picked: np.ndarray,
    rng: np.random.Generator,
    counts: dict[tuple[str, ...], int],
) -> None:
    n = len(cells)
    centre = np.random.default_rng(1).normal(size=(DISTINCT, DIMENSIONS))
    vectors = (centre[picked] + 0.3 * rng.normal(size=(n, DIMENSIONS))).astype(np.float32)
    likeness = pd.DataFrame(
        {"cell": cells["cell"], "likeness": rng.random(n), "embedding": list(vectors)}
    )
    run.write_scores("small.likeness@0", unit, vae, likeness)
    errors = {"mse": rng.random(n) / 100, "delta_e": 5 * rng.random(n)}
    errors["lightness_shift"] = rng.normal(size=n)
    run.write_scores("fidelity@0", unit, vae, pd.DataFrame({"cell": cells["cell"]} | errors))
    skin = {"lightness": 100 * rng.random(n), "ita": 180 * rng.random(n) - 90}
    run.write_scores("skin@0", unit, vae, pd.DataFrame({"cell": cells["cell"]} | skin))
    for attribute in spec.attributes:
        names = attribute.class_names
        table = pd.DataFrame(
            rng.dirichlet(np.full(len(names), 0.3), n), columns=[f"class:{c}" for c in names]
        )
        told = np.array(names)[table.to_numpy().argmax(axis=1)]
        for key in zip(cells["checkpoint"], cells["vae"], cells["prompt"], told, strict=True):
            full = (attribute.name, *key)
            counts[full] = counts.get(full, 0) + 1
        table.insert(0, "cell", cells["cell"])
        table["nobody"] = table["several"] = float("nan")
        run.write_scores(f"small.{attribute.name}@0", unit, vae, table)


def _findings(spec: Spec, plan: pd.DataFrame, counts: dict[tuple[str, ...], int]) -> list[Finding]:
    """A share of the first class by attribute, arm and prompt; those of one arm as headlines."""
    found = []
    arms = plan[["checkpoint", "vae", "prompt"]].drop_duplicates()
    for attribute in spec.attributes[:2]:
        first = attribute.class_names[0]
        for row in arms.itertuples():
            key = (attribute.name, row.checkpoint, row.vae, row.prompt)
            n = sum(counts.get((*key, c), 0) for c in attribute.class_names)
            share = share_interval(counts.get((*key, first), 0), n)
            found.append(
                Finding(
                    id=f"attributes/share/{'/'.join(key)}",
                    probe="attributes",
                    metric=SHARE,
                    subject={
                        "checkpoint": row.checkpoint,
                        "vae": row.vae,
                        "arm": f"{row.checkpoint} · {row.vae}",
                        "attribute": attribute.name,
                        "class": first,
                        "prompt": row.prompt,
                    },
                    value=share.value,
                    low=share.low,
                    high=share.high,
                    headline=row.vae == "own",
                    n=n,
                    reference=Reference(
                        attribute.shares()[first], 1 / 3, targets=attribute.shares()
                    ),
                    instrument=f"small.{attribute.name}",
                )
            )
    return found


def _figures(findings: list[Finding], plan: pd.DataFrame) -> list[Figure]:
    chart = pd.DataFrame(
        [
            {"label": f.subject["prompt"], "value": f.value, "low": f.low, "high": f.high}
            | {
                "group": f.subject["arm"],
                "facet": f.subject["class"],
                "target": f.reference.null,
                "n": f.n,
            }
            for f in findings
            if f.subject["attribute"] == "look-0"
        ]
    )
    first = plan[plan["seed"] == plan["seed"].min()].head(16)
    grid = pd.DataFrame(
        {
            "row": first["prompt"],
            "column": first["checkpoint"] + " " + first["vae"],
            "cell": first["cell"],
            "caption": "",
        }
    )
    return [
        Figure("shares/small.look-0", "bar", chart, "Shares by prompt", "dots with intervals"),
        Figure("grid/prompt/checkpoint", "grid", grid, "prompt by checkpoint", "a grid"),
    ]
