"""A made-up run of any size, and how long its report takes.

    python -m benchmarks.report FOLDER --images 100000 --report

Writes what an audit of four checkpoints with two classifiers and four attributes leaves behind:
ten rows of scores a picture (1,000,000 at 100,000 pictures) in one file a batch, instrument and
VAE. The numbers mean nothing. With --report each step's wall and CPU seconds are printed, the
page's size, and the most memory held; the CPU seconds are those of an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from audit.plan import Cell
from audit.spec import parse_spec
from audit.store import Run

CHECKPOINTS = ("base", "tuned", "merged", "distilled")
CLASSIFIERS = ("small", "large")
ATTRIBUTES = ("gender-presentation", "age-group", "skin-tone", "revealing-clothing")
SEEDS, BATCH, DIMENSIONS = 100, 32, 64
VAE = "v" * 16


def write_run(folder: Path, images: int, batch: int = BATCH, seed: int = 0) -> Path:
    """Write a run of about so many pictures (a multiple of 4 checkpoints x 100 seeds)."""
    prompts = max(20, images // (len(CHECKPOINTS) * SEEDS))
    seeds = max(1, images // (len(CHECKPOINTS) * prompts))
    raw = {
        "name": f"synthetic {images:,}",
        "checkpoints": dict.fromkeys(CHECKPOINTS, "reference:balanced"),
        "prompts": {
            "list": [f"a portrait of somebody at work, number {i}" for i in range(prompts)]
        },
        "seeds": seeds,
        "attributes": list(ATTRIBUTES),
        "classifiers": dict.fromkeys(CLASSIFIERS, "reference:balanced"),
        "baseline": CHECKPOINTS[0],
        "batch_size": batch,
        "device": "cpu",
        "dtype": "float32",
    }
    spec = parse_spec(raw, folder / "spec.yaml")
    run = Run(folder)
    dumped = spec.model_dump(mode="json")
    run.write_text("spec.yaml", yaml.safe_dump(dumped, sort_keys=False))
    run.write_json(
        "provenance.json",
        {
            "spec": spec.digest(),
            "base": str(folder),
            "audited": [
                {"kind": "denoiser", "name": n, "source": "synthetic", "digest": f"{i:064x}"}
                for i, n in enumerate(CHECKPOINTS)
            ],
            "made with": {"batch size": batch, "device": "cpu", "dtype": "float32"},
        },
    )
    plan = plan_of(prompts, seeds, batch)
    run.write_plan(plan)
    names = [f"{c}.{a.name}" for c in CLASSIFIERS for a in spec.attributes]
    names += [f"{c}.likeness" for c in CLASSIFIERS]
    run.write_json("instruments.json", {n: f"{n}@synthetic" for n in names})
    rng = np.random.default_rng(seed)
    classes = {a.name: list(a.class_names) for a in spec.attributes}
    pictures = [_png(rng) for _ in range(64)]
    for unit, part in plan.groupby("unit", sort=False):
        cells = part["cell"].to_numpy()
        rows: list[dict[str, Any]] = [
            {"cell": c, "png": pictures[i % 64], "sha256": c, "reason": ""}
            for i, c in enumerate(cells)
        ]
        run.write_images(str(unit), VAE, rows)
        for name in names:
            kind = name.split(".")[1]
            run.write_scores(
                f"{name}@synthetic", str(unit), VAE, _scores(rng, cells, classes.get(kind))
            )
    return folder


def plan_of(prompts: int, seeds: int, batch: int) -> pd.DataFrame:
    """The plan: checkpoint by checkpoint, prompt by prompt, cut into batches."""
    n = len(CHECKPOINTS) * prompts * seeds
    at = np.arange(n)
    prompt = at // seeds % prompts
    text = [f"a portrait of somebody at work, number {i}" for i in prompt]
    ids = [f"{i:016x}{'0' * 48}" for i in at]
    table = {
        "cell": ids,
        "trajectory": ids,
        "unit": [f"{i:016x}" for i in at // batch],
        "kind": "made",
        "checkpoint": np.array(CHECKPOINTS)[at // (prompts * seeds)],
        "vae": "own",
        "negative": "none",
        "sampler": "own",
        "steps": 25,
        "guidance": 7.5,
        "width": 64,
        "height": 64,
        "prompt_index": prompt,
        "prompt": text,
        "group": "",
        "seed": at % seeds,
        "text": text,
        "negative_text": "",
        "noise": at % (prompts * seeds),
        "vae_file": VAE,
    }
    return pd.DataFrame(table)[list(Cell._fields)]


def _scores(rng: np.random.Generator, cells: Any, classes: list[str] | None) -> pd.DataFrame:
    if classes is None:
        found = rng.normal(size=(len(cells), DIMENSIONS)).astype(np.float32)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        likeness = rng.normal(0.25, 0.03, len(cells))
        return pd.DataFrame({"cell": cells, "likeness": likeness, "embedding": list(found)})
    shares = rng.dirichlet(np.full(len(classes), 0.2), len(cells))
    held = {f"class:{c}": shares[:, k] for k, c in enumerate(classes)}
    return pd.DataFrame({"cell": cells, **held, "nobody": 0.01, "several": 0.02})


def _png(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def measure(folder: Path) -> None:
    """Build the report step by step and print what each step took."""
    from audit import analysis
    from audit.opening import reopen
    from reports.build import write_report

    audit = _timed("open", lambda: reopen(folder))
    findings, exhibits = _timed("analyse", lambda: analysis.analyse(audit))
    data = _timed("gather", lambda: analysis.report_data(audit, findings, exhibits))
    paths = _timed("write html, json", lambda: write_report(data, folder / "report"))
    _timed("write card, csv", lambda: write_report(data, folder / "report", ("card", "csv")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = paths[0].stat().st_size / 1e6
    print(f"{len(findings):,} findings; page {size:.1f} MB; at most {peak:.1f} GB held")


def _timed(name: str, work: Callable[[], Any]) -> Any:
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:<18}{wall:8.1f} s wall{cpu:8.1f} s CPU", flush=True)
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.folder / "plan.parquet").exists():
        _timed("write the run", lambda: write_run(arguments.folder, arguments.images))
    if arguments.report:
        measure(arguments.folder)


if __name__ == "__main__":
    main()
