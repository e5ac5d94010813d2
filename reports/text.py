"""Text and numbers as they are set: cut to a length, free of what no page may hold."""

from __future__ import annotations

import re
from math import isfinite

UNSETTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def quoted(prompt: str, limit: int = 160) -> str:
    """A prompt in quotation marks, cut where it is very long."""
    return f"“{clip(prompt, limit)}”"


def clip(text: object, limit: int) -> str:
    """Text on one line of at most `limit` characters; what is cut is shown as '…'.

    Characters that no XML may hold, and those that turn the direction of writing, become '�'.
    """
    whole = str(text)
    # What cannot be shown need not be read: a prompt may be megabytes long.
    line = UNSETTABLE.sub("�", " ".join(whole[: 10 * limit].split()))
    if len(line) <= limit and len(whole) <= 10 * limit:
        return line
    return line[: limit - 1].rstrip() + "…"


def percent(share: float) -> str:
    """A share as a percentage: .17 is '17 %'; below 1 and above 99 with one digit more."""
    value = 100 * share
    digits = 1 if 0 < abs(value) < 0.95 or 99 < abs(value) < 100 else 0
    return f"{value:.{digits}f} %".replace("-", "−")


def number(value: float) -> str:
    """A number with three significant digits; '–' where there is none."""
    if not isfinite(value):
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def points(share: float) -> str:
    """A distance of shares in percentage points, without its unit: .33 is '33'."""
    if not isfinite(share):
        return "–"
    digits = 1 if 0 < abs(share) < 0.0095 else 0
    return f"{100 * share:.{digits}f}".replace("-", "−")
