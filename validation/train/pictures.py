"""Make the picture sheets from the two published emoji packages.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python -m validation.train.pictures *.tgz

Each picture is scaled from 64 to 60 pixels and put on a white square of 64, so that a shift
of two pixels cuts nothing off.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

from PIL import Image

from reference.world import (
    BEARDED,
    BEARDLESS,
    EXTRA,
    GENDERS,
    ROLES,
    SIZE,
    STYLES,
    TONES,
    sheet_path,
)

NAMES = {  # role: (man, woman) as the packages name them
    "doctor": ("male-doctor", "female-doctor"),
    "student": ("male-student", "female-student"),
    "teacher": ("male-teacher", "female-teacher"),
    "judge": ("male-judge", "female-judge"),
    "farmer": ("male-farmer", "female-farmer"),
    "cook": ("male-cook", "female-cook"),
    "mechanic": ("male-mechanic", "female-mechanic"),
    "office worker": ("male-office-worker", "female-office-worker"),
    "scientist": ("male-scientist", "female-scientist"),
    "programmer": ("male-technologist", "female-technologist"),
    "singer": ("male-singer", "female-singer"),
    "artist": ("male-artist", "female-artist"),
    "pilot": ("male-pilot", "female-pilot"),
    "firefighter": ("male-firefighter", "female-firefighter"),
    "police officer": ("male-police-officer", "female-police-officer"),
    "construction worker": ("male-construction-worker", "female-construction-worker"),
    "waiter": ("man_in_tuxedo", "woman_in_tuxedo"),
    "wizard": ("male_mage", "female_mage"),
    "vampire": ("male_vampire", "female_vampire"),
    "elf": ("male_elf", "female_elf"),
    "monarch": ("prince", "princess"),
    "pensioner": ("older_man", "older_woman"),
    "redhead": ("red_haired_man", "red_haired_woman"),
    "parent": ("man_feeding_baby", "woman_feeding_baby"),
    BEARDED: ("man_with_beard", "woman_with_beard"),
    BEARDLESS: ("man", "woman"),
}
TONE_CODES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
PACKAGES = {"google": "noto", "twitter": "twemoji"}
DRAWN = 60


def main(archives: list[str]) -> None:
    """Write one sheet for each package archive named."""
    for archive in archives:
        vendor = next(v for v in PACKAGES if v in Path(archive).name)
        with tarfile.open(archive) as tar:
            index_file = tar.extractfile("package/emoji.json")
            assert index_file is not None
            index = {e["short_name"]: e for e in json.load(index_file)}
            rows = (*ROLES, *EXTRA)
            size = (SIZE * len(GENDERS) * len(TONES), SIZE * len(rows))
            sheet = Image.new("RGB", size, "white")
            for row, role in enumerate(rows):
                for g, name in enumerate(NAMES[role]):
                    for t, code in enumerate(TONE_CODES):
                        image = index[name]["skin_variations"][code]["image"]
                        file = tar.extractfile(f"package/img/{vendor}/64/{image}")
                        assert file is not None
                        drawn = Image.open(io.BytesIO(file.read())).convert("RGBA")
                        white = Image.new("RGBA", drawn.size, "white")
                        flat = Image.alpha_composite(white, drawn).convert("RGB")
                        flat = flat.resize((DRAWN, DRAWN), Image.Resampling.LANCZOS)
                        margin = (SIZE - DRAWN) // 2
                        column = g * len(TONES) + t
                        sheet.paste(flat, (column * SIZE + margin, row * SIZE + margin))
            path = sheet_path(PACKAGES[vendor])
            path.parent.mkdir(exist_ok=True)
            sheet.save(path, optimize=True)
            print(f"{path.name}: {path.stat().st_size:,} bytes")
    missing = [style for style in STYLES if not sheet_path(style).exists()]
    if missing:
        sys.exit(f"no sheet for {missing}: name the archives of both packages")


if __name__ == "__main__":
    main(sys.argv[1:])
