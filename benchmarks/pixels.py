"""What each speed setting does to pixels: `python -m benchmarks.pixels`.

The reference model on the CPU, the same prompts and noises with and without the setting; the
difference of pixels is in steps of 255. On a GPU other kernels round otherwise: give `--device
cuda` there. `torch.compile` on the CPU needs a C++ compiler; without one its row says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from harness.generate.sampling import Generator
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec, RuntimeSpec
from reference.world import ROLES, neutral_prompt

BATCH, GUIDANCE = 8, 3.0


def drawn(device: str, dtype: torch.dtype, runtime: RuntimeSpec, steps: int) -> NDArray[np.float32]:
    """Images of eight prompts, (n, height, width, 3) in 0 to 255, rounded."""
    source = CheckpointSpec(source="reference:balanced")
    pipe: Any = load_checkpoint("balanced", source, Path(), device, dtype, runtime).pipe
    texts = [neutral_prompt(role) for role in ROLES[:BATCH]]
    rows = pd.DataFrame({"text": texts, "negative_text": "", "noise": range(BATCH)})
    rows = rows.assign(sampler="own", steps=steps, guidance=GUIDANCE, width=64, height=64)
    generator = Generator(pipe, BATCH)
    return np.round(255 * generator.decode(pipe.vae, generator.denoise(rows)))


def line(name: str, one: NDArray[np.float32], two: NDArray[np.float32]) -> str:
    """One row: how many values differ, by how much on average and at most."""
    apart = np.abs(one - two)
    if not apart.any():
        return f"{name}: the same pixels, bit for bit"
    return (
        f"{name}: {(apart > 0).mean():.2%} of the values differ, by {apart.mean():.3f} of 255 on "
        f"average, {apart.max():.0f} at most"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("effect of speed settings on pixels: not measured (no GPU here)")
        return
    torch.set_num_threads(1)
    base = RuntimeSpec()
    plain = drawn(arguments.device, torch.float32, base, arguments.steps)
    rows: list[tuple[str, torch.dtype, RuntimeSpec]] = [
        ("float32 again", torch.float32, base),
        ("bfloat16", torch.bfloat16, base),
        ("float16", torch.float16, base),
        ("channels_last", torch.float32, RuntimeSpec(channels_last=True)),
        ("cpu_offload", torch.float32, RuntimeSpec(cpu_offload=True)),
        ("compile", torch.float32, RuntimeSpec(compile=True)),
    ]
    print(f"pixels against float32 on {arguments.device}, {BATCH} images, {arguments.steps} steps")
    for name, dtype, runtime in rows:
        try:
            made = drawn(arguments.device, dtype, runtime, arguments.steps)
        except RuntimeError as error:  # no compiler, or a kernel that this machine lacks
            print(f"{name}: not measured ({str(error).splitlines()[0][:80]})")
            continue
        print(line(name, plain, made), flush=True)


if __name__ == "__main__":
    main()
