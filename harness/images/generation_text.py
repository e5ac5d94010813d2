"""What an image file says of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Found(NamedTuple):
    """Prompt, negative and settings as a file holds them.

    Attributes:
        prompt: '' where there is none, or where it cannot be told from the rest.
        negative: '' where there is none.
        settings: steps, sampler, seed and so on, by their WebUI names where they have one.
        tool: what wrote them; '' where there are none.
        note: why there is no prompt, or what was passed on the way to it; '' where nothing is to
            be said.
    """

    prompt: str = ""
    negative: str = ""
    settings: Mapping[str, str] = MappingProxyType({})
    tool: str = ""
    note: str = ""
