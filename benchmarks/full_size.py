"""Full-size models with random weights on a GPU: `python -m benchmarks.full_size`.

The pipelines are built from the shipped configurations, so nothing is fetched. Pixels mean
nothing, speed and memory do. Rows are ratios of interleaved pairs in one run, as in
`benchmarks.generate`. Without a GPU every row says 'not measured'.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from benchmarks import inside
from benchmarks.generate import pairs
from benchmarks.pairs import ratio
from harness.generate.sampling import Generator
from harness.hashing import sha256
from harness.models import loading
from harness.models.checkpoint_keys import empty_model
from harness.models.single_file import CONFIGS, clip_tokenizer
from harness.plan.cells import Arm, make_plan, noise_seed, units_of
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec
from harness.store.run import Run

PROMPTS = [f"a photograph of a person, number {i}" for i in range(4)]
SIDES = {"sd15": 512, "sdxl": 1024}
STEPS, GUIDANCE = 30, 7.5
ROWS = (
    "bare diffusers loop, equal batch (aim >= .97)",
    "bare diffusers loop, one image at a time",
    "4 VAEs: denoising again for every VAE (aim >= 3.3, from 21 guided steps on)",
    "plain / compiled (aim >= 1.2)",
    "all on the GPU / low memory",
    "attention tap / no tap (aim <= 1.03)",
    "every map of every token, layer and head / no tap",
)
OTHERS = (
    "the same pixels as the bare loop",
    "images an hour, peak memory",
    "GPU busy in a run of 200 images (aim >= 95 %)",
)
BUSY_IMAGES = 200


def build(family: str, device: str, dtype: torch.dtype) -> Any:
    """A pipeline of the family's published size with small random weights."""
    folder = CONFIGS / family
    index = json.loads((folder / "model_index.json").read_text())
    torch.manual_seed(0)
    parts: dict[str, Any] = {}
    for name in index:
        if name in ("unet", "vae") or name.startswith("text_encoder"):
            config = json.loads((folder / name / "config.json").read_text())
            parts[name] = empty_model(config).to(dtype).to_empty(device=device).eval()
            for tensor in parts[name].parameters():
                torch.nn.init.normal_(tensor, std=0.02)
            for tensor in parts[name].buffers():
                tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
        elif name.startswith("tokenizer"):
            parts[name] = clip_tokenizer(folder / name)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = getattr(diffusers, index["scheduler"][1]).from_config(config)
    extra = {k: v for k, v in index.items() if isinstance(v, bool)}
    extra |= {k: None for k in ("safety_checker", "feature_extractor") if k in index}
    pipe = getattr(diffusers, index["_class_name"])(**parts, scheduler=scheduler, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def spec_of(family: str, batch: int, vaes: int, seeds: int, device: str) -> Spec:
    """Four prompts; every VAE is the own one, decoded and written by itself."""
    return Spec.model_validate(
        {
            "checkpoints": {"random": family},
            "vaes": {f"v{i}": "own" for i in range(vaes)},
            "prompts": {"list": PROMPTS},
            "seeds": seeds,
            "steps": STEPS,
            "guidance": GUIDANCE,
            "batch_size": batch,
            "device": device,
            "dtype": "float16",
        }
    )


def ours(spec: Spec, folder: Path, pipe: Any, side: int, device: str) -> None:
    """The suite: units through a worker into a run directory."""
    from harness.generate.loaded import Checkpoints
    from harness.generate.worker import GenerateWorker

    prompts = [Prompt(p, {}, "", {}) for p in PROMPTS]
    digests = {"text_encoder": "t", "denoiser": "d"}
    arm = Arm(digests, {"own": "s"}, {v: v * 16 for v in spec.vaes}, (side, side))
    checkpoints = Checkpoints(spec, folder, device, torch.float16)
    checkpoints.hold("random", loading.Checkpoint(pipe, digests, None))
    worker = GenerateWorker(Run(folder), checkpoints)
    for unit in units_of(make_plan(spec, prompts, {"random": arm})):
        outcome = worker(unit)
        assert outcome.ok, outcome.reason
    worker.close()


def bare(spec: Spec, folder: Path, pipe: Any, side: int) -> None:
    """A plain diffusers loop that denoises anew for every VAE."""
    work = [(p, s) for p in PROMPTS for s in range(spec.seeds.count)]
    for start in range(0, len(work), spec.batch_size):
        part = work[start : start + spec.batch_size]
        for n in range(len(spec.vaes)):
            noises = [torch.Generator().manual_seed(noise_seed(p, s, False)) for p, s in part]
            images = pipe(
                [p for p, _ in part],
                generator=noises,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                width=side,
                height=side,
            ).images
            for i, image in enumerate(images):
                image.save(folder / f"{start + i}-{n}.png")


def family_rows(family: str, batch: int, seeds: int, rounds: int, device: str) -> None:
    """Print the rows of one family."""
    side = SIDES[family]
    pipe = build(family, device, torch.float16)
    one, four = (spec_of(family, batch, n, seeds, device) for n in (1, 4))

    def arm(spec: Spec) -> Callable[[Path], None]:
        return lambda folder: ours(spec, folder, pipe, side, device)

    def by_hand(spec: Spec) -> Callable[[Path], None]:
        return lambda folder: bare(spec, folder, pipe, side)

    print(f"{family}: {OTHERS[0]}: {same_pixels(arm(one), by_hand(one), seeds)}")
    print(pairs(f"{family}: {ROWS[0]}", arm(one), by_hand(one), rounds))
    single = one.model_copy(update={"batch_size": 1})
    print(pairs(f"{family}: {ROWS[1]}", arm(one), by_hand(single), rounds))
    print(pairs(f"{family}: {ROWS[2]}", arm(four), by_hand(four), rounds))
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        arm(one)(Path(folder))
        taken = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**30
    hour = len(PROMPTS) * seeds / taken * 3600
    print(f"{family} {side}: {hour:,.0f} images an hour, {peak:.1f} GiB at batch {batch}")
    second = build(family, device, torch.float16)
    second.unet.compile()
    compiled = lambda folder: ours(one, folder, second, side, device)  # noqa: E731
    print(pairs(f"{family}: {ROWS[3]}", compiled, arm(one), rounds))
    low = one.runtime.model_copy(update={"cpu_offload": True})
    third = build(family, "cpu", torch.float16)
    loading.place(third, device, low)
    offloaded = lambda folder: ours(one, folder, third, side, device)  # noqa: E731
    print(pairs(f"{family}: {ROWS[4]}", offloaded, arm(one), rounds))
    plain, tapped, every_map = inside.arms(Generator(pipe, batch), batch, side, STEPS)
    print(f"{family}: {ROWS[5]}: {ratio(plain, tapped, rounds)}")
    print(f"{family}: {ROWS[6]}: {ratio(plain, every_map, rounds)}")
    many = spec_of(family, batch, 1, -(-BUSY_IMAGES // len(PROMPTS)), device)
    print(f"{family}: {OTHERS[2]}: {busy(arm(many))}", flush=True)


def same_pixels(one: Callable[[Path], None], two: Callable[[Path], None], seeds: int) -> str:
    """Whether the suite's images are the bare loop's, bit for bit."""
    with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
        one(Path(a))
        two(Path(b))
        run = Run(Path(a))
        mine = [
            row.sha256
            for unit, vae in run.image_files()
            for row in run.read_images(unit, vae).itertuples()
        ]
        theirs = [sha256(np.asarray(Image.open(p)).tobytes()) for p in Path(b).glob("*-0.png")]
    assert len(mine) == len(theirs) == len(PROMPTS) * seeds
    same = len(set(mine) & set(theirs))
    return f"{same} of {len(set(theirs))}"


def busy(work: Callable[[Path], None]) -> str:
    """Share of the time in which nvidia-smi saw the GPU at work, in samples of 200 ms."""
    command = "nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -lms 200"
    if shutil.which("nvidia-smi") is None:
        return "not measured (no nvidia-smi here)"
    with tempfile.TemporaryDirectory() as folder:
        watcher = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
        work(Path(folder))
        watcher.terminate()
        said = watcher.communicate()[0].splitlines()
    seen = [float(value) for value in said if value.strip().isdigit()]
    if not seen:
        return "not measured (nvidia-smi told nothing)"
    return f"{np.mean(seen):.0f} % ({len(seen)} samples)"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--family", choices=tuple(SIDES), action="append")
    arguments = parser.parse_args()
    for family in arguments.family or SIDES:
        if not torch.cuda.is_available():
            for row in (*ROWS, *OTHERS):
                print(f"{family}: {row}: not measured (no GPU here)")
            continue
        family_rows(family, arguments.batch, arguments.seeds, arguments.rounds, "cuda")


if __name__ == "__main__":
    main()
