"""Pages from Jinja templates: every value that they set is escaped, nothing is marked safe."""

from __future__ import annotations

import re
from base64 import b64encode

import jinja2

PAGE_BYTES = 10_000_000
"""Browsers stumble over larger pages."""


def template(name: str) -> jinja2.Template:
    """A page's template; every value that it sets is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nb"] = no_break
    return environment.get_template(name)


def no_break(text: str) -> str:
    """Keep a number and its percent sign, and an interval's two ends, on one line."""
    text = re.sub(r"\bp ([=<]) ", "p\u00a0\\1\u00a0", text)
    together = re.sub(r"\[[^\[\]]{1,24}\]", lambda found: found[0].replace(" ", "\u00a0"), text)
    return together.replace(" %", "\u00a0%")


def data_uri(data: bytes, media: str) -> str:
    """Bytes as a data: URI."""
    return f"data:{media};base64,{b64encode(data).decode()}"
