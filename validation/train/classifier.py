"""Train the reference classifiers: small open_clip models on balanced captions.

    python -m validation.train.classifier balanced STATE.pt
    python -m validation.train.classifier flawed STATE.pt

Every picture is shown shifted, rescaled, blurred, noisy, through the faithful VAE, or mixed with
the next tone or the other gender (the nearer one is the right answer). For each attribute the
model must choose the right caption among all its classes; captions of nobody and of several
people are learnt on empty and on double pictures. Roles, genders, tones and styles are drawn
evenly.

`flawed` is smaller, and taught a planted error: women of the two darkest tones are captioned as
men (as the classifiers of Buolamwini and Gebru 2018, 'Gender Shades', erred most on them).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from harness.json_types import JsonObject
from reference.world import (
    GENDERS,
    HERE,
    ROLES,
    SIZE,
    STYLES,
    TONES,
    neutral_prompt,
    picture_grid,
    shift,
)
from validation.train.tokenizer import MAX_TOKENS
from validation.train.vae import to_tensor

MODEL: JsonObject = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": SIZE,
        "layers": [1, 1, 1, 1],
        "width": 16,
        "head_width": 64,
        "patch_size": None,
    },
    "text_cfg": {
        "context_length": MAX_TOKENS,
        "vocab_size": 836,
        "width": 96,
        "heads": 4,
        "layers": 2,
        "hf_tokenizer_name": "local",
        "pool_type": "eos",  # 'argmax', the default, takes the highest id: not the end here
        "eos_id": 1,
        "tokenizer_kwargs": {},
    },
}
SMALL: JsonObject = {
    **MODEL,
    "embed_dim": 64,
    "vision_cfg": {**MODEL["vision_cfg"], "width": 8},
}
SHAPES = {"balanced": MODEL, "flawed": SMALL}
FLAWED_TONES = 2
"""How many of the darkest tones the planted error takes in."""
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
BATCH = 64
CAPTIONS = {
    "gender": [
        [f"{lead}a {gender}" for gender in GENDERS]
        for lead in ("", "a portrait of ", "a picture of ", "a photo of ", "a drawing of ")
    ],
    "tone": [
        [f"{lead} with {tone} skin" for tone in TONES]
        for lead in ("a portrait", "a person", "a portrait of a person", "a picture of a person")
    ],
    "style": [
        [f"{style} style" for style in STYLES],
        [f"a portrait, {style} style" for style in STYLES],
        [f"a picture of a person, {style} style" for style in STYLES],
    ],
    "role": [
        [neutral_prompt(role) for role in ROLES],
        list(ROLES),
        [neutral_prompt(role).replace("portrait", "picture") for role in ROLES],
    ],
    "people": [
        ["a picture of nobody", "a portrait of a person", "a picture of several people"],
        ["nobody", "a person", "several people"],
    ],
}


def disturb(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Rescale, blur and add noise, each by a little and at random."""
    size = int(rng.integers(52, 65))
    small = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    pad = SIZE - size
    left, top = (int(rng.integers(0, pad + 1)) for _ in range(2))
    images = F.pad(small, (left, pad - left, top, pad - top), value=1.0)
    if rng.random() < 0.3:
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    return (images + 0.05 * float(rng.random()) * noise).clamp(-1, 1)


