"""Images as PNG files that carry their settings, as A1111's do."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from harness.hashing import sha256
from harness.images.a1111 import write_parameters
from harness.json_types import JsonObject
from harness.store.run import Run

NAN_LATENTS = "NaN in the latents: the denoiser overflowed; try bfloat16 or float32"


def png_bytes(pixels: NDArray[np.uint8], parameters: str) -> bytes:
    """A PNG with an A1111-style `parameters` text chunk."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("parameters", parameters)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def write_images(
    run: Run,
    unit: str,
    file: str,
    rows: pd.DataFrame,
    images: NDArray[np.float32],
    sound: Sequence[bool],
) -> None:
    """Write one unit's images by one VAE, each with its settings, or why there is none.

    Args:
        run: Where to.
        unit: Whose.
        file: Of the VAE.
        rows: Of the plan.
        images: (rows, height, width, 3) in [0, 1]; NaN where the decoder overflowed.
        sound: Whether the latents of each row are finite.
    """
    records: list[JsonObject] = []
    for row, image, finite in zip(rows.itertuples(), images, sound, strict=True):
        reason = _unusable(image) if finite else NAN_LATENTS
        if reason:
            records.append({"cell": row.cell, "png": None, "sha256": None, "reason": reason})
            continue
        pixels = (image * 255).round().astype(np.uint8)
        settings = {
            "Steps": str(row.steps),
            "Sampler": str(row.sampler),
            "CFG scale": f"{row.guidance:g}",
            "Seed": str(row.noise),
            "Size": f"{row.width}x{row.height}",
            "Model": str(row.checkpoint),
            "VAE": str(row.vae),
            "Adapters": str(row.adapters),
            "Audit cell": str(row.cell),
        }
        text = write_parameters(str(row.text), str(row.negative_text), settings)
        data = png_bytes(pixels, text)
        records.append(
            {"cell": row.cell, "png": data, "sha256": sha256(pixels.tobytes()), "reason": None}
        )
    run.write_images(unit, file, records)


def _unusable(image: NDArray[np.float32]) -> str | None:
    if not np.isfinite(image).all():
        return "NaN pixels: the decoder overflowed; try bfloat16 or float32"
    if image.max() == 0:
        return "all black"
    return None
