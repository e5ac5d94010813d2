"""Power spectra of images and latents: lost detail, added noise, the decoder's grid.

Luma is skimage's `rgb2gray` of the sRGB values as they are stored, 0 to 1. The reference of a
image is what the first VAE made of the same latents or, in a round trip, the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
import pandas as pd
import scipy
import skimage

from harness.json_types import JsonObject
from harness.spec.schema import Spec
from probes.contracts import (
    AnalysisInput,
    Batch,
    Context,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    ProbeOptions,
    Result,
)
from probes.registry import register
from probes.statistics.power_spectrum import (
    BINS,
    HIGH,
    ROUNDING,
    bin_centres,
    grid_peak,
    high_frequency_gain,
    high_frequency_ratio,
    log_slope,
    log_spectral_error,
    power_spectrum,
    radial,
)
from probes.vae.effects import Measure
from probes.vae.group_disparity import describe, with_clusters

DETAIL = MetricSpec("share of fine detail", "level", "of power", None, "hf_ratio", 1.0, 0.001)
GAIN = MetricSpec("high-frequency energy", "shift", "dB", None, "hf_gain", resolution=0.2)
GRID = MetricSpec("peak at the decoder's grid", "shift", "dB", "lower", "grid", resolution=0.5)
SLOPE = MetricSpec(
    "slope of the latents' spectrum", "level", "of log power", None, "slope", resolution=0.05
)
LATENT_DETAIL = MetricSpec(
    "share of fine detail in latents", "level", "of power", None, "hf_ratio", 1.0, 0.005
)
LEVELS = (Measure(DETAIL),)
SHIFTS = (Measure(GAIN), Measure(GRID))
LATENT = (Measure(SLOPE), Measure(LATENT_DETAIL))


class Spectrum:
    """The spectrum of each image's luma, and how it differs from its reference's.

    Args:
        period: The decoder's upsampling in pixels.
    """

    name = "spectrum"
    metrics = (DETAIL, GAIN)
    version = "1"
    inputs = frozenset({"images", "references"})

    def __init__(self, period: int = 8) -> None:
        self.period = period

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        return {
            "version": self.version,
            "name": self.name,
            "period": self.period,
            "bins": BINS,
            "high": HIGH,
            "window": "hann",
        }

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell and what was found; NaN where there is no reference of the same size.

        hf_ratio and hf_gain (dB) as `high_frequency_ratio` and `high_frequency_gain`; grid_peak
        and grid_peak_reference (dB); log_spectral_error, a list of `BINS` numbers in dB at
        `bin_centres`. Power below the rounding of 8 bits counts as that.
        """
        rows = []
        for cell, image, reference in zip(batch.cells, batch.images, batch.references, strict=True):
            power = power_spectrum(skimage.color.rgb2gray(image))
            row: JsonObject = {
                "cell": cell,
                "hf_ratio": high_frequency_ratio(power),
                "hf_gain": nan,
                "grid_peak": grid_peak(power, self.period, ROUNDING),
                "grid_peak_reference": nan,
                "log_spectral_error": np.full(BINS, nan),
            }
            if reference is not None and reference.shape == image.shape:
                wanted = power_spectrum(skimage.color.rgb2gray(reference))
                row |= {
                    "hf_gain": high_frequency_gain(power, wanted, ROUNDING),
                    "grid_peak_reference": grid_peak(wanted, self.period, ROUNDING),
                    "log_spectral_error": log_spectral_error(
                        radial(power), radial(wanted), ROUNDING
                    ),
                }
            rows.append(row)
        return pd.DataFrame(rows)


class LatentSpectrum:
    """The spectrum of each cell's final latents."""

    name = "latent-spectrum"
    metrics = (SLOPE, LATENT_DETAIL)
    version = "1"
    inputs = frozenset({"latents"})

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        return {"version": self.version, "name": self.name, "high": HIGH, "window": "none"}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, slope (as `log_slope`) and hf_ratio, both means over the channels.

        NaN where there are no latents, where one is not finite, or a channel has no power. There
        is no window: latents are small (8 by 8 in the reference world), and on such crops of fields
        with known slopes Hann's made the slope worse.
        """
        rows = []
        for cell, latent in zip(batch.cells, batch.latents, strict=True):
            slope, high = nan, nan
            if latent is not None and np.isfinite(latent).all():
                powers = [power_spectrum(channel.astype(float), False) for channel in latent]
                bins = max(3, min(latent.shape[1:]))
                slope = float(np.mean([log_slope(radial(p, bins)) for p in powers]))
                high = float(np.mean([high_frequency_ratio(p) for p in powers]))
            rows.append({"cell": cell, "slope": slope, "hf_ratio": high})
        return pd.DataFrame(rows)


@register
class SpectrumProbe(Probe[ProbeOptions]):
    """What a VAE does to fine detail, and whether its decoder leaves a grid."""

    name = "spectrum"

    def instruments(self, options: ProbeOptions, spec: Spec) -> Sequence[Instrument]:
        """The spectra of images and of latents."""
        return (Spectrum(), LatentSpectrum())

    def analyse(self, given: AnalysisInput[ProbeOptions]) -> Result:
        """Detail and grid by arm, against the reference where there is one; latents by arm."""
        tables, plan, _, spec, _ = given
        first = next(iter(spec.vaes))
        plan = with_clusters(plan)
        scores = tables["spectrum"].drop_duplicates("cell")
        frame = plan.merge(scores, on="cell") if len(scores) else plan.iloc[:0]
        latent = tables["latent-spectrum"].drop_duplicates("cell")
        findings: list[Finding] = []
        figures: list[Figure] = []
        if len(frame):
            findings += describe(frame, LEVELS, self.name, "spectrum")
            swapped = frame[frame["vae"] != first]
            swapped = swapped.assign(grid=swapped["grid_peak"] - swapped["grid_peak_reference"])
            if len(swapped):
                findings += describe(swapped, SHIFTS, self.name, "spectrum")
                figures.append(_error_lines(swapped))
        if len(latent) and latent["slope"].notna().any():
            held = plan.merge(latent, on="cell").dropna(subset=["slope"])
            findings += describe(held, LATENT, self.name, "latent-spectrum")
        return Result(findings, figures)


def _error_lines(frame: pd.DataFrame) -> Figure:
    """Mean log-spectral error by frequency, one line an arm, with t intervals over images."""
    rows = []
    for arm, part in frame.groupby("arm", sort=False):
        errors = np.stack([np.asarray(e, float) for e in part["log_spectral_error"]])
        n = np.isfinite(errors).sum(axis=0)
        for k, frequency in enumerate(bin_centres()):
            if n[k] < 2:
                continue
            own = errors[np.isfinite(errors[:, k]), k]
            half = scipy.stats.t.ppf(0.975, n[k] - 1) * own.std(ddof=1) / np.sqrt(n[k])
            rows.append((frequency, own.mean(), own.mean() - half, own.mean() + half, arm))
    return Figure(
        "spectrum/error",
        "line",
        pd.DataFrame(rows, columns=["x", "value", "low", "high", "group"]),
        "Spectral error in dB by frequency in cycles per pixel, against the reference image: "
        "below 0 detail is lost, above 0 something is added. 95 % intervals over images.",
        "Lines of the spectral error by frequency, one for each VAE.",
    )
