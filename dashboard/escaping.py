"""Text of a run as Streamlit shows it: nothing in it is read as Markdown."""

from __future__ import annotations

import re

from reports.text import clip

MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@\"'])")
BREAK = "\u2060"
"""Word joiner: takes no room, and no address holds it."""


def plain(text: object, limit: int = 700) -> str:
    """Text escaped for Markdown and cut; addresses do not become links.

    Prompts, names and notes are hostile: in Markdown they could load an image from afar, dress
    as a link, or colour themselves as a verdict.
    """
    safe = clip(text, limit).replace("://", f":{BREAK}//").replace("www.", f"www{BREAK}.")
    return MARKUP.sub(r"\\\1", safe).replace(" %", "\u00a0%")


def count(n: int, one: str, many: str = "") -> str:
    """'1 image', '1,024 images'."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def signed(value: float) -> str:
    """One decimal with its sign: '+1.5', '−0.3' with a true minus."""
    return f"{value:+.1f}".replace("-", "−")