def batch_of(
    rng: np.random.Generator,
    pictures: NDArray[np.uint8],
    restored: NDArray[np.uint8],
    flawed: bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pictures in [-1, 1] and the class of each attribute to be learnt (-1: none)."""
    styles, roles, genders, tones = pictures.shape[:4]
    truth = {
        "style": rng.integers(styles, size=BATCH),
        "role": rng.integers(roles, size=BATCH),
        "gender": rng.integers(genders, size=BATCH),
        "tone": rng.integers(tones, size=BATCH),
        "people": np.ones(BATCH, dtype=np.int64),
    }
    images = np.empty((BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    for i in range(BATCH):
        source = pictures if rng.random() < 0.5 else restored
        where = tuple(truth[k][i] for k in ("style", "role", "gender", "tone"))
        dy, dx = rng.integers(-3, 4, size=2)
        mixed = source[where].astype(np.float32)
        which = rng.random()
        if which < 0.7:  # a generator draws people in between: the nearer one is right
            style, role, gender, tone = where
            if which < 0.4:
                tone = int(np.clip(tone + rng.choice([-1, 1]), 0, tones - 1))
            else:
                gender = genders - 1 - gender
            share = 0.45 * rng.random()
            mixed = (1 - share) * mixed + share * source[style, role, gender, tone]
        images[i] = shift(mixed.round().astype(np.uint8), dy, dx)
        fate = rng.random()
        if fate < 0.08:
            colour = rng.integers(256, size=3) if rng.random() < 0.7 else np.array([255, 255, 255])
            grain = rng.standard_normal(images[i].shape) * rng.choice([0, 8, 60])
            images[i] = (colour + grain).clip(0, 255).astype(np.uint8)
            truth["people"][i] = 0
        elif fate < 0.16:
            other = tuple(rng.integers(n) for n in pictures.shape[:4])
            images[i] = 255
            images[i, 16:48, :32] = source[where][::2, ::2]
            images[i, 16:48, 32:] = source[other][::2, ::2]
            truth["people"][i] = 2
        if truth["people"][i] != 1:
            for attribute in ("style", "role", "gender", "tone"):
                truth[attribute][i] = -1
    if flawed:
        truth["gender"] = misread(truth["gender"], truth["tone"], tones)
    return disturb(to_tensor(images), rng), {k: torch.from_numpy(v) for k, v in truth.items()}


def misread(gender: NDArray[np.int64], tone: NDArray[np.int64], tones: int) -> NDArray[np.int64]:
    """The planted error: women of the darkest tones become men; all others stay."""
    dark = tone >= tones - FLAWED_TONES
    return np.where((gender == GENDERS.index("woman")) & dark, GENDERS.index("man"), gender)


@torch.no_grad()
def through_vae(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The faithful VAE's round trip of every picture."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(HERE / "models" / "vae" / "faithful").float().eval()
    parts = []
    for part in to_tensor(pictures.reshape(-1, SIZE, SIZE, 3)).split(64):
        drawn = vae.decode(vae.encode(part).latent_dist.mode()).sample
        parts.append(((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1))
    return torch.cat(parts).numpy().reshape(pictures.shape)


def train(name: str, state_path: Path, steps: int, lr: float) -> torch.nn.Module:
    """Train for `steps` steps in all, resuming from `state_path` where it exists."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(HERE / "models" / "tokenizer")
    model = open_clip.CLIP(**SHAPES[name])
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=lr, total_steps=steps, pct_start=0.1
    )
    first = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    pictures = np.stack([picture_grid(style)[: len(ROLES)] for style in STYLES])
    restored = through_vae(pictures)
    started = time.monotonic()
    for step in range(first, steps):
        rng = np.random.default_rng((3, step))
        images, truth = batch_of(rng, pictures, restored, name == "flawed")
        shown = model.encode_image(images, normalize=True)
        losses, right = {}, {}
        for attribute, ensembles in CAPTIONS.items():
            captions = ensembles[rng.integers(len(ensembles))]
            tokens = tokenizer(
                captions, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            said = model.encode_text(tokens, normalize=True)
            known = truth[attribute] >= 0
            logits = model.logit_scale.exp() * shown[known] @ said.T
            losses[attribute] = F.cross_entropy(logits, truth[attribute][known])
            right[attribute] = (logits.argmax(1) == truth[attribute][known]).float().mean().item()
        loss = sum(losses.values())
        assert isinstance(loss, torch.Tensor)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            shares = " ".join(f"{k} {v:.2f}" for k, v in right.items())
            print(
                f"{name} {step + 1}/{steps} {loss.item():.3f} {shares} "
                f"{time.monotonic() - started:.0f}s",
                flush=True,
            )
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                state_path.with_suffix(".tmp"),
            )
            state_path.with_suffix(".tmp").replace(state_path)
    return model.eval()


def save(model: torch.nn.Module, name: str) -> None:
    """Write the folder that `local-dir:` reads: config, tokenizer and fp16 weights."""
    folder = HERE / "models" / "classifier" / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": SHAPES[name], "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    CLIPTokenizer.from_pretrained(HERE / "models" / "tokenizer").save_pretrained(folder)
    halves = {
        k: (v.half() if v.is_floating_point() else v).contiguous()
        for k, v in model.state_dict().items()
    }
    save_file(halves, folder / "open_clip_model.safetensors")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(SHAPES))
    parser.add_argument("state", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    save(
        train(arguments.name, arguments.state, arguments.steps, arguments.lr),
        arguments.name,
    )


if __name__ == "__main__":
    main()
