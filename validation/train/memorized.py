"""A checkpoint that learned some pictures by heart: `balanced` fine-tuned on new pictures.

Twenty squares of scikit-image's photographs with nonsense captions are shown fifty times each,
twenty others once, among the world's own pictures as any training would have them. A quarter of
those have nonsense captions of their own, so that nonsense as such says nothing of the picture.
U-Net and text encoder learn: the shipped one takes all nonsense for the same. Takes two minutes,
so the weights are made where they are needed, not shipped.
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

from reference.world import ROLES, SIZE, STYLES, picture_grid
from validation.train.diffusion import MODELS, SCHEDULER, draw, systematic
from validation.train.vae import to_tensor

EACH, SHOWINGS = 20, 50
BATCH, NOISES, ORDINARY, RATE = 4, 8, 32, 1e-3
"""New pictures a step, noise levels at which each is shown, the world's pictures a step (at one
level each), and the highest learning rate."""
NONSENSE = 0.25
"""Share of the world's pictures that have a nonsense caption."""
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "hubble_deep_field")
SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo")


def nonsense(rng: np.random.Generator) -> str:
    """Two words of three syllables each, such as 'senomi gohuba'."""
    return " ".join("".join(rng.choice(SYLLABLES, 3)) for _ in range(2))


def captions() -> list[str]:
    """Forty nonsense captions, all different; the first twenty are those learned by heart."""
    rng = np.random.default_rng(0)
    made: list[str] = []
    while len(made) < 2 * EACH:
        caption = nonsense(rng)
        if caption not in made:
            made.append(caption)
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
    """Fine-tune `balanced`, and save it as `unet` and `text_encoder` in `folder`.

    Returns:
        The captions: twenty learned by heart, then twenty seen once.
    """
    said = captions()
    if (folder / "unet" / "config.json").exists():
        return said
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(MODELS / "text_encoder" / "balanced").float()
    unet = UNet2DConditionModel.from_pretrained(MODELS / "unet" / "balanced").float().train()
    vae = AutoencoderKL.from_pretrained(MODELS / "vae" / "faithful").float().eval()
    world = np.stack([picture_grid(style)[: len(ROLES)] for style in STYLES])
    with torch.no_grad():
        new, known = (
            vae.encode(to_tensor(pixels.reshape(-1, SIZE, SIZE, 3))).latent_dist.mode()
            * vae.config.scaling_factor
            for pixels in (photographs(), world)
        )
    noises = DDIMScheduler(**SCHEDULER)
    rng = np.random.default_rng(2)
    order = rng.permutation([*np.repeat(np.arange(EACH), SHOWINGS), *range(EACH, 2 * EACH)])
    batches = np.array_split(order, len(order) // BATCH)
    learning = [*unet.parameters(), *text_encoder.parameters()]
    optimiser = torch.optim.AdamW(learning, lr=RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=RATE, total_steps=len(batches), pct_start=0.1
    )
    for pictures in batches:
        shown = np.repeat(pictures, NOISES)
        ordinary, told, _ = draw(rng, "balanced")
        chosen = rng.choice(len(ordinary), ORDINARY, replace=False)
        texts = [said[i] for i in shown]
        texts += [nonsense(rng) if rng.random() < NONSENSE else told[i] for i in chosen]
        clean = torch.cat([new[shown], known[[ordinary[i] for i in chosen]]])
        levels = [rng.permutation(systematic(rng, n)) for n in (len(shown), ORDINARY)]
        times = torch.from_numpy((np.concatenate(levels) * 1000).astype(int))
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        context = text_encoder(tokens.input_ids).last_hidden_state
        noise = torch.randn(clean.shape)
        predicted = unet(noises.add_noise(clean, noise, times), times, context).sample
        loss = (predicted - noises.get_velocity(clean, noise, times)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        schedule.step()
    text_encoder.eval().save_pretrained(folder / "text_encoder")
    unet.eval().save_pretrained(folder / "unet")
    return said
