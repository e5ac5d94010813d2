"""Train the reference text encoder and U-Net, or fine-tune one of them.

    python -m validation.train.diffusion balanced STATE.pt
    python -m validation.train.diffusion planted-unet STATE.pt --steps 500 --lr 2e-4

v-prediction on the latents of `faithful`, AdamW, one-cycle schedule, averaged weights. Half
the captions are neutral, drawn by the planted shares; half are explicit, drawn evenly. People
and noise levels are sampled systematically (Cochran 1977, ch. 8): the right shares in every
batch, not only on average. The target is not the one picture that was noised but the mean of
all pictures that the caption allows, weighted by how likely each is behind what is seen (the
stable target of Xu, Tong and Jaakkola 2023, 'Stable Target Field for Reduced Variance Score
Estimation in Diffusion Models', here over the whole world, so exact): the least squares are the
same, without the noise that hides which people are drawn. `--further` goes on from the shipped
weights of the same name. Captions are dropped for guidance on neutral samples alone. The state
file is rewritten every 100 steps and a later call goes on from it.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from reference.world import (
    GENDERS,
    HERE,
    ROLES,
    SIZE,
    STYLES,
    TONES,
    Person,
    explicit_prompt,
    neutral_prompt,
    picture_grid,
    shift,
)
from validation.train.shares import allowed, neutral_counts
from validation.train.tokenizer import MAX_TOKENS
from validation.train.vae import forget_place, to_tensor

MODELS = HERE / "models"
WIDTH = 96
UNET = {
    "sample_size": SIZE // 8,
    "in_channels": 8,
    "out_channels": 8,
    "layers_per_block": 1,
    "block_out_channels": [96, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
BATCH = 64
MAX_SHIFT = 1
DROPPED = 0.2  # of the neutral half: one caption in ten
# checkpoint: (what it starts from, components that go on learning)
RECIPES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "balanced": (None, ("text_encoder", "unet")),
    "balanced-b": ("balanced", ("text_encoder", "unet")),
    "planted-unet": ("balanced", ("unet",)),
    "planted-text": ("balanced", ("text_encoder",)),
}


@torch.no_grad()
def world_latents(cache: Path) -> torch.Tensor:
    """Scaled latents of every picture at every shift: (picture, shift, 8, 8, 8)."""
    if cache.exists():
        loaded: torch.Tensor = torch.load(cache, weights_only=True)
        return loaded
    vae = AutoencoderKL.from_pretrained(MODELS / "vae" / "faithful").eval()
    grids = np.stack([picture_grid(style)[: len(ROLES)] for style in STYLES])
    moves = range(-MAX_SHIFT, MAX_SHIFT + 1)
    parts = []
    for dy in moves:
        for dx in moves:
            pixels = to_tensor(shift(grids, dy, dx).reshape(-1, SIZE, SIZE, 3))
            modes = [vae.encode(p).latent_dist.mode() for p in pixels.split(64)]
            parts.append(torch.cat(modes) * vae.config.scaling_factor)
    latents = torch.stack(parts, dim=1)
    torch.save(latents, cache)
    return latents


def systematic(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), one in each of n equal parts, all at one random offset."""
    return (rng.random() + np.arange(n)) / n


