"""Count what the reference checkpoints really draw: `truth.yaml`.

    python -m validation.train.truth STATE_FOLDER [CHECKPOINT …]

For every neutral prompt, 256 pictures from seeds that no audit uses, at the audited sampler
and steps and at guidance 1 and 3, labelled by the oracle; 1,024 where audited shares are held
against them, whose own error must be small beside that of an audit's 32 seeds. 'seen' is read
off the decoded pixels, 'drawn' off the nearest training latent, which no decoder has touched.
Latents are kept in the state folder after every prompt; a later call goes on from there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import load_file, save

from harness.files.atomic import write_atomic
from harness.generate.sampling import Generator
from harness.json_types import JsonObject
from harness.models.loading import load_checkpoint
from harness.plan.cells import noise_seed
from harness.spec.sections import CheckpointSpec
from reference import names
from reference.oracle import UNREADABLE, read
from reference.world import GENDERS, HERE, ROLES, SIZE, STYLES, TONES, neutral_prompt
from validation.train.diffusion import world_latents

SEEDS = 256
BLOCKS = {("planted-unet", 1.0): 4}
"""How many times so many, where it is more than once."""
FIRST_SEED = 1_000_000
STEPS = 12
GUIDANCES = (1.0, 3.0)
BATCH = 64
DECODED = 16
"""Latents decoded together: on a CPU three times as fast as 64, which leave its cache."""


def rows_of(role: str, guidance: float, seeds: range) -> pd.DataFrame:
    """Rows of a plan for one neutral prompt."""
    prompt = neutral_prompt(role)
    return pd.DataFrame(
        {
            "text": prompt,
            "negative_text": "",
            "noise": [noise_seed(prompt, s, shared=False) for s in seeds],
            "sampler": "own",
            "steps": STEPS,
            "guidance": guidance,
            "width": SIZE,
            "height": SIZE,
        }
    )


def counts_of(labels: pd.DataFrame) -> JsonObject:
    """Counts of each gender and tone, and of unreadable pictures, in declared order."""
    readable = labels[labels["gender"] != UNREADABLE]
    return {
        "gender": [int((readable["gender"] == g).sum()) for g in GENDERS],
        "tone": [int((labels["tone"] == t).sum()) for t in TONES],
        "unreadable": len(labels) - len(readable),
    }


def nearest_person(latents: torch.Tensor, known: torch.Tensor) -> pd.DataFrame:
    """Role, gender and tone of the training latent nearest to each of (n, 8, 8, 8)."""
    pictures, shifts = known.shape[:2]
    table = known.flatten(0, 1).flatten(1)
    nearest = torch.cdist(latents.flatten(1), table).argmin(dim=1).numpy() // shifts
    assert pictures == len(STYLES) * len(ROLES) * len(GENDERS) * len(TONES)
    _, r, g, t = np.unravel_index(nearest, (len(STYLES), len(ROLES), len(GENDERS), len(TONES)))
    return pd.DataFrame(
        {
            "role": [ROLES[i] for i in r],
            "gender": [GENDERS[i] for i in g],
            "tone": [TONES[i] for i in t],
        }
    )


def draw(
    name: str, spec: CheckpointSpec, guidance: float, state: Path, block: int = 0
) -> dict[str, torch.Tensor]:
    """Final latents of 256 pictures a role, (256, 8, 8, 8); kept in the state folder by `name`.

    Every block has seeds of its own.
    """
    generator: Generator | None = None
    started, latents = time.monotonic(), {}
    for role in ROLES:
        held = f"{name} {guidance:g} {role}" + (f" {block}" if block else "")
        path = state / "truth" / f"{held}.safetensors"
        if not path.exists():
            generator = generator or make_generator(spec)
            first = FIRST_SEED + block * SEEDS
            seeds = range(first, first + SEEDS)
            parts = [
                generator.denoise(rows_of(role, guidance, seeds[i : i + BATCH]))
                for i in range(0, SEEDS, BATCH)
            ]
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, save({"latents": torch.cat(parts)}))
            print(f"{path.stem} {time.monotonic() - started:.0f}s", flush=True)
        latents[role] = load_file(path)["latents"]
    return latents


def seen(generator: Generator, latents: torch.Tensor) -> pd.DataFrame:
    """The oracle's labels of the pictures that a checkpoint's VAE makes of latents."""
    small = Generator(generator.pipe, DECODED)
    images = [small.decode(small.pipe.vae, part) for part in latents.split(DECODED)]
    return read((np.concatenate(images) * 255).round().astype(np.uint8))


def count(checkpoint: str, state: Path) -> JsonObject:
    """Counts by guidance and role of what a reference checkpoint draws."""
    spec = CheckpointSpec(source=f"reference:{checkpoint}")
    generator = make_generator(spec)
    known = world_latents(state / "latents.pt")
    counts: JsonObject = {}
    for guidance in GUIDANCES:
        blocks = [
            draw(checkpoint, spec, guidance, state, block)
            for block in range(BLOCKS.get((checkpoint, guidance), 1))
        ]
        for role in ROLES:
            latents = torch.cat([block[role] for block in blocks])
            labels = seen(generator, latents)
            counts.setdefault(f"{guidance:g}", {})[role] = {
                **counts_of(labels),
                "as asked": int((labels["role"] == role).sum()),
                "drawn": counts_of(nearest_person(latents, known)),
            }
    return counts


def make_generator(spec: CheckpointSpec) -> Generator:
    """The audit's own generator of a checkpoint, in float32 on the CPU."""
    pipe = load_checkpoint("truth", spec, HERE, "cpu", torch.float32).pipe
    for module in (pipe.unet, pipe.vae):
        module.to(memory_format=torch.channels_last)
    return Generator(pipe, BATCH)


def main() -> None:
    """Draw and label the checkpoints named (default: all); write `reference/truth.yaml`."""
    state = Path(sys.argv[1])
    path = HERE / "truth.yaml"
    table = {
        "settings": {
            "sampler": "own",
            "steps": STEPS,
            "seeds": SEEDS,
            "first seed": FIRST_SEED,
            "genders": list(GENDERS),
            "tones": list(TONES),
        }
    } | {k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "settings"}
    for checkpoint in sys.argv[2:] or names():
        table[checkpoint] = count(checkpoint, state)
    text = (
        "# What the reference checkpoints draw, counted by the oracle: validation/train/truth.py\n"
    )
    path.write_text(
        text + yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=200)
    )


if __name__ == "__main__":
    main()
