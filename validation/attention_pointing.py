"""Does attention to a word point at what the word names? `python -m validation.attention_pointing`.

The pointing game (Zhang et al. 2018) on images of `balanced`: a hit is a map whose highest
pixel lies where the oracle knows the named thing to be. The tone's words ('dark', 'skin')
should point at skin; the role's words at the person but the skin: clothes, tools, hair. Chance
is the share of the image that the mask covers, which a point at random would hit. All layers
and steps, nothing tuned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.generate.sampling import Generator
from harness.models.loading import load_checkpoint
from harness.models.token_alignment import read_words
from harness.spec.sections import CheckpointSpec
from harness.taps.attention_record import words_of
from harness.taps.cross_attention import AttentionTap, combined
from probes.statistics.intervals import share_interval
from reference.oracle import skin_masks
from reference.world import GENDERS, ROLES, SIZE, STYLES, TONES, Person, explicit_prompt

STEPS, GUIDANCE, BATCH = 12, 3.0, 8
WHITE = 240
"""A pixel with all channels above is background."""


class Hit(NamedTuple):
    """One word of one image: whether its highest pixel is in the mask, and the mask's share."""

    kind: str
    hit: bool
    chance: float


def people(count: int) -> list[Person]:
    """People drawn evenly and without order from the world, always the same ones."""
    everyone = [Person(r, g, t, s) for r in ROLES for g in GENDERS for t in TONES for s in STYLES]
    order = np.random.default_rng(0).permutation(len(everyone))
    return [everyone[i] for i in order[:count]]


def point(heat: NDArray[np.float32]) -> tuple[int, int]:
    """Row and column of the highest pixel of a map enlarged to the image, bilinearly."""
    grown = Image.fromarray(heat).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    row, column = np.unravel_index(np.asarray(grown).argmax(), (SIZE, SIZE))
    return int(row), int(column)


def hits(
    person: Person,
    image: NDArray[np.uint8],
    skin: NDArray[np.bool_],
    maps: dict[str, NDArray[np.float32]],
) -> list[Hit]:
    """The words of one image; `maps` are by the word's label."""
    body = (image < WHITE).any(axis=-1) & ~skin
    wanted = [("tone", person.tone, skin), ("'skin'", "skin", skin)]
    wanted += [("role", word, body) for word in person.role.split()]
    return [
        Hit(kind, bool(mask[point(maps[word])]), float(mask.mean()))
        for kind, word, mask in wanted
        if word in maps
    ]


def play(generator: Generator, chosen: list[Person]) -> tuple[list[Hit], int]:
    """All hits, and the number of images that the oracle could not read."""
    found: list[Hit] = []
    unread = 0
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        texts = [explicit_prompt(p) for p in part]
        rows = pd.DataFrame({"text": texts, "negative_text": "", "sampler": "own"})
        rows = rows.assign(noise=range(9_000_000 + start, 9_000_000 + start + len(part)))
        rows = rows.assign(steps=STEPS, guidance=GUIDANCE, width=SIZE, height=SIZE)
        tap = AttentionTap(generator.pipe.unet, BATCH)
        with tap.attached():
            latents = generator.denoise(rows)
        images = (generator.decode(generator.pipe.vae, latents) * 255).round().astype(np.uint8)
        for i, (person, mask) in enumerate(zip(part, skin_masks(images), strict=True)):
            if mask is None:
                unread += 1
                continue
            tokens = combined(tap.prompt, i)
            words = words_of(read_words(generator.pipe.tokenizer, texts[i]))
            maps = {w: tokens[..., list(at)].sum(dim=-1).numpy() for w, at in words}
            found += hits(person, images[i], mask, maps)
    return found, unread


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=240)
    count = parser.parse_args().images
    source = CheckpointSpec(source="reference:balanced")
    checkpoint = load_checkpoint("balanced", source, Path(), "cpu", torch.float32)
    found, unread = play(Generator(checkpoint.pipe, BATCH), people(count))
    print(f"{count} images, {unread} that the oracle could not read")
    table = pd.DataFrame(found)
    for kind, part in table.groupby("kind", sort=False):
        value, low, high = share_interval(int(part["hit"].sum()), len(part))
        print(
            f"{kind}: hits {value:.1%} [{low:.1%}, {high:.1%}] of {len(part)} words; "
            f"chance {part['chance'].mean():.1%}"
        )


if __name__ == "__main__":
    main()
