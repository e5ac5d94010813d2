"""Hostile text as plain text: in Markdown, in HTML that a site may filter, and in a spreadsheet."""

from __future__ import annotations

import re
from html import escape

from harness.terminal import plain
from reports.text import clip

ACTIVE = re.compile(r"([\\`*_{}\[\]|~$#])")
"""What Markdown may act on within a line. Parentheses and '!' do nothing without brackets."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def markdown(text: object, limit: int = 400) -> str:
    """Text that reads the same in Markdown: no link, tag, formula or table cell of its own.

    Some sites link bare addresses too, so '://' and 'www.' are broken up. To be set within a
    line: at its start a dash or number would make a list.
    """
    quiet = ACTIVE.sub(r"\\\1", escape(clip(text, limit), quote=False))
    quiet = quiet.replace("://", "&#58;//")
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}&#46;", quiet)


def html(text: object, limit: int = 400) -> str:
    """Text in HTML."""
    return escape(clip(text, limit))


def spreadsheet(value: object) -> object:
    """A value of a CSV; a formula's text gets a leading quote, control characters are escaped."""
    if not isinstance(value, str):
        return value
    safe = plain(value, keep="\n\t")
    return f"'{safe}" if value.startswith(FORMULA) else safe
