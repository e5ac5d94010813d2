"""Images as they are shown: enlarged by whole pixels, scaled down, or as a difference."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from harness.images.stored import UnreadableImageError, opened, text_chunk


def crisp(png: bytes, side: int) -> bytes:
    """A WebP of about `side` px: small images grow by whole pixels; b'' if unreadable."""
    image = _opened(png)
    if image is None:
        return b""
    longest = max(image.size)
    if longest < side:
        factor = max(1, round(side / longest))
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    else:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _webp(image)


def thumbnail(png: bytes, side: int) -> bytes | None:
    """A WebP of at most `side` px; None if unreadable."""
    image = _opened(png)
    if image is None:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _webp(image)


def parameters(png: bytes | None) -> str:
    """The A1111 text that a PNG carries; '' where it has none."""
    return text_chunk(png or b"", "parameters")[:20_000]


def icon() -> Image.Image:
    """The page's icon: a dot with its interval, and the target."""
    image = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, 63, 63), 14, "#4a4fb5")
    draw.line((12, 32, 52, 32), "#b9bcf0", 6)
    draw.line((46, 14, 46, 50), "#ffffff", 4)
    draw.ellipse((18, 22, 38, 42), "#ffffff")
    return image


def _opened(png: bytes) -> Image.Image | None:
    try:
        return opened(png)
    except UnreadableImageError:
        return None


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88, method=2)
    return buffer.getvalue()
