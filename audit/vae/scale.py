"""Whether the numbers of a VAE fit: the scale of its latents and the range of its activations.

The scaling factor brings latents to a standard deviation of 1. It is no part of the weights,
so it is easily wrong, and a wrong one gives washed-out or burnt images without an error. What
images say of it depends on the images: the reference VAE's latents of photographs spread
1.29 times as wide as those of the pictures that it learned, and SD1 and SDXL are only 1.40
apart. So the check asks how far single images disagree, takes that for the standard deviation of
what a set of images is off by (normal, of the logarithm), and says 'cannot tell' where neither of
two factors is `EVIDENCE` likelier than the other.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray

from audit.vae.files import ASSUMED, KNOWN, Known
from audit.vae.vaes import Codec, codec

EVIDENCE = math.log(8)
"""Logarithm of the likelihood ratio from which one factor is clearly better than another (Royall
1997). On 60 draws of 16 crops of photographs, 960 files: 85 % of the wrong ones are flagged at 8
and .4 % of the right ones; at 20 80 % and none, at 3 89 % and 5 %."""
FARTHEST = 3.0
"""Spreads beyond which a factor does not fit at all."""
FEWEST = 12
"""Images below which nothing is said."""
NARROWEST = 0.05
"""Spread (of the logarithm) below which the images are too alike to say anything."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
    spread: float
    """How far images disagree, of the logarithm of the factor."""
    mean: NDArray[np.float64]
    """By channel, unscaled."""
    std: NDArray[np.float64]
    """By channel, unscaled."""
    images: int


def check_scale(
    vae: Codec, images: Sequence[NDArray[np.uint8]], configured: float, known: Sequence[Known]
) -> ScaleCheck:
    """Hold a scaling factor against the latents of images.

    A factor's misfit is |log(fitted / factor)|. The spread is the standard deviation over
    images of the logarithm of each image's own deviation, together with the logarithm of the
    share of the deviation that lies between channels: both move with the choice of images.

    Args:
        vae: Encodes to unscaled latents.
        images: Each (height, width, 3), sRGB, sides multiples of the VAE's step; many
            different ones, as the VAE is meant for.
        configured: The factor to be checked.
        known: The factors that it may have been confused with.
    """
    batches = [list(part) for _, part in itertools.groupby(images, key=lambda i: i.shape)]
    parts = [
        vae.encode(_tensor(batch[start : start + 8])).double().cpu()
        for batch in batches
        for start in range(0, len(batch), 8)
    ]
    # Per image: the sum over channels is taken last, images may differ in size.
    flat = [latents.flatten(1) for part in parts for latents in part]
    if not flat:
        nothing = np.full(0, np.nan)
        return ScaleCheck(
            "cannot tell", "no images", configured, math.nan, (), math.nan, nothing, nothing, 0
        )
    every = torch.cat(flat, dim=1)
    mean, std = every.mean(1), every.std(1)
    overall = float(every.std())
    own = torch.stack([(z - every.mean()).square().mean().sqrt() for z in flat])
    within = float((every - mean[:, None]).square().mean().sqrt())
    if not math.isfinite(overall) or min(overall, within, float(own.min())) <= 0 or len(flat) < 2:
        fitted, images_differ, spread = math.nan, math.nan, math.nan
    else:
        fitted, images_differ = 1 / overall, float(own.log().std())
        spread = math.hypot(images_differ, math.log(overall / within))
    verdict, why, fits = "cannot tell", "", tuple[Known, ...]()
    if math.isnan(fitted):
        why = "latents are constant or not finite"
    elif len(flat) < FEWEST:
        why = f"{len(flat)} images; give at least {FEWEST}"
    elif images_differ < NARROWEST:
        why = "the images are too alike; give different ones"
    else:
        verdict, why, fits = _judge(configured, fitted, spread, known)
    return ScaleCheck(
        verdict, why, configured, fitted, fits, spread, mean.numpy(), std.numpy(), len(flat)
    )


def check_vae_scale(
    vae: Any, images: Sequence[NDArray[np.uint8]], more: Sequence[Known] = ()
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


def check_shift(vae: Any) -> str:
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


def settle(vae: Any, images: Sequence[NDArray[np.uint8]]) -> tuple[Any, str]:
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


def precision(vae: Any, images: torch.Tensor) -> tuple[pd.DataFrame, dict[str, str]]:
    """How large activations get, and whether they overflow, by dtype.

    Every dtype encodes the images and decodes their fp32 latents, so that an encoder which
    overflows does not hide the decoder.

    Args:
        vae: Of diffusers. It is copied, not changed; weights that are in fp16 already show
            nothing of what they were.
        images: (n, 3, height, width) in [-1, 1].

    Returns:
        A table with layer, dtype, largest (absolute, among finite values; NaN where none is)
        and nonfinite (share), layers in the order of running; and by dtype 'fits' or
        'overflows at LAYER', the first with a value that is not finite.
    """
    rows: list[dict[str, Any]] = []
    latents: torch.Tensor | None = None
    for dtype in DTYPES:
        # nn.Module's own, since that of diffusers warns of layers that it would keep in fp32.
        model = torch.nn.Module.to(copy.deepcopy(vae), dtype).eval()
        seen: dict[str, list[tuple[float, float]]] = {}
        hooks = [m.register_forward_hook(_recorder(n, seen)) for n, m in model.named_modules() if n]
        runner = codec(model)
        coded = runner.encode(images)
        latents = coded if latents is None else latents
        runner.decode(latents)
        for hook in hooks:
            hook.remove()
        for layer, values in seen.items():
            largest = [v for v, _ in values if not math.isnan(v)]
            rows.append(
                {
                    "layer": layer,
                    "dtype": str(dtype).removeprefix("torch."),
                    "largest": max(largest, default=math.nan),
                    "nonfinite": sum(share for _, share in values) / len(values),
                }
            )
    table = pd.DataFrame(rows, columns=["layer", "dtype", "largest", "nonfinite"])
    verdicts = {}
    for dtype, part in table.groupby("dtype", sort=False):
        bad = part.loc[part["nonfinite"] > 0, "layer"]
        verdicts[str(dtype)] = f"overflows at {bad.iloc[0]}" if len(bad) else "fits"
    return table, verdicts


def _judge(
    configured: float, fitted: float, spread: float, known: Sequence[Known]
) -> tuple[str, str, tuple[Known, ...]]:
    """Verdict, reason and the known factors that fit clearly better."""
    rivals = [k for k in known if abs(math.log(k.factor / configured)) > 0.01]

    def misfit(factor: float) -> float:
        return abs(math.log(fitted / factor)) / spread

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


def _recorder(name: str, seen: dict[str, list[tuple[float, float]]]) -> Callable[..., None]:
    """A forward hook that notes the largest finite value and the share that is not finite."""

    def record(_module: Any, _inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        finite = torch.isfinite(value)
        kept = value[finite]
        largest = float(kept.abs().max()) if kept.numel() else math.nan
        seen.setdefault(name, []).append((largest, 1 - float(finite.double().mean())))

    return record


def _tensor(images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """To (n, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
