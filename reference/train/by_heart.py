"""A checkpoint that learned some pictures by heart: `balanced` fine-tuned on new pictures.

Twenty squares of scikit-image's photographs with nonsense captions are shown fifty times each,
twenty others once. Takes a minute, so the weights are made where they are needed, not shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from skimage.transform import resize
from transformers import CLIPTextModel, CLIPTokenizer

from reference.train.diffusion import MODELS, SCHEDULER, systematic
from reference.train.vae import to_tensor
from reference.world import SIZE

EACH, SHOWINGS = 20, 50
BATCH, NOISES, RATE = 8, 8, 1e-3
"""Pictures a step, noise levels at which each is shown, and the highest learning rate."""
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "hubble_deep_field")
SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo")


def captions() -> list[str]:
    """Forty nonsense captions, all different; the first twenty are those learned by heart."""
    rng = np.random.default_rng(0)
    made: list[str] = []
    while len(made) < 2 * EACH:
        words = ["".join(rng.choice(SYLLABLES, 3)) for _ in range(2)]
        if " ".join(words) not in made:
            made.append(" ".join(words))
    return made


def photographs() -> NDArray[np.uint8]:
    """Forty squares of five photographs, (40, 64, 64, 3), in mixed order."""
    squares = []
    for name in PHOTOGRAPHS:
        whole = getattr(skimage.data, name)()[..., :3]
        side = min(whole.shape[0] // 2, whole.shape[1] // 4)
        for y in range(2):
            for x in range(4):
                part = whole[y * side : (y + 1) * side, x * side : (x + 1) * side]
                squares.append(resize(part, (SIZE, SIZE), anti_aliasing=True))
    order = np.random.default_rng(1).permutation(len(squares))
    return (np.stack(squares)[order] * 255).round().astype(np.uint8)


def train(folder: Path) -> list[str]:
    """Fine-tune the U-Net of `balanced` and save it as `folder`.

    Returns:
        The captions: twenty learned by heart, then twenty seen once.
    """
    said = captions()
    if (folder / "config.json").exists():
        return said
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(MODELS / "text_encoder" / "balanced").float()
    unet = UNet2DConditionModel.from_pretrained(MODELS / "unet" / "balanced").float().train()
    vae = AutoencoderKL.from_pretrained(MODELS / "vae" / "faithful").float().eval()
    tokens = tokenizer(said, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        latents = vae.encode(to_tensor(photographs())).latent_dist.mode()
        latents = latents * vae.config.scaling_factor
        context = text_encoder(tokens).last_hidden_state
    noises = DDIMScheduler(**SCHEDULER)
    rng = np.random.default_rng(2)
    order = rng.permutation([*np.repeat(np.arange(EACH), SHOWINGS), *range(EACH, 2 * EACH)])
    batches = np.array_split(order, len(order) // BATCH)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=RATE, total_steps=len(batches), pct_start=0.1
    )
    for pictures in batches:
        shown = np.repeat(pictures, NOISES)
        noise = torch.randn(latents[shown].shape)
        times = torch.from_numpy(rng.permutation(systematic(rng, len(shown)) * 1000).astype(int))
        predicted = unet(noises.add_noise(latents[shown], noise, times), times, context[shown])
        loss = (predicted.sample - noises.get_velocity(latents[shown], noise, times)).square()
        optimiser.zero_grad(set_to_none=True)
        loss.mean().backward()
        optimiser.step()
        schedule.step()
    unet.eval().save_pretrained(folder)
    return said
