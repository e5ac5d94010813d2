"""Stored images are decoded in one place, with PNG's decoder alone and a limit on their size."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from harness.images.stored import UnreadableImageError, opened, pixels, text_chunk

ROOT = Path(__file__).parents[2]


def encoded(kind="PNG", size=(3, 2), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(buffer, kind, **options)
    return buffer.getvalue()


def huge():
    """The header of a PNG of 100,000 x 100,000 pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


def test_pixels_of_a_png():
    assert pixels(encoded()).shape == (2, 3, 3)
    assert (pixels(encoded()) == [9, 8, 7]).all()
    assert np.asarray(opened(encoded(), "L")).shape == (2, 3)


@pytest.mark.parametrize(
    "data", [b"", b"x", encoded()[:40], encoded("JPEG"), encoded("GIF"), huge()], ids=len
)
def test_all_else_is_refused_in_one_line(data):
    with pytest.raises(UnreadableImageError) as error:
        opened(data)
    assert len(str(error.value).splitlines()) == 1
    assert text_chunk(data, "parameters") == ""


def test_a_text_chunk_is_read_without_the_pixels():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "a cook")
    assert text_chunk(encoded(pnginfo=info), "parameters") == "a cook"
    assert text_chunk(encoded(), "parameters") == ""


def test_nobody_else_decodes_images():
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("harness", "probes", "reports", "audit", "dashboard", "diffusion_audit")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\bImage\.open\(", path.read_text())
    }
    # Imported files, of whatever format, have a way of their own.
    assert found == {"harness/images/stored.py", "harness/images/pixels.py"}
