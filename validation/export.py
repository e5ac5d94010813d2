"""Write the world's images into a folder, with a table of their attributes and skin masks.

    python -m validation.export FOLDER

For `audit vae FOLDER --csv FOLDER/labels.csv --vae reference:pale`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from reference.oracle import template
from reference.world import (
    BEARDED,
    EXTRA,
    GENDERS,
    ROLES,
    STYLES,
    TONES,
    Person,
    neutral_prompt,
    picture,
)


def main() -> None:
    """Write every image of every role, the bearded and beardless faces too."""
    export(Path(sys.argv[1]), (*ROLES, *EXTRA))


def export(folder: Path, roles: tuple[str, ...]) -> Path:
    """Write the images of some roles and their table; masks for those the oracle reads.

    Returns:
        Path of the table: file, prompt, role, gender, tone, style, beard, mask.
    """
    (folder / ".masks").mkdir(parents=True, exist_ok=True)
    rows = []
    for role in roles:
        for style in STYLES:
            for g, gender in enumerate(GENDERS):
                for tone in TONES:
                    name = f"{role}-{gender}-{tone}-{style}".replace(" ", "-") + ".png"
                    pixels = picture(Person(role, gender, tone, style))
                    Image.fromarray(pixels).save(folder / name)
                    mask = ""
                    if role in ROLES:
                        mask = f".masks/{name}"
                        where = template(style, role).skin_mask[g]
                        Image.fromarray((where * 255).astype(np.uint8)).save(folder / mask)
                    beard = ("yes" if role == BEARDED else "no") if role in EXTRA else ""
                    rows.append(
                        (name, neutral_prompt(role), role, gender, tone, style, beard, mask)
                    )
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "prompt", "role", "gender", "tone", "style", "beard", "mask"])
        writer.writerows(rows)
    return table


if __name__ == "__main__":
    main()
