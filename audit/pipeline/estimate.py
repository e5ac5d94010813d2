"""What an audit will cost and what it can show, before it is paid for."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import scipy

from audit.pipeline.session import Audit
from harness.generate.worker import GenerateWorker
from harness.images.a1111 import write_parameters
from harness.images.png import png_bytes
from harness.plan.cells import units_of
from harness.taps.record import untapped

POWER = 0.8


def lines(audit: Audit, plan: pd.DataFrame) -> list[str]:
    """The estimate in plain sentences: counts, time and disk from one timed batch, power."""
    trajectories = plan.drop_duplicates("trajectory")
    images = plan.drop_duplicates("cell")
    units = units_of(plan)
    watched = audit.taps
    todo = [
        u
        for u in units
        if not audit.run.latents_path(u.id).exists() or untapped(audit.run, u.id, watched)
    ]
    worker = GenerateWorker(audit.run, audit.checkpoints, watched)
    denoise, decode, size, latent_size = _warm_up(worker, units[0].rows)
    worker.close()
    # Steps and guidance differ between units: time goes by the number of forwards.
    forwards = [_forwards(u.rows) for u in todo]
    seconds = denoise * sum(forwards) / _forwards(units[0].rows) + decode * len(images) / len(
        units[0].rows.drop_duplicates("trajectory")
    )
    disk = size * len(images) + latent_size * len(trajectories)
    free = shutil.disk_usage(_existing(audit.run.folder)).free
    n = audit.spec.seeds.count
    return [
        f"{len(audit.prompts)} prompts, {n} seeds each: {len(images)} images from "
        f"{len(trajectories)} denoisings in {len(units)} batches of {audit.spec.batch_size}",
        f"still to denoise: {len(todo)} batches",
        f"time on {audit.device} ({str(audit.dtype).removeprefix('torch.')}): about "
        f"{_duration(seconds)}, from one timed batch; scoring comes on top",
        f"disk: about {disk / 1e6:,.0f} MB; {free / 1e9:,.1f} GB are free",
        f"smallest share that {n} seeds of one prompt can tell from one half, with power "
        f"{POWER:.0%} at p = .05 before the correction for many prompts: "
        f"{_smallest_shift(n)}",
        f"over all {len(audit.prompts)} prompts of this suite, an arm's mean share is known "
        f"to about ±{1.96 * 0.5 / np.sqrt(n * len(audit.prompts)):.1%}",
    ]


def _warm_up(worker: GenerateWorker, rows: pd.DataFrame) -> tuple[float, float, float, float]:
    """Seconds to denoise and to decode one batch, bytes of an image and of its latents."""
    generator = worker.use(str(rows["checkpoint"].iloc[0]))
    first = rows.drop_duplicates("trajectory")
    generator.denoise(first.assign(steps=1))
    started = time.perf_counter()
    latents = generator.denoise(first)
    denoised = time.perf_counter()
    images = generator.decode(next(iter(worker.vaes.values())), latents)
    decoded = time.perf_counter()
    text = write_parameters(str(first["text"].iloc[0]), "", {})
    pixels = (images * 255).round().astype(np.uint8)
    size = np.mean([len(png_bytes(p, text)) for p in pixels])
    return denoised - started, decoded - denoised, float(size), float(latents[0].nbytes)


def _forwards(rows: pd.DataFrame) -> int:
    first = rows.iloc[0]
    return int(first["steps"]) * (2 if first["guidance"] > 1 else 1)


def _smallest_shift(n: int) -> str:
    """Smallest share above one half found with the wanted power by the exact binomial test."""
    counts = np.arange(n + 1)
    p = np.array([scipy.stats.binomtest(int(k), n).pvalue for k in counts])
    for share in np.arange(0.51, 1.0, 0.01):
        if scipy.stats.binom.pmf(counts[p <= 0.05], n, share).sum() >= POWER:
            return f"{share:.2f} (or {1 - share:.2f})"
    return "none: even one class alone is not told from chance; use more seeds"


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
