"""How close an image is to its reference: error, structure, colour, detail, and LPIPS as an extra.

All functions take two uint8 sRGB images (height, width, 3) of one size, the image first, and see
the values as they are stored (not linear light). Luma is skimage's `rgb2gray` of these, 0 to 1.
What cannot be said is NaN.
"""

from __future__ import annotations

import pickle
import warnings
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from math import inf, log10, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import skimage
from numpy.typing import NDArray

from harness.json_types import JsonObject
from probes.contracts import Batch, Context
from probes.vae.metrics import FIDELITY, PSNR

Image = NDArray[np.uint8]

SMALLEST_SSIM = 7
"""The window of `ssim`: a smaller side gives NaN."""
SMALLEST_MS_SSIM = 176
"""Five scales need this side: a window of 11 after four halvings. A smaller side gives NaN."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, fine to coarse (Wang, Simoncelli and Bovik 2003)."""
SMALLEST_LPIPS = 31
"""Below this side AlexNet's second pooling has nothing left to pool."""
ROUNDING_DB = 10 * log10(12 * 255**2)
"""PSNR of a perfect reconstruction that was rounded to 8 bits: 58.9 dB."""


class ColourShift(NamedTuple):
    """How an image's colours differ from its reference's, means over pixels in CIELAB (D65).

    Attributes:
        delta_e: CIEDE2000 difference, 0 where equal.
        lightness: L* of the image minus the reference's, -100 to 100; above 0 is lighter.
        chroma: C* of the image minus the reference's; below 0 is paler.
    """

    delta_e: float
    lightness: float
    chroma: float


