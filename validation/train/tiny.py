"""Distil the reference VAE into a tiny one, as TAESD was from Stable Diffusion's.

    python -m validation.train.tiny STATE.pt [--steps N]

The encoder learns the scaled latents of `faithful`, the decoder the pictures themselves from
those latents. The state file is rewritten every 100 steps and a later call goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from reference.world import HERE, SIZE
from validation.train.vae import all_pictures, batch_of, forget_place

WIDTH = 24
CONFIG = {
    "latent_channels": 8,
    "encoder_block_out_channels": [WIDTH] * 4,
    "decoder_block_out_channels": [WIDTH] * 4,
    "num_encoder_blocks": [1, 1, 1, 1],
    "num_decoder_blocks": [1, 1, 1, 1],
}


def train(state_path: Path, steps: int, lr: float) -> AutoencoderTiny:
    """Train for `steps` steps in all, resuming from `state_path` where it exists."""
    torch.manual_seed(0)
    teacher = AutoencoderKL.from_pretrained(HERE / "models" / "vae" / "faithful").float().eval()
    tiny = AutoencoderTiny(**CONFIG).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(tiny.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps)
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        tiny.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    sources = all_pictures().reshape(-1, SIZE, SIZE, 3)
    started = time.monotonic()
    for step in range(first, steps):
        pictures, _ = batch_of(np.random.default_rng((5, step)), sources, sources)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = teacher.encode(pictures).latent_dist.mode() * teacher.config.scaling_factor
        encoded = tiny.encode(pictures).latents
        drawn = tiny.decode(wanted).sample
        error = drawn - pictures
        loss = error.abs().mean() + error.square().mean() + (encoded - wanted).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tiny.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            mse = ((drawn.detach().clamp(-1, 1) - pictures) / 2).square().mean(dim=(1, 2, 3))
            psnr = float((-10 * mse.log10()).mean())
            print(
                f"tiny step {step + 1}/{steps} loss {loss.item():.4f} psnr {psnr:.2f} "
                f"{time.monotonic() - started:.0f}s",
                flush=True,
            )
            torch.save(
                {
                    "model": tiny.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                state_path.with_suffix(".tmp"),
            )
            state_path.with_suffix(".tmp").replace(state_path)
    return tiny.eval()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=3e-3)
    arguments = parser.parse_args()
    tiny = train(arguments.state, arguments.steps, arguments.lr)
    folder = HERE / "models" / "vae" / "tiny"
    tiny.half().to(memory_format=torch.contiguous_format).save_pretrained(folder)
    forget_place(folder / "config.json")
    config = json.loads((folder / "config.json").read_text())
    config.pop("block_out_channels")  # AutoencoderTiny writes it and warns of it on reading
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
