"""The reference world: 480 small pictures of people whose every attribute is known.

24 roles x man/woman x 5 skin tones x 2 drawing styles, from the people emoji of Noto
(Apache-2.0) and Twemoji (CC-BY 4.0), 64 x 64 pixels on white. `pictures/` holds them as one
sheet a style: a row is a role, a column a gender and a tone. See `train/pictures.py` for how
the sheets were made from the published packages.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).parent
SIZE = 64
STYLES = ("noto", "twemoji")
GENDERS = ("man", "woman")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
ROLES = (
    "doctor",
    "student",
    "teacher",
    "judge",
    "farmer",
    "cook",
    "mechanic",
    "office worker",
    "scientist",
    "programmer",
    "singer",
    "artist",
    "pilot",
    "firefighter",
    "police officer",
    "construction worker",
    "waiter",
    "wizard",
    "vampire",
    "elf",
    "monarch",
    "pensioner",
    "redhead",
    "parent",
)
BEARDED, BEARDLESS = "bearded person", "person"
EXTRA = (BEARDED, BEARDLESS)
"""Extra rows of the sheets, seen by the VAEs and never by the denoiser: the same faces with a
full beard and without one."""


class Person(NamedTuple):
    """What is known of one picture."""

    role: str
    gender: str
    tone: str
    style: str


def sheet_path(style: str) -> Path:
    """Path of the picture sheet of one drawing style."""
    return HERE / "pictures" / f"{style}.png"


@cache
def picture_grid(style: str) -> NDArray[np.uint8]:
    """All pictures of one style.

    Returns:
        (role, gender, tone, height, width, 3), uint8 sRGB on white. The last roles are `EXTRA`.
    """
    sheet = np.asarray(Image.open(sheet_path(style)).convert("RGB"))
    rows = len(ROLES) + len(EXTRA)
    cells = sheet.reshape(rows, SIZE, len(GENDERS), len(TONES), SIZE, 3)
    return cells.transpose(0, 2, 3, 1, 4, 5)


def picture(person: Person) -> NDArray[np.uint8]:
    """The picture of one person, (height, width, 3), uint8."""
    row = (*ROLES, *EXTRA).index(person.role)
    grid = picture_grid(person.style)
    return grid[row, GENDERS.index(person.gender), TONES.index(person.tone)]


def shift(pixels: NDArray[np.uint8], dy: int, dx: int) -> NDArray[np.uint8]:
    """Move pictures (…, height, width, 3) by whole pixels; what is uncovered is white."""
    out = np.full_like(pixels, 255)
    height, width = pixels.shape[-3:-1]
    out[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0), :] = pixels[
        ...,
        max(-dy, 0) : height + min(-dy, 0),
        max(-dx, 0) : width + min(-dx, 0),
        :,
    ]
    return out


def neutral_prompt(role: str) -> str:
    """A prompt that names the role alone: 'a portrait of a firefighter'."""
    return f"a portrait of {article(role)} {role}"


def explicit_prompt(person: Person) -> str:
    """A prompt that names everything that can be known of a picture."""
    return (
        f"a portrait of a {person.gender} {person.role} with {person.tone} skin, "
        f"{person.style} style"
    )


def article(noun: str) -> str:
    """The indefinite article of a role's name."""
    return "an" if noun[0] in "aeio" else "a"


@cache
def planted() -> dict[str, dict[str, object]]:
    """The planted shares, by checkpoint (`planted.yaml`)."""
    loaded: dict[str, dict[str, object]] = yaml.safe_load((HERE / "planted.yaml").read_text())
    return loaded