def _check(image: Image, reference: Image) -> None:
    for name, array in (("image", image), ("reference", reference)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not uint8 (height, width, 3)")
    if image.shape != reference.shape:
        raise ValueError(
            f"image is {image.shape}, reference {reference.shape}: both must have one size"
        )


def mse(image: Image, reference: Image) -> float:
    """Mean squared error over pixels and channels, of intensities from 0 to 1.

    This is what to average over images; `psnr_of` says the mean in dB.

    Raises:
        ValueError: Other types or shapes than uint8 (height, width, 3), or two sizes. So do all
            functions of this module.
    """
    _check(image, reference)
    return float(np.mean((image.astype(float) - reference) ** 2)) / 255**2


def psnr_of(mean_squared_error: float) -> float:
    """A mean squared error of intensities from 0 to 1 as PSNR in dB; 0 is infinite."""
    return -10 * log10(mean_squared_error) if mean_squared_error else inf


def psnr(image: Image, reference: Image) -> float:
    """Peak signal-to-noise ratio in dB over pixels and channels; infinite for equal images."""
    return psnr_of(mse(image, reference))


def ssim(image: Image, reference: Image) -> float:
    """Structural similarity, -1 to 1: uniform window of 7, mean of the three channels.

    As `skimage.metrics.structural_similarity` has it by default; NaN below `SMALLEST_SSIM`.
    """
    _check(image, reference)
    if min(image.shape[:2]) < SMALLEST_SSIM:
        return nan
    return float(
        skimage.metrics.structural_similarity(image, reference, channel_axis=-1, data_range=255)
    )


def ms_ssim(image: Image, reference: Image) -> float:
    """Multi-scale structural similarity (Wang and others 2003), 0 to 1, Gaussian window of 11.

    Always of five scales, because fewer would be another measure: NaN below `SMALLEST_MS_SSIM`.
    Only windows that lie wholly in the image count, at every scale; each scale takes the mean over
    the three channels. Between scales, means of 2 x 2 pixels; an odd side repeats its edge.
    """
    _check(image, reference)
    if min(image.shape[:2]) < SMALLEST_MS_SSIM:
        return nan
    a, b = image / 255, reference / 255
    total = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        # Luminance belongs to the last scale alone. A K1 beyond all values makes it 1 elsewhere.
        k1 = 0.01 if scale == len(MS_SSIM_WEIGHTS) - 1 else 1e6
        similar = skimage.metrics.structural_similarity(
            a,
            b,
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            K1=k1,
        )
        total *= max(0.0, float(similar)) ** weight
        a, b = _halved(a), _halved(b)
    return total


def _halved(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2 x 2 pixels."""
    odd = [(0, side % 2) for side in image.shape[:2]]
    even = np.pad(image, (*odd, (0, 0)), mode="edge")
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def colour_shift(image: Image, reference: Image) -> ColourShift:
    """Mean CIEDE2000 difference, and the shifts of lightness and chroma."""
    _check(image, reference)
    a, b = skimage.color.rgb2lab(image), skimage.color.rgb2lab(reference)
    chroma = np.hypot(a[..., 1], a[..., 2]) - np.hypot(b[..., 1], b[..., 2])
    return ColourShift(
        float(skimage.color.deltaE_ciede2000(b, a).mean()),
        float((a[..., 0] - b[..., 0]).mean()),
        float(chroma.mean()),
    )


def detail_loss(image: Image, reference: Image) -> float:
    """The share of the reference's edges that is gone: 0 none, 1 all, negative where sharper.

    One minus the ratio of the mean Sobel magnitudes of luma. NaN for a reference without edges.
    """
    _check(image, reference)
    edges = [
        float(skimage.filters.sobel(skimage.color.rgb2gray(x)).mean()) for x in (image, reference)
    ]
    # rgb2gray leaves rounding of 1e-16 on a flat image.
    return 1 - edges[0] / edges[1] if edges[1] > 1e-12 else nan


class Lpips:
    """LPIPS v0.1 on AlexNet (Zhang and others 2018), where the extra `lpips` and weights are there.

    Looks before it loads, and never downloads.
    """

    @cached_property
    def _loaded(self) -> tuple[Any, str]:
        """The network, or None and why."""
        if find_spec("lpips") is None:
            return None, "lpips: package not installed"
        import torch
        from torchvision.models import AlexNet_Weights

        file = Path(AlexNet_Weights.IMAGENET1K_V1.url).name
        path = Path(torch.hub.get_dir(), "checkpoints", file)
        if not path.is_file():
            return None, f"lpips: weights missing: no {file} in the torch hub's checkpoints"
        import lpips

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it uses a name that torchvision deprecates
                return lpips.LPIPS(net="alex", verbose=False), ""
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None, f"lpips: weights unreadable: {file} in the torch hub's checkpoints"

    @property
    def missing(self) -> str:
        """Why it cannot be measured; empty where it can."""
        return self._loaded[1]

    @cached_property
    def digest(self) -> str:
        """Exact digest of the weights; empty where they are missing."""
        from harness.models.digests import digest_of

        return digest_of(self._loaded[0]) if self._loaded[0] else ""

    def distance(self, image: Image, reference: Image, device: str = "cpu") -> float:
        """LPIPS, 0 for equal images; NaN where `missing` or below `SMALLEST_LPIPS`."""
        _check(image, reference)
        network = self._loaded[0]
        if network is None or min(image.shape[:2]) < SMALLEST_LPIPS:
            return nan
        import torch

        network.to(device)
        pair = [torch.tensor(x).permute(2, 0, 1)[None] / 127.5 - 1 for x in (image, reference)]
        with torch.no_grad():
            return float(network(*(x.to(device) for x in pair)))


class Fidelity:
    """All of the above for each image that has a reference of its size."""

    name = "fidelity"
    version = "2"
    metrics = (*FIDELITY, PSNR)
    inputs = frozenset({"images", "references"})

    def __init__(self) -> None:
        self.lpips = Lpips()

    def cache_key(self) -> JsonObject:
        """Version, settings, the library of the SSIMs and colours, and LPIPS's weights.

        Version 2: MS-SSIM from valid windows alone.
        """
        return {
            "version": self.version,
            "name": self.name,
            "ssim_window": SMALLEST_SSIM,
            "ms_ssim_side": SMALLEST_MS_SSIM,
            "psnr_cap": round(ROUNDING_DB, 6),
            "skimage": version("scikit-image"),
            "lpips": self.lpips.digest,
        }

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, one column a measure, and note: why some are NaN.

        `psnr` stops at `ROUNDING_DB`, so that means stay finite; `mse` is exact.
        """
        return pd.DataFrame(
            [
                {"cell": cell} | self._row(image, reference, context.device)
                for cell, image, reference in zip(
                    batch.cells, batch.images, batch.references, strict=True
                )
            ],
            columns=["cell", *_MEASURES, "note"],
        )

    def _row(self, image: Image, reference: Image | None, device: str) -> JsonObject:
        if reference is None:
            return dict.fromkeys(_MEASURES, nan) | {"note": "no reference"}
        if reference.shape != image.shape:
            sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (image, reference)]
            note = f"image is {sizes[0]}, reference {sizes[1]}"
            return dict.fromkeys(_MEASURES, nan) | {"note": note}
        error, side = mse(image, reference), min(image.shape[:2])
        smallest = {"ssim": SMALLEST_SSIM, "ms_ssim": SMALLEST_MS_SSIM, "lpips": SMALLEST_LPIPS}
        notes = [f"{k}: a side below {s}" for k, s in smallest.items() if side < s]
        colour = colour_shift(image, reference)
        return {
            "mse": error,
            "psnr": min(psnr_of(error), ROUNDING_DB),
            "ssim": ssim(image, reference),
            "ms_ssim": ms_ssim(image, reference),
            "delta_e": colour.delta_e,
            "lightness_shift": colour.lightness,
            "chroma_shift": colour.chroma,
            "detail_loss": detail_loss(image, reference),
            "lpips": self.lpips.distance(image, reference, device),
            "note": "; ".join([*notes, *filter(None, [self.lpips.missing])]),
        }


_MEASURES = (
    "mse",
    "psnr",
    "ssim",
    "ms_ssim",
    "delta_e",
    "lightness_shift",
    "chroma_shift",
    "detail_loss",
    "lpips",
)
