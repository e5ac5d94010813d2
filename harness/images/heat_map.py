"""An image under a heat map, such as the attention to one word."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.images.stored import pixels

VIRIDIS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
"""Five colours of matplotlib's viridis (CC0), evenly apart."""
OPACITY = 0.6


def map_at(maps: NDArray[np.generic], index: tuple[int, ...]) -> NDArray[np.generic] | None:
    """One map of an array of maps; None where it holds no such one."""
    inside = all(i < n for i, n in zip(index, maps.shape, strict=False))
    return maps[index] if inside else None


def heated(pixels: NDArray[np.uint8], heat: NDArray[np.generic]) -> NDArray[np.uint8]:
    """An image under a map in viridis, scaled from 0 to the map's maximum.

    Args:
        pixels: (height, width, 3), uint8 sRGB.
        heat: (rows, columns), 0 or more; enlarged bilinearly.
    """
    plane = Image.fromarray(np.asarray(heat, np.float32))
    size = (pixels.shape[1], pixels.shape[0])
    values = np.asarray(plane.resize(size, Image.Resampling.BILINEAR))
    values = values / max(float(values.max()), 1e-12) * (len(VIRIDIS) - 1)
    colours = [np.interp(values, np.arange(len(VIRIDIS)), channel) for channel in VIRIDIS.T]
    mixed = (1 - OPACITY) * pixels + OPACITY * np.stack(colours, axis=-1)
    return mixed.round().astype(np.uint8)


def overlaid(png: bytes, heat: NDArray[np.generic]) -> bytes:
    """A PNG under a map, as `heated`, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(heated(pixels(png), heat)).save(buffer, "PNG")
    return buffer.getvalue()
