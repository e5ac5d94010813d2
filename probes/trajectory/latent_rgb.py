"""A linear map from a VAE's latents to colours: a preview for nothing, and a number of the VAE.

One colour a latent position, fitted by least squares with a constant to the mean colours of the
blocks of pixels that the positions cover. R² says how much of an image such a preview shows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.json_types import JsonObject
from probes.contracts import Batch, Context

Floats = NDArray[np.float64]


class LatentRgb(NamedTuple):
    """The fitted map.

    Attributes:
        factors: (channels, 3), colours from 0 to 1 by a unit of each channel.
        bias: (3,).
        r2: the share of the colours' variance that it explains.
    """

    factors: Floats
    bias: Floats
    r2: float


def sums(latents: NDArray[np.floating], pixels: NDArray[np.uint8]) -> Floats:
    """What a fit needs of one image; sums of several images are added.

    Args:
        latents: (channels, rows, columns).
        pixels: (height, width, 3), uint8, whole multiples of rows and columns.

    Returns:
        The matrix Zᵀ Z of Z = [latents, 1, colours] over the positions, (channels + 4) square.
    """
    channels, rows, columns = latents.shape
    high, wide = pixels.shape[0] // rows, pixels.shape[1] // columns
    blocks = pixels[: rows * high, : columns * wide].reshape(rows, high, columns, wide, 3)
    colours = blocks.mean(axis=(1, 3)).reshape(-1, 3) / 255
    flat = latents.reshape(channels, -1).T.astype(float)
    z = np.hstack([flat, np.ones((len(flat), 1)), colours])
    found: Floats = z.T @ z
    return found


def fit(total: Floats) -> LatentRgb:
    """The map from added `sums`; the smallest one where several fit alike."""
    known = len(total) - 3
    solution: Floats = np.linalg.lstsq(total[:known, :known], total[:known, known:], rcond=None)[
        0
    ].astype(float)
    return LatentRgb(solution[:-1], solution[-1], explained(total, solution))


def explained(total: Floats, solution: Floats) -> float:
    """R² of a map (channels + 1, 3) on the images whose sums these are; NaN of one colour."""
    known = len(total) - 3
    cross, squares = total[:known, known:], np.diag(total[known:, known:]).sum()
    left = squares - 2 * (solution * cross).sum()
    left += (solution * (total[:known, :known] @ solution)).sum()
    count, means = total[known - 1, known - 1], total[known - 1, known:]
    spread = squares - (means**2).sum() / count
    return float(1 - left / spread) if spread > 1e-9 * squares else float("nan")


def preview(latents: NDArray[np.floating], found: LatentRgb) -> NDArray[np.uint8]:
    """An image of one pixel a latent position: (rows, columns, 3), uint8."""
    colours = np.einsum("crk,cj->rkj", latents, found.factors) + found.bias
    return (colours.clip(0, 1) * 255).round().astype(np.uint8)


class LatentColours:
    """The sums of each image with its final latents."""

    name = "latent-colours"
    version = "1"
    inputs = frozenset({"images", "latents"})

    def cache_key(self) -> JsonObject:
        """Version."""
        return {"version": self.version, "name": self.name}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell and sums, a flat list; empty without latents that fit the image."""
        rows = []
        for cell, image, latent in zip(batch.cells, batch.images, batch.latents, strict=True):
            usable = latent is not None and np.isfinite(latent).all()
            usable = usable and latent is not None and latent.shape[1] <= image.shape[0]
            found = sums(latent, image).ravel() if usable and latent is not None else np.zeros(0)
            rows.append({"cell": cell, "sums": found})
        return pd.DataFrame(rows)
