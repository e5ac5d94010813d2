r"""The one place through which the command line speaks.

Prompts, names and messages of files are strangers' texts. A terminal acts on control characters
(titles, colours, hyperlinks, the cursor) and on characters that turn the direction of writing:
all of them are shown as escapes, `\x1b`, and act on nothing.
"""

from __future__ import annotations

import json
import os
import re

import click

ACTIVE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f\ud800-\udfff]"
)
"""Characters that act on a reader, or cannot be encoded, instead of being read."""


def plain(text: object, keep: str = "") -> str:
    r"""A text that a terminal, a CSV or JSON reader shows and does not act on.

    >>> print(plain("a \x1b]0;title\x07 nurse"))
    a \x1b]0;title\x07 nurse
    """
    return ACTIVE.sub(lambda found: found[0] if found[0] in keep else _escape(found), str(text))


def plain_json(text: str) -> str:
    r"""JSON with the same values, in which what acts on a reader is written as an escape.

    >>> print(plain_json('{"a": "b\u202ec"}'))
    {"a": "b\u202ec"}
    """
    return ACTIVE.sub(
        lambda found: found[0] if found[0] in "\n\r\t" else json.dumps(found[0])[1:-1], text
    )


def out(text: object) -> None:
    """One line of the command's result, to stdout."""
    click.echo(plain(text))


def marked(lead: str, rest: str, strong: bool) -> None:
    """One line of the result with its lead in bold, where there is a terminal and no NO_COLOR.

    Args:
        lead: Beginning of the line.
        rest: What follows it.
        strong: Whether it says that something is wrong: bold, behind a yellow dash.
    """
    dash = click.style("-", fg="yellow" if strong else "green")
    text = f"{dash} {click.style(plain(lead), bold=strong or None)}{plain(rest)}"
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def say(text: object) -> None:
    """One line to stderr, where progress and warnings go."""
    click.echo(plain(text), err=True)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if character in short:
        return short[character]
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
