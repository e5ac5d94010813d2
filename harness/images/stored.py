"""Images as runs store them: PNG bytes to pixels, in one place.

A run may come from a stranger: of Pillow's decoders only PNG's is used, and a size that nobody
meant is refused before anything is decoded.
"""

from __future__ import annotations

import io
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.errors import AuditError, reason

MAX_PIXELS = 64_000_000
"""Of a stored image; as many as an imported one may have."""


class UnreadableImageError(AuditError):
    """A stored image cannot be decoded; the message says why, in one line."""


def opened(png: bytes, mode: str = "RGB") -> Image.Image:
    """The image of PNG bytes.

    Args:
        png: PNG bytes.
        mode: Pillow's mode of the result: 'RGB', or 'L' for a mask.

    Raises:
        UnreadableImageError: They are no PNG, are cut off, or are of more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(
                    f"has {image.width:,} x {image.height:,} pixels; at most {MAX_PIXELS:,} are "
                    "read"
                )
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        raise UnreadableImageError(f"not a readable PNG ({reason(error, 60)})") from None


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Pixels of PNG bytes, (height, width, 3) uint8 sRGB; errors as `opened`."""
    return np.asarray(opened(png))


def text_chunk(png: bytes, key: str) -> str:
    """A text chunk of a PNG, such as A1111's 'parameters'; '' where it has none."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return str(getattr(image, "text", {}).get(key, ""))
    except (OSError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError):
        return ""
