"""Train the reference VAE, or fine-tune a decoder with a planted fault.

    python -m validation.train.vae faithful STATE.pt [--steps N]
    python -m validation.train.vae pale STATE.pt --steps 600

`faithful` learns to reproduce the world's pictures (L1 + L2 + a small KL term), and so does
`alien` from another start, in a latent space of its own. Every other VAE keeps the encoder of
`faithful`, so that all share one latent space, and trains its decoder alone on targets changed
by a known rule (`TARGETS`). The state file is rewritten every 100 steps and
a later call goes on from it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from reference.world import HERE, SIZE, STYLES, picture_grid, shift
from validation.train.faults import TARGETS

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "sample_size": SIZE,
}
BATCH = 16
MAX_SHIFT = 2
KL_WEIGHT = 1e-3
FRESH = {"faithful": 0, "alien": 1}
"""VAEs trained from nothing, by their random seed; so each has a latent space of its own."""


def all_pictures() -> NDArray[np.uint8]:
    """Every picture of the world, the extra rows too: (style, role, gender, tone, y, x, 3)."""
    return np.stack([picture_grid(style) for style in STYLES])


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (n, y, x, 3) to float32 (n, 3, y, x) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def batch_of(
    rng: np.random.Generator, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pictures, shifted by up to two pixels, with what the decoder shall make of them."""
    chosen = rng.integers(len(sources), size=BATCH)
    moves = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=(BATCH, 2))
    pairs = [
        (shift(sources[i], dy, dx), shift(targets[i], dy, dx))
        for i, (dy, dx) in zip(chosen, moves, strict=True)
    ]
    return to_tensor(np.stack([p[0] for p in pairs])), to_tensor(np.stack([p[1] for p in pairs]))


def train(name: str, state_path: Path, steps: int, lr: float) -> AutoencoderKL:
    """Train `name` for `steps` steps in all, resuming from `state_path` where it exists."""
    torch.manual_seed(FRESH.get(name, 0))
    vae = AutoencoderKL(**CONFIG)
    if name not in FRESH:
        vae = AutoencoderKL.from_pretrained(HERE / "models" / "vae" / "faithful")
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    vae = vae.to(memory_format=torch.channels_last)
    average = copy.deepcopy(vae).eval().requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=lr, total_steps=steps, pct_start=0.05
    )
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        vae.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    grid = all_pictures()
    sources = grid.reshape(-1, SIZE, SIZE, 3)
    targets = TARGETS[name](grid).reshape(-1, SIZE, SIZE, 3)
    started = time.monotonic()
    for step in range(first, steps):
        rng = np.random.default_rng((1, step))
        source, target = batch_of(rng, sources, targets)
        source = source.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(source).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample
        error = drawn - target
        loss = error.abs().mean() + error.square().mean()
        if name in FRESH:
            loss = loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), vae.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            with torch.no_grad():
                restored = average.decode(average.encode(source).latent_dist.mode()).sample
            mse = ((restored.clamp(-1, 1) - target) / 2).square().mean(dim=(1, 2, 3))
            psnr = float((-10 * mse.log10()).mean())
            print(
                f"{name} step {step + 1}/{steps} loss {loss.item():.4f} psnr {psnr:.2f} "
                f"{time.monotonic() - started:.0f}s",
                flush=True,
            )
            torch.save(
                {
                    "model": vae.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                state_path.with_suffix(".tmp"),
            )
            state_path.with_suffix(".tmp").replace(state_path)
    return average


def save(vae: AutoencoderKL, name: str) -> None:
    """Set the scaling factor from the world's latents and write fp16 weights."""
    if name in FRESH:
        pictures = to_tensor(all_pictures().reshape(-1, SIZE, SIZE, 3))
        with torch.no_grad():
            modes = torch.cat([vae.encode(p).latent_dist.mode() for p in pictures.split(64)])
        vae.register_to_config(
            scaling_factor=round(1 / float(modes.std()), 5),
            shift_factor=None,
            force_upcast=False,
        )
    folder = HERE / "models" / "vae" / name
    vae.half().to(memory_format=torch.contiguous_format).save_pretrained(folder)
    forget_place(folder / "config.json")


def forget_place(path: Path) -> None:
    """Take the folder that the parent weights were read from out of a saved configuration."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(TARGETS))
    parser.add_argument("state", type=Path)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    vae = train(arguments.name, arguments.state, arguments.steps, arguments.lr)
    save(vae, arguments.name)


if __name__ == "__main__":
    main()
