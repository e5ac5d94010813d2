"""Which image a figure shows: a cell's own, a difference of two, or one under a heat map.

In tables and in report.json a reference is text: 'CELL', 'CELL?minus=OTHER',
'CELL?word=3&stage=1'. Here, and nowhere else, that text is written and read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.images.heat_map import overlaid
from harness.images.stored import pixels

AMPLIFICATION = 8
"""How often a difference is amplified, around middle grey."""
OLD_MINUS, OLD_WORD, OLD_STAGE = " minus ", " attention to word ", " stage "
"""Between the parts of a reference in reports of 0.1.0."""
Map = NDArray[np.generic]


class ImageRef(NamedTuple):
    """One image, given by what it is made of.

    Attributes:
        cell: id of the cell whose image it is.
        minus: id of the cell whose image is subtracted; '': none.
        word: index of the word of the prompt whose attention map lies over it; None: none.
        stage: index of the stage of that map; None: over all of them.
    """

    cell: str
    minus: str = ""
    word: int | None = None
    stage: int | None = None

    def __str__(self) -> str:
        """The reference as text, see the module."""
        parts = {"minus": self.minus or None, "word": self.word, "stage": self.stage}
        held = {key: value for key, value in parts.items() if value is not None}
        return f"{self.cell}?{urlencode(held)}" if held else self.cell

    @property
    def array(self) -> tuple[str, tuple[int, ...]]:
        """Name of the attention record's array that holds the map, and the index in it."""
        assert self.word is not None, "only an image under a map has one"
        if self.stage is None:
            return "prompt/maps", (self.word,)
        return "prompt/stage_maps", (self.stage, self.word)


def read_ref(text: str) -> ImageRef:
    """The reference that a text says; a text that says none is a cell of that name.

    Examples:
        >>> read_ref("ab12?word=3&stage=1")
        ImageRef(cell='ab12', minus='', word=3, stage=1)
    """
    cell, _, query = _modern(text).partition("?")
    said = dict(parse_qsl(query, keep_blank_values=True))
    numbers = {key: int(said[key]) for key in ("word", "stage") if said.get(key, "").isdecimal()}
    known = {"minus"} | numbers.keys()
    if not said.keys() <= known or ("stage" in numbers and "word" not in numbers):
        return ImageRef(text)
    return ImageRef(cell, said.get("minus", ""), numbers.get("word"), numbers.get("stage"))


def _modern(text: str) -> str:
    """A reference of a report of 0.1.0 as it is written today."""
    if OLD_MINUS in text:
        cell, _, other = text.partition(OLD_MINUS)
        return str(ImageRef(cell, minus=other))
    if OLD_WORD in text:
        cell, _, rest = text.partition(OLD_WORD)
        word, _, stage = rest.partition(OLD_STAGE)
        return f"{cell}?word={word}" + (f"&stage={stage}" if stage else "")
    return text


def rendered(
    ref: ImageRef, png_of: Callable[[str], bytes | None], map_of: Callable[[ImageRef], Map | None]
) -> bytes | None:
    """PNG bytes of the image; None where a part of it is not there.

    Args:
        ref: Which image.
        png_of: PNG bytes of a cell's image; None: it has none.
        map_of: The attention map of a reference with a word; None: none was kept.
    """
    png = png_of(ref.cell)
    if png is not None and ref.minus:
        other = png_of(ref.minus)
        png = None if other is None else difference(png, other)
    if png is not None and ref.word is not None:
        plane = map_of(ref)
        png = None if plane is None else overlaid(png, plane)
    return png


def difference(one: bytes, other: bytes) -> bytes | None:
    """One PNG minus another, amplified around middle grey, as PNG; None where sizes differ."""
    a, b = pixels(one), pixels(other)
    if a.shape != b.shape:
        return None
    apart = (128 + AMPLIFICATION * (a.astype(int) - b)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(apart).save(buffer, "PNG")
    return buffer.getvalue()
