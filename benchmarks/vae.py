"""Round trips against a plain encode-decode loop: `python -m benchmarks.vae`.

Both arms read the same images, take the posterior's mode and write PNG files. They take turns
over batches of images; a row gives the median ratio of the turns with the exact 95 % interval
of a median. Peak memory is that of a process of its own for each arm. With `--mixed` the images
are photographs of many sizes, the plain loop takes them one by one, and the ratio is of sums.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from audit.pipeline.plan import begin
from audit.pipeline.round_trip import RoundTripWorker, round_trip_audit, store_originals
from audit.pipeline.round_trip_inputs import Picture
from benchmarks.pairs import median
from harness.models.vae_identity import load_vae_alone
from harness.plan.cells import units_of

SOURCE = "reference:faithful"


def photographs(count: int, side: int) -> list[NDArray[np.uint8]]:
    """Crops of a photograph, enlarged where it is smaller."""
    whole = Image.fromarray(data.astronaut()).resize((2 * side, 2 * side))
    rng = np.random.default_rng(0)
    corners = rng.integers(0, side + 1, size=(count, 2))
    return [np.asarray(whole.crop((x, y, x + side, y + side))) for x, y in corners.tolist()]


def of_many_sizes(count: int, side: int) -> list[NDArray[np.uint8]]:
    """Crops of a photograph with this longest side; half are of sizes that no other has."""
    rng = np.random.default_rng(0)
    whole = photographs(count, side)
    others = [side - 8 * (i // 2 % 20) if i % 2 else 3 * side // 4 for i in range(count)]
    return [
        image[:other] if rng.integers(2) else image[:, :other]
        for image, other in zip(whole, others, strict=True)
    ]


def plain(pictures: list[NDArray[np.uint8]], folder: Path, first: int) -> None:
    """Encode and decode one batch by hand."""
    vae = _vae()
    tensor = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous().float()
    with torch.no_grad():
        latents = vae.encode(tensor / 127.5 - 1).latent_dist.mode()
        drawn = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    pixels = (drawn.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{first + i}.png")


def times(
    pictures: list[NDArray[np.uint8]], side: int, batch: int, arms: tuple[str, ...], single: bool
) -> NDArray[np.float64]:
    """Seconds (batches, arms), arms in turns; `single`: the plain loop takes images one by one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held = [
            Picture(str(i), str(i), {}, p.shape[1::-1], lambda p=p: p, lambda: None)  # type: ignore[misc]
            for i, p in enumerate(pictures)
        ]
        sources = {"faithful": SOURCE}
        audit, plan, provenance, vaes = round_trip_audit(
            "bench", held, sources, folder / "run", side, batch
        )
        begin(audit, plan, provenance)
        store_originals(audit, plan, held)
        worker = RoundTripWorker(audit.run, vaes, batch, "cpu")
        rows = []
        for number, unit in enumerate(units_of(plan)):
            taken = {}
            for arm in arms if number % 2 == 0 else arms[::-1]:
                started = time.perf_counter()
                if arm == "plain":
                    own = [int(n) for n in unit.rows["prompt"].unique()]
                    for part in [[n] for n in own] if single else [own]:
                        plain([pictures[n] for n in part], folder, part[0])
                else:
                    assert worker(unit).ok
                taken[arm] = time.perf_counter() - started
            rows.append([taken[arm] for arm in arms])
    return np.array(rows)


def peak(arguments: argparse.Namespace, arm: str) -> int:
    """Peak resident memory of one arm, MiB."""
    command = [sys.executable, "-m", "benchmarks.vae", "--arm", arm]
    for key in ("count", "side", "batch"):
        command += [f"--{key}", str(getattr(arguments, key))]
    command += ["--mixed"] * arguments.mixed
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--mixed", action="store_true", help="photographs of many sizes")
    parser.add_argument("--arm", choices=("plain", "suite"), help="run this alone; print memory")
    arguments = parser.parse_args()
    make = of_many_sizes if arguments.mixed else photographs
    pictures = make(arguments.count, arguments.side)
    size = (arguments.side, arguments.batch)
    if arguments.arm:
        times(pictures, *size, (arguments.arm,), arguments.mixed)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    # The first batch warms up.
    taken = times(pictures, *size, ("plain", "suite"), arguments.mixed)[1:]
    if arguments.mixed:
        ratio = taken[:, 1].sum() / taken[:, 0].sum()
        print(
            f"round trip / plain loop one by one, time, {arguments.count} images of "
            f"{len({p.shape for p in pictures})} sizes up to {arguments.side} pixels, {SOURCE}: "
            f"{ratio:.3f} (aim <= 1.15)"
        )
        return
    ratios = taken[:, 1] / taken[:, 0]
    print(
        f"round trip / plain loop, time, {arguments.count} images of {arguments.side} pixels, "
        f"{SOURCE}: {median(ratios.tolist())} (aim <= 1.15)"
    )
    memory = [peak(arguments, arm) for arm in ("plain", "suite")]
    print(
        f"round trip / plain loop, peak memory: {memory[1] / memory[0]:.3f} "
        f"({memory[1]} and {memory[0]} MiB)"
    )


@cache
def _vae() -> Any:
    return load_vae_alone("faithful", SOURCE, Path())


if __name__ == "__main__":
    main()
