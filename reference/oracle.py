"""Reads gender, tone and style off a picture of the reference world, without a classifier.

The picture is aligned to the nearest picture of the world (any role, style, and shift of up
to three pixels). Gender is then read from the pixels where the role's man and woman differ,
tone from the median colour (CIELAB) of the skin. A reading below its margin is
'unreadable'. `measure_error` counts how often it errs on pictures whose truth is known.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.color import rgb2lab

from reference.world import GENDERS, ROLES, SIZE, STYLES, TONES, picture_grid, shift

MAX_SHIFT = 3
COARSE = 4
"""Side, in pixels, of the blocks that the first, coarse search averages over."""
GENDER_MARGIN = 0.08
TONE_MARGIN = 0.08
FARTHEST = 0.22
"""Root mean square distance, in [0, 1], beyond which a picture is of no known person."""
UNREADABLE = "unreadable"


class Template(NamedTuple):
    """One role in one style: its ten pictures and where its attributes live."""

    pictures: NDArray[np.float32]
    """(gender, tone, y, x, 3) in [0, 1]."""
    gender_mask: NDArray[np.bool_]
    """(y, x): where man and woman of one tone differ."""
    skin_mask: NDArray[np.bool_]
    """(gender, y, x): skin, where every tone is darker than the last."""
    skin_lab: NDArray[np.float64]
    """(gender, tone, 3): median CIELAB colour in the skin mask."""


@cache
def template(style: str, role: str) -> Template:
    """The template of one role in one style."""
    grid = picture_grid(style)[ROLES.index(role)].astype(np.float32) / 255
    man, woman = grid
    gender_mask = (np.abs(man - woman).max(axis=-1) > 0.15).mean(axis=0) > 0.5
    lab = rgb2lab(grid)
    # Hair changes with the tone too, but only skin darkens from every tone to the next.
    darker = lab[:, :-1, ..., 0] - lab[:, 1:, ..., 0]
    skin_mask = (darker > 2).all(axis=1) & (darker.sum(axis=1) > 25)
    skin_lab = np.stack([np.median(lab[g][:, skin_mask[g]], axis=1) for g in range(len(GENDERS))])
    return Template(grid, gender_mask, skin_mask, skin_lab)


@cache
def _coarse_templates() -> tuple[NDArray[np.float32], list[tuple[str, str, int, int]]]:
    """Block means of every picture at every shift, and whose they are."""
    blocks, whose = [], []
    for style in STYLES:
        grid = picture_grid(style)[: len(ROLES)]
        for dy in range(-MAX_SHIFT, MAX_SHIFT + 1):
            for dx in range(-MAX_SHIFT, MAX_SHIFT + 1):
                moved = _block_means(shift(grid, dy, dx).reshape(-1, SIZE, SIZE, 3))
                blocks.append(moved)
                whose += [
                    (style, role, dy, dx)
                    for role in ROLES
                    for _ in range(len(GENDERS) * len(TONES))
                ]
    return np.concatenate(blocks), whose


def _block_means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    side = SIZE // COARSE
    shaped = pixels.reshape(-1, side, COARSE, side, COARSE, 3).astype(np.float32) / 255
    return shaped.mean(axis=(2, 4)).reshape(len(pixels), -1)


def read(pixels: NDArray[np.uint8]) -> pd.DataFrame:
    """Read pictures.

    Args:
        pixels: (n, 64, 64, 3), uint8 sRGB.

    Returns:
        One row a picture: role, gender, tone, style (each may be 'unreadable'), distance (root
        mean square, in [0, 1]), lightness (median L* of the skin, 0 to 100; NaN if unreadable).
    """
    rows = [_read_one(image, *place) for image, place in zip(pixels, _places(pixels), strict=True)]
    return pd.DataFrame(rows, columns=["role", "gender", "tone", "style", "distance", "lightness"])


def skin_masks(pixels: NDArray[np.uint8]) -> list[NDArray[np.bool_] | None]:
    """Where skin is in pictures (n, 64, 64, 3): (64, 64) each, None where gender is unreadable."""
    masks: list[NDArray[np.bool_] | None] = []
    for gender, place in zip(read(pixels)["gender"], _places(pixels), strict=True):
        if gender == UNREADABLE:
            masks.append(None)
            continue
        style, role, dy, dx = place
        mask = template(style, role).skin_mask[GENDERS.index(gender)]
        # shift() fills with 255, so the mask is moved as a picture of 0 and 1.
        moved = shift(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8), dy, dx)
        masks.append(moved[..., 0] == 1)
    return masks


def _places(pixels: NDArray[np.uint8]) -> list[tuple[str, str, int, int]]:
    """Style, role and shift of the picture of the world that is nearest to each."""
    templates, whose = _coarse_templates()
    squared = (templates**2).sum(axis=1)
    places = []
    for start in range(0, len(pixels), 256):
        coarse = _block_means(pixels[start : start + 256])
        distances = squared - 2 * coarse @ templates.T
        places += [whose[i] for i in distances.argmin(axis=1)]
    return places


def _read_one(
    image: NDArray[np.uint8], style: str, role: str, dy: int, dx: int
) -> tuple[str, str, str, str, float, float]:
    known = template(style, role)
    aligned = shift(image, -dy, -dx).astype(np.float32) / 255
    errors = ((known.pictures - aligned) ** 2).mean(axis=-1)
    overall = errors.mean(axis=(2, 3))
    distance = float(np.sqrt(overall.min()))
    if distance > FARTHEST:
        return UNREADABLE, UNREADABLE, UNREADABLE, UNREADABLE, distance, float("nan")
    by_gender = errors[:, :, known.gender_mask].mean(axis=2).min(axis=1)
    gender = int(by_gender.argmin())
    gender_margin = 1 - by_gender[gender] / max(by_gender[1 - gender], 1e-9)
    skin = np.median(rgb2lab(aligned)[known.skin_mask[gender]], axis=0)
    to_tones = np.linalg.norm(known.skin_lab[gender] - skin, axis=1)
    tone = int(to_tones.argmin())
    tone_margin = 1 - to_tones[tone] / max(np.partition(to_tones, 1)[1], 1e-9)
    return (
        role,
        GENDERS[gender] if gender_margin >= GENDER_MARGIN else UNREADABLE,
        TONES[tone] if tone_margin >= TONE_MARGIN else UNREADABLE,
        style,
        distance,
        float(skin[0]),
    )


def known_pictures(seed: int = 0) -> tuple[NDArray[np.uint8], pd.DataFrame]:
    """Every picture of the world, shifted and rescaled at random, with its truth.

    Returns:
        Pictures (n, 64, 64, 3) and a table of role, gender, tone, style.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels, truth = [], []
    for style in STYLES:
        for r, role in enumerate(ROLES):
            for g, gender in enumerate(GENDERS):
                for t, tone in enumerate(TONES):
                    dy, dx = rng.integers(-2, 3, size=2)
                    picture = Image.fromarray(shift(picture_grid(style)[r, g, t], dy, dx))
                    size = int(rng.integers(60, 69))
                    scaled = picture.resize((size, size), Image.Resampling.BICUBIC)
                    page = Image.new("RGB", (SIZE, SIZE), "white")
                    page.paste(scaled, ((SIZE - size) // 2, (SIZE - size) // 2))
                    pixels.append(np.asarray(page))
                    truth.append((role, gender, tone, style))
    return np.stack(pixels), pd.DataFrame(truth, columns=["role", "gender", "tone", "style"])


def measure_error(pixels: NDArray[np.uint8], truth: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Share of wrong and of unreadable readings by attribute.

    Returns:
        attribute: {"wrong": share of readings that are wrong, among the readable;
        "unreadable": share of pictures}.
    """
    found = read(pixels)
    errors = {}
    for attribute in ("gender", "tone", "style", "role"):
        readable = found[attribute] != UNREADABLE
        wrong = found[attribute] != truth[attribute]
        errors[attribute] = {
            "wrong": float(wrong[readable].mean()),
            "unreadable": float(1 - readable.mean()),
        }
    return errors
