"""Whether the scaling factor of a VAE fits its latents of images.

The scaling factor brings latents to a standard deviation of 1. It is no part of the weights,
so it is easily wrong, and a wrong one gives washed-out or burnt images without an error. SD1's
and SDXL's are only 1.40 apart, so the check states how far the fitted factor may be off: by
sampling, which falls with the number of images, and by a systematic part, which does not (the
images are not those of the training, the VAE is not exactly the published one). Where neither of
two factors is `EVIDENCE` likelier than the other, and where the VAE does not reconstruct the
images at all, it says 'cannot tell'. Measured in docs/simulations/scale.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch.nn import functional

from harness.models.latent_spaces import KNOWN, Known
from harness.models.vae_files import ASSUMED
from harness.models.vae_identity import Codec, codec

if TYPE_CHECKING:
    from diffusers import ModelMixin

EVIDENCE = math.log(8)
"""Logarithm of the likelihood ratio from which one factor is clearly better than another (Royall
1997)."""
FARTHEST = 5.0
"""Errors of the fitted factor beyond which a known one does not fit at all."""
FEWEST = 12
"""Different images below which nothing is said."""
SYSTEMATIC = 0.08
"""Error (standard deviation of the logarithm) of the fitted factor that remains however many
photographs there are: over VAEs and sets of photographs."""
CAST = 1.5
"""Errors per unit of cast: what all images share in colour widens the latents as a whole."""
CONTRAST = 0.5
"""Standard deviation of colour photographs in [-1, 1], shrunk to the size of the latents. Flatter
images have narrower latents, at most in proportion."""
MOST_ALIKE = 0.9
"""Share of the variance of thumbnails that all images have in common, from which they are too
alike to say anything."""
WORST, SPARE = 2.0, 0.05
"""A VAE does not know images whose round trip has more than `WORST` times the squared error of
one colour a latent and `SPARE` of the pixels' variance together. Of photographs the reference
VAE has 3.1 to 5.2 times as much, real ones 0.1 to 1.3."""
RECONSTRUCTED = 8
"""Images of which the round trip is taken."""
PER_FORWARD = 8


class ScaleCheck(NamedTuple):
    """What images say of a scaling factor."""

    verdict: str
    """'right', 'wrong: FACTOR fits clearly better' or 'cannot tell'."""
    why: str
    """One line behind the verdict."""
    configured: float
    fitted: float
    """1 / standard deviation of all latents: what brings it to 1."""
    fits: tuple[Known, ...]
    """Known factors that fit clearly better than the configured one, best first: several where
    they are not told apart."""
    error: float
    """Standard deviation of the logarithm of `fitted`, as an estimate of the true factor."""
    sampling: float
    """Its part that falls with the number of images."""
    mean: NDArray[np.float64]
    """By channel, unscaled."""
    std: NDArray[np.float64]
    """By channel, unscaled."""
    images: int


def check_scale(
    vae: Codec, images: Sequence[NDArray[np.uint8]], configured: float, known: Sequence[Known]
) -> ScaleCheck:
    """Compare a scaling factor with what the latents of images say.

    The logarithm of the fitted factor is taken for normal around that of the true one. Its
    variance is the sum of four: of sampling (delta method on the images' mean squares), and of
    three systematic parts: `SYSTEMATIC`, `CAST` and the flatness of the images (`CONTRAST`).

    Args:
        vae: Encodes to unscaled latents, and decodes them.
        images: Each (height, width, 3), sRGB, sides multiples of the VAE's step; different ones,
            such as the VAE is meant for. Identical ones count once.
        configured: Scaling factor to be checked.
        known: Factors that it may have been confused with.
    """
    images = list({(i.shape, i.tobytes()): i for i in images}.values())
    encoded = _encoded(vae, images)
    latents = [z.flatten(1) for z in encoded]
    if not latents:
        nothing, nan = np.full(0, np.nan), math.nan
        return ScaleCheck(
            "cannot tell", "no images", configured, nan, (), nan, nan, nothing, nothing, 0
        )
    every = torch.cat(latents, dim=1)
    mean, std = every.mean(1), every.std(1)
    overall = float(every.std())
    within = float((every - mean[:, None]).square().mean().sqrt())
    fitted = error = sampling = math.nan
    verdict, why, fits = "cannot tell", "latents are constant or not finite", tuple[Known, ...]()
    if math.isfinite(overall) and min(overall, within) > 0:
        fitted = 1 / overall
        sampling = _sampling_error(latents, every.mean())
        error = math.hypot(
            SYSTEMATIC,
            sampling,
            CAST * math.log(overall / within),
            _flatness(vae, images),
        )
        why = _unfit(vae, images, encoded)
        if not why:
            verdict, why, fits = _judge(configured, fitted, error, known)
    return ScaleCheck(
        verdict,
        why,
        configured,
        fitted,
        fits,
        error,
        sampling,
        mean.numpy(),
        std.numpy(),
        len(images),
    )


def check_vae_scale(
    vae: ModelMixin, images: Sequence[NDArray[np.uint8]], more: Sequence[Known] = ()
) -> ScaleCheck:
    """As `check_scale`, for a VAE of diffusers with its own configuration.

    The known factors are those of its number of latent channels, or all where none has that
    many; a tiny autoencoder's latents are scaled already (factor 1).

    Args:
        vae: Of diffusers.
        images: As `check_scale`.
        more: Further factors that it may have been confused with.
    """
    channels, factor = vae.config.latent_channels, vae.config.scaling_factor
    known = list(KNOWN.values())
    if isinstance(vae, AutoencoderTiny):
        known = [Known("a tiny autoencoder", channels, 1.0)]
    known = [k for k in known if k.channels == channels] or known
    found = check_scale(codec(vae), images, factor, [*known, *more])
    if vae.config.get("latents_mean") is not None and vae.config.get("latents_std") is not None:
        return found._replace(
            verdict="cannot tell", why="every channel is scaled by itself", fits=()
        )
    return found


def check_shift(vae: ModelMixin) -> str:
    """Whether the shift belongs to the scaling factor, by the published pairs.

    Images cannot tell: the published shifts are below 0.1 standard deviations of the latents,
    and the mean moves more than that between sets of images.

    Returns:
        'right', 'wrong: SHIFT belongs to FACTOR' or 'cannot tell' (a factor of no known space).
    """
    config = vae.config
    for known in KNOWN.values():
        if math.isclose(config.scaling_factor, known.factor, rel_tol=1e-3):
            same = math.isclose(config.get("shift_factor") or 0.0, known.shift, abs_tol=1e-3)
            return "right" if same else f"wrong: {known.shift:g} belongs to {known.factor:g}"
    return "cannot tell"


def settle(vae: ModelMixin, images: Sequence[NDArray[np.uint8]]) -> tuple[ModelMixin, str]:
    """Give a VAE whose factor was only assumed the one that images speak for.

    The VAE itself stays as it is, since its digest names its configuration.

    Returns:
        The VAE, or one with the same weights and the other factor; and what was done, one line,
        empty where the factor was told.
    """
    if not vae.config.get(ASSUMED, False):
        return vae, ""
    found = check_vae_scale(vae, images)
    factor = f"scaling factor {vae.config.scaling_factor:g}"
    if found.verdict == "right":
        return vae, f"{factor}: the file holds none, the images agree"
    if len(found.fits) != 1:
        return vae, f"{factor} is assumed: the file holds none, the images cannot tell"
    best = found.fits[0]
    other = copy.copy(vae)
    other.register_to_config(scaling_factor=best.factor, shift_factor=best.shift or None)
    factor = f"scaling factor {best.factor:g} ({best.name})"
    return other, f"{factor}: the file holds none, the images fit it"


def _judge(
    configured: float, fitted: float, error: float, known: Sequence[Known]
) -> tuple[str, str, tuple[Known, ...]]:
    """Verdict, reason and the known factors that fit clearly better."""
    rivals = [k for k in known if abs(math.log(k.factor / configured)) > 0.01]

    def misfit(factor: float) -> float:
        return abs(math.log(fitted / factor)) / error

    def against(one: float, other: float) -> float:
        """Logarithm of the likelihood ratio of two factors."""
        return (misfit(other) ** 2 - misfit(one) ** 2) / 2

    near = sorted(
        (k for k in rivals if misfit(k.factor) <= FARTHEST), key=lambda k: misfit(k.factor)
    )
    better = [k for k in near if against(k.factor, configured) >= EVIDENCE]
    fit = f"{fitted:.4g} would bring the latents' deviation to 1"
    if better:
        # What is not told apart from the best may be the true one too.
        fits = tuple(k for k in better if against(better[0].factor, k.factor) < EVIDENCE)
        names = " or ".join(f"{rival.factor:g}" for rival in fits)
        verb = "fits" if len(fits) == 1 else "fit"
        return f"wrong: {names} {verb} clearly better", fit, fits
    if misfit(configured) > FARTHEST:
        return "cannot tell", f"{fit}; no known factor is near", ()
    level = [k for k in rivals if against(configured, k.factor) < EVIDENCE]
    if level:
        names = ", ".join(f"{rival.factor:g}" for rival in level)
        return "cannot tell", f"{fit}; {names} may fit as well", ()
    return "right", fit, ()


def _encoded(vae: Codec, images: Sequence[NDArray[np.uint8]]) -> list[torch.Tensor]:
    """Latents (channels, rows, columns) of each image, in order."""
    found: dict[int, torch.Tensor] = {}
    for part in _forwards(images, range(len(images))):
        encoded = vae.encode(_tensor([images[n] for n in part])).cpu().double()
        found |= dict(zip(part, encoded, strict=True))
    return [found[number] for number in range(len(images))]


def _forwards(images: Sequence[NDArray[np.uint8]], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of images in parts of one size, at most `PER_FORWARD`."""
    for shape in dict.fromkeys(images[n].shape for n in numbers):
        same = [n for n in numbers if images[n].shape == shape]
        for start in range(0, len(same), PER_FORWARD):
            yield same[start : start + PER_FORWARD]


def _sampling_error(latents: Sequence[torch.Tensor], mean: torch.Tensor) -> float:
    """Standard error of the logarithm of the deviation of all latents, images as clusters."""
    n = len(latents)
    if n < 2:
        return math.nan
    weights = torch.tensor([float(z.numel()) for z in latents], dtype=torch.float64)
    squares = torch.stack([(z - mean).square().mean() for z in latents])
    pooled = (weights * squares).sum() / weights.sum()
    apart = (weights * (squares - pooled)).square().sum().sqrt() * math.sqrt(n / (n - 1))
    return float(apart / weights.sum() / (2 * pooled))


def _flatness(vae: Codec, images: Sequence[NDArray[np.uint8]]) -> float:
    """How far the contrast of the images is below that of photographs, of its logarithm."""
    shrunk = torch.cat([functional.avg_pool2d(_tensor([i]), vae.step).flatten() for i in images])
    return max(0.0, math.log(CONTRAST / max(float(shrunk.std()), 1e-6)))


def _unfit(vae: Codec, images: Sequence[NDArray[np.uint8]], encoded: Sequence[torch.Tensor]) -> str:
    """Why these images cannot say anything of this VAE; empty where they can."""
    if len(images) < FEWEST:
        return f"{len(images)} different images; give at least {FEWEST}"
    small = torch.cat([functional.adaptive_avg_pool2d(_tensor([i]), 8) for i in images])
    if float(small.mean(0).var() / small.var().clamp_min(1e-12)) > MOST_ALIKE:
        return "the images are too alike; give different ones"
    # Per image: of the round trip, of one colour a latent, and the variance of the pixels.
    squares = []
    chosen = np.linspace(0, len(images) - 1, min(RECONSTRUCTED, len(images))).round().astype(int)
    for part in _forwards(images, chosen.tolist()):
        pixels = _tensor([images[n] for n in part])
        again = vae.decode(torch.stack([encoded[n] for n in part]).float()).float().cpu()
        colours = functional.avg_pool2d(pixels, vae.step)
        blocks = functional.interpolate(colours, size=pixels.shape[-2:])
        own = pixels.mean((1, 2, 3), keepdim=True)
        apart = [(x - pixels).square().mean((1, 2, 3)) for x in (again.clamp(-1, 1), blocks, own)]
        squares.append(torch.stack(apart))
    error, one_colour, variance = torch.cat(squares, dim=1).double().mean(1).tolist()
    if error > WORST * (one_colour + SPARE * variance):
        decibel = [-10 * math.log10(max(x / 4, 1e-12)) for x in (error, one_colour)]
        return (
            f"the VAE does not reconstruct these images ({decibel[0]:.1f} dB; shrunk to one colour "
            f"a latent they have {decibel[1]:.1f}): give images such as it was trained on"
        )
    return ""


def _tensor(images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """To (n, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
