"""The colour of skin inside a mask: lightness, individual typology angle, Monk tone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import skimage

from harness.images.colorimetry import ita, monk_tone
from harness.json_types import JsonObject
from probes.contracts import Batch, Context

FEWEST_PIXELS = 16


class Skin:
    """Colorimetry inside each image's mask; NaN where it has no mask.

    The mask belongs to the latents, not to what a VAE makes of them: all arms of a trajectory
    are measured in the same pixels.
    """

    name = "skin"
    version = "1"
    inputs = frozenset({"images", "masks"})

    def cache_key(self) -> JsonObject:
        """Version."""
        return {"version": self.version, "fewest pixels": FEWEST_PIXELS}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, lightness (median L*, 0 to 100), ita (degrees), monk (0 to 9), pixels."""
        rows = []
        for cell, image, mask in zip(batch.cells, batch.images, batch.masks, strict=True):
            pixels = np.empty((0, 3), np.uint8)
            if mask is not None and mask.shape == image.shape[:2]:
                pixels = image[mask]
            if len(pixels) < FEWEST_PIXELS:
                rows.append((cell, np.nan, np.nan, np.nan, len(pixels)))
                continue
            middle = np.median(skimage.color.rgb2lab(pixels), axis=0)
            tone = monk_tone(pixels)
            rows.append((cell, float(middle[0]), float(ita(middle)), float(tone or 0), len(pixels)))
        return pd.DataFrame(rows, columns=["cell", "lightness", "ita", "monk", "pixels"])
