"""What the probe `vae` measures: what a VAE changes in images, and in the colour of skin."""

from __future__ import annotations

from probes.contracts import MetricSpec

ONE_LEVEL = 1 / 255
SQUARED_ERROR = MetricSpec(
    "squared error", "level", "of full range", "lower", "mse", 1.0, ONE_LEVEL**2
)
PSNR = MetricSpec("PSNR", "level", "dB", "higher", "psnr")
SSIM = MetricSpec("SSIM", "level", "of 1", "higher", "ssim", 2.0, 0.005)
MS_SSIM = MetricSpec("MS-SSIM", "level", "of 1", "higher", "ms_ssim", 1.0, 0.005)
DELTA_E = MetricSpec("colour difference (CIEDE2000)", "level", "ΔE", "lower", "delta_e", 100.0, 0.4)
DETAIL_LOSS = MetricSpec(
    "loss of detail", "shift", "of edge energy", "lower", "detail_loss", resolution=0.01
)
LIGHTNESS_SHIFT = MetricSpec("lightness shift", "shift", "L*", None, "lightness_shift", 200.0, 0.4)
CHROMA_SHIFT = MetricSpec("chroma shift", "shift", "C*", None, "chroma_shift", 400.0, 0.4)
LPIPS = MetricSpec("LPIPS", "level", "of 1", "lower", "lpips", resolution=0.005)
FIDELITY = (
    *(SQUARED_ERROR, SSIM, MS_SSIM, DELTA_E, DETAIL_LOSS, LIGHTNESS_SHIFT, CHROMA_SHIFT, LPIPS),
)
SKIN_LIGHTNESS = MetricSpec(
    "skin lightness shift", "shift", "L*", None, "skin lightness", 200.0, 0.4
)
SKIN_ITA = MetricSpec("skin typology angle shift", "shift", "degrees", None, "skin ita", 360.0, 0.6)
SKIN = (SKIN_LIGHTNESS, SKIN_ITA)
DECODE_SWAP = MetricSpec("decode swap")


def extra(metric: MetricSpec) -> MetricSpec:
    """The metric of what one group's images shift more than all others'.

    Args:
        metric: metric of the shift, or of a difference of two VAEs.
    """
    return metric.difference(f"extra {metric.name}")


def derived(metric: MetricSpec) -> tuple[MetricSpec, ...]:
    """A metric, its difference between two VAEs, and both by group."""
    apart = metric.difference()
    return metric, apart, extra(metric), extra(apart)