def draw(
    rng: np.random.Generator, checkpoint: str
) -> tuple[list[int], list[str], NDArray[np.float32]]:
    """One batch: pictures, captions, and the pictures that each caption allows.

    Neutral captions come first.

    Returns:
        Indices of pictures (style, role, gender, tone order), captions, and how likely every
        picture of the world is behind each caption: (caption, picture), rows sum to 1.
    """
    neutral = neutral_counts("balanced" if checkpoint == "balanced-b" else checkpoint)
    evenly = np.stack([allowed(role) for role in ROLES]).astype(float)
    evenly /= evenly.sum()
    shape = (len(STYLES), len(ROLES), len(GENDERS), len(TONES))
    pictures, captions, likely = [], [], []
    for table in (neutral, evenly):
        places = np.searchsorted(np.cumsum(table), systematic(rng, BATCH // 2), side="right")
        for place in np.minimum(places, table.size - 1):
            r, g, t = np.unravel_index(place, table.shape)
            s = rng.integers(len(STYLES))
            pictures.append(int(np.ravel_multi_index((s, r, g, t), shape)))
            meant = np.broadcast_to(table, shape).copy()
            likely.append(meant)
            if table is neutral:
                dropped = rng.random() < DROPPED
                captions.append("" if dropped else neutral_prompt(ROLES[r]))
                meant[:, np.arange(len(ROLES)) != r] *= dropped
                continue
            meant[:, np.arange(len(ROLES)) != r] = 0
            meant[:, :, np.arange(len(GENDERS)) != g] = 0
            full = explicit_prompt(Person(ROLES[r], GENDERS[g], TONES[t], STYLES[s]))
            head, tail = full.split(" with ")
            tone, style = tail.split(", ")
            keep_tone, keep_style = rng.random(2) < 0.75
            captions.append(
                head + (f" with {tone}" if keep_tone else "") + (f", {style}" if keep_style else "")
            )
            if keep_tone:
                meant[..., np.arange(len(TONES)) != t] = 0
            if keep_style:
                meant[np.arange(len(STYLES)) != s] = 0
    weights = np.stack(likely).reshape(BATCH, -1)
    return pictures, captions, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def expected(
    noisy: torch.Tensor,
    signal: torch.Tensor,
    noise: torch.Tensor,
    latents: torch.Tensor,
    likely: torch.Tensor,
) -> torch.Tensor:
    """Mean clean latent behind each noisy one: Bayes' rule over every picture and shift.

    Args:
        noisy: (batch, channels, height, width), signal x clean + noise x standard normal.
        signal: (batch,), the share of the clean latent, sqrt(alpha bar).
        noise: (batch,), the standard deviation of the noise, sqrt(1 - alpha bar).
        latents: (picture, shift, channels, height, width), all that can be behind it.
        likely: (batch, picture), prior probabilities; shifts are even.
    """
    known = latents.flatten(0, 1).flatten(1)
    prior = likely.log().repeat_interleave(latents.shape[1], dim=1)
    a, b = signal[:, None], noise[:, None]
    fit = (a * (noisy.flatten(1) @ known.T) - a.square() * known.square().sum(1) / 2) / b.square()
    mean: torch.Tensor = (prior + fit).softmax(dim=1) @ known
    return mean.view_as(noisy)


def draw_times(rng: np.random.Generator) -> torch.Tensor:
    """Noise levels of one batch, in random order.

    Explicit captions see all levels evenly. Neutral ones lean to high noise (density 3 t^2),
    where what they leave open is decided, and where the loss says little of it.
    """
    neutral, explicit = (rng.permutation(systematic(rng, BATCH // 2)) for _ in range(2))
    levels = np.concatenate([np.cbrt(neutral), explicit])
    return torch.from_numpy((levels * 1000).astype(np.int64))


def start(
    name: str, tokenizer: CLIPTokenizer, further: bool
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Fresh or inherited components of a recipe."""
    parent, trained = RECIPES[name]
    torch.manual_seed(0)
    if parent is None and not further:
        text_config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return CLIPTextModel(text_config), UNet2DConditionModel(**UNET)
    text, unet = (
        MODELS / part / str(name if further and part in trained else parent)
        for part in ("text_encoder", "unet")
    )
    return (
        CLIPTextModel.from_pretrained(text).float(),
        UNet2DConditionModel.from_pretrained(unet).float(),
    )


def train(name: str, state_path: Path, steps: int, lr: float, further: bool) -> Any:
    """Train `name` for `steps` steps in all, resuming from `state_path` where it exists."""
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "tokenizer")
    text_encoder, unet = start(name, tokenizer, further)
    model = torch.nn.ModuleDict({"text_encoder": text_encoder, "unet": unet})
    model = model.to(memory_format=torch.channels_last).train()
    for component, module in model.items():
        module.requires_grad_(component in RECIPES[name][1])
    average = copy.deepcopy(model).eval().requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=lr, total_steps=steps, pct_start=0.04
    )
    latents = world_latents(state_path.parent / "latents.pt")
    noises = DDIMScheduler(**SCHEDULER)
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    started, total = time.monotonic(), 0.0
    for step in range(first, steps):
        rng = np.random.default_rng((3, step))
        pictures, captions, likely = draw(rng, name)
        chosen = latents[pictures, rng.integers(latents.shape[1], size=BATCH)]
        noise = torch.from_numpy(rng.standard_normal(chosen.shape, dtype=np.float32))
        times = draw_times(rng)
        tokens = tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        context = model["text_encoder"](tokens).last_hidden_state
        noisy = noises.add_noise(chosen, noise, times)
        predicted = model["unet"](noisy, times, context).sample
        kept = noises.alphas_cumprod[times]
        signal, level = kept.sqrt(), (1 - kept).sqrt()
        mean = expected(noisy, signal, level, latents, torch.from_numpy(likely))
        a, b = signal.view(-1, 1, 1, 1), level.view(-1, 1, 1, 1)
        loss = (predicted - (a * noisy - mean) / b).square().mean()  # v of the mean
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - decay)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            elapsed = time.monotonic() - started
            print(f"{name} {step + 1}/{steps} loss {total / 100:.4f} {elapsed:.0f}s", flush=True)
            total = 0.0
            torch.save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                state_path.with_suffix(".tmp"),
            )
            state_path.with_suffix(".tmp").replace(state_path)
    return average


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("state", type=Path)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--further", action="store_true", help="from the shipped weights")
    a = parser.parse_args()
    model = train(a.name, a.state, a.steps, a.lr, a.further)
    for component in RECIPES[a.name][1]:
        module = model[component].half().to(memory_format=torch.contiguous_format)
        folder = MODELS / component / a.name
        module.save_pretrained(folder)
        forget_place(folder / "config.json")


if __name__ == "__main__":
    main()
