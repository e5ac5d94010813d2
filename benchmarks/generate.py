"""Generation against bare diffusers loops: `python -m benchmarks.generate`.

Every arm writes its PNG files. Arms run in interleaved pairs; a row gives the median ratio of
the pairs' times with the exact 95 % interval of a median (order statistics).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import ratio
from harness.generate.executor import InProcess
from harness.generate.loaded import Checkpoints
from harness.generate.worker import GenerateWorker
from harness.models import loading
from harness.plan.cells import Arm, make_plan, noise_seed, units_of
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec
from harness.spec.sections import CheckpointSpec
from harness.store.run import Run
from reference.world import ROLES, neutral_prompt

STEPS = 12
GUIDANCE = 3.0


def spec_of(batch: int, vaes: int, seeds: int) -> Spec:
    """Neutral prompts of the reference world; every VAE is `faithful`, read anew."""
    return Spec.model_validate(
        {
            "checkpoints": {"balanced": "reference:balanced"},
            "vaes": {f"v{i}": "own" for i in range(vaes)},
            "prompts": {"list": [neutral_prompt(r) for r in ROLES[:4]]},
            "seeds": seeds,
            "steps": STEPS,
            "guidance": GUIDANCE,
            "batch_size": batch,
            "device": "cpu",
            "dtype": "float32",
        }
    )


def ours(spec: Spec, folder: Path, checkpoint: loading.Checkpoint) -> None:
    """The suite: units through a worker, latents and images into a run directory."""
    prompts = [Prompt(p, {}, "", {}) for p in spec.prompts.list or ()]
    # Distinct digests stand for distinct VAEs: each is decoded and written by itself.
    arm = Arm(checkpoint.digests, {"own": "s"}, {v: v * 16 for v in spec.vaes}, (64, 64))
    checkpoints = Checkpoints(spec, folder, "cpu", torch.float32)
    checkpoints.hold("balanced", checkpoint)
    worker = GenerateWorker(Run(folder), checkpoints)
    for outcome in InProcess().run(
        lambda: worker, units_of(make_plan(spec, prompts, {"balanced": arm}))
    ):
        assert outcome.ok, outcome.reason
    worker.close()


def bare(spec: Spec, folder: Path, checkpoint: loading.Checkpoint, batch: int, again: bool) -> None:
    """A plain diffusers loop; `again`: denoise anew for every VAE, as a pipeline call does."""
    pipe = checkpoint.pipe
    work = [(p, s) for p in spec.prompts.list or () for s in range(spec.seeds.count)]
    for start in range(0, len(work), batch):
        part = work[start : start + batch]
        arguments: dict[str, Any] = {
            "prompt": [p for p, _ in part],
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
        }
        for n in range(len(spec.vaes)):
            made = None
            if again or n == 0:
                noises = [
                    torch.Generator().manual_seed(noise_seed(p, s, shared=False)) for p, s in part
                ]
                kind = "pil" if again or len(spec.vaes) == 1 else "latent"
                made = pipe(**arguments, generator=noises, output_type=kind).images
                latents = made if kind == "latent" else None
            if latents is not None:
                with torch.no_grad():
                    scale = pipe.vae.config.scaling_factor
                    drawn = pipe.vae.decode(latents / scale, return_dict=False)[0]
                made = pipe.image_processor.postprocess(drawn, output_type="pil")
            assert made is not None
            for i, image in enumerate(made):
                image.save(folder / f"{start + i}-{n}.png")


def pairs(name: str, one: Callable[[Path], None], two: Callable[[Path], None], rounds: int) -> str:
    """One row: the median over rounds of time(two) / time(one), each arm in a folder of its own."""

    def fresh(arm: Callable[[Path], None]) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                arm(Path(folder))

        return run

    return f"{name}: {ratio(fresh(one), fresh(two), rounds)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    source = CheckpointSpec(source="reference:balanced")
    checkpoint = loading.load_checkpoint("balanced", source, Path(), "cpu", torch.float32)
    batch, rounds = arguments.batch, arguments.rounds
    single = spec_of(batch, 1, arguments.seeds)
    four = spec_of(batch, 4, arguments.seeds)
    print("time of the other / time of the suite (above 1: the suite is faster)")
    rows = [
        ("bare diffusers loop, equal batch (aim >= .97)", single, batch, True),
        ("bare diffusers loop, one image at a time", single, 1, True),
        ("4 VAEs: one denoising and 4 decodes by hand (aim >= 1/1.05)", four, batch, False),
        ("4 VAEs: denoising again for every VAE", four, batch, True),
    ]
    for name, spec, size, again in rows:
        print(
            pairs(
                name,
                lambda folder, spec=spec: ours(spec, folder, checkpoint),
                lambda folder, spec=spec, size=size, again=again: bare(
                    spec, folder, checkpoint, size, again
                ),
                rounds,
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
