"""Whether the activations of a VAE fit the range of fp16 and bf16, from one forward in fp32.

Running the VAE in fp16 would tell the same, but a CPU without fp16 arithmetic takes 100 to 190
times as long for it. A value overflows where it is beyond the largest that the precision holds;
convolutions and normalisations add up in fp32 inside, so that only results count.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
import torch

from harness.json_types import JsonObject
from harness.models.vae_identity import codec

if TYPE_CHECKING:
    from diffusers import ModelMixin

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = tuple(str(dtype).removeprefix("torch.") for dtype in DTYPES)
Ranges = dict[str, list[tuple[float, dict[torch.dtype, float]]]]
"""By layer: of every call, the largest absolute value and the share that overflows, by dtype."""


def precision(vae: ModelMixin, images: torch.Tensor) -> tuple[pd.DataFrame, dict[str, str]]:
    """How large activations get in fp32, and whether they overflow, by dtype.

    Args:
        vae: VAE of diffusers, on the device that is to be used; it is not changed. Weights that
            are in fp16 already show nothing of what they were.
        images: (n, 3, height, width) in [-1, 1].

    Returns:
        A table with layer, dtype, largest (absolute, among finite values; NaN where none is)
        and nonfinite (share of values that would overflow), layers in the order of running; and
        by dtype 'fits' or 'overflows at LAYER', the first layer with such a value.
    """
    wide = vae if vae.dtype == torch.float32 else copy.deepcopy(vae).float()
    seen: Ranges = {}
    hooks = [m.register_forward_hook(_recorder(n, seen)) for n, m in wide.named_modules() if n]
    try:
        runner = codec(wide)
        runner.decode(runner.encode(images))
    finally:
        for hook in hooks:
            hook.remove()
    rows: list[JsonObject] = []
    for dtype, name in zip(DTYPES, NAMES, strict=True):
        for layer, calls in seen.items():
            largest = [value for value, _ in calls if not math.isnan(value)]
            rows.append(
                {
                    "layer": layer,
                    "dtype": name,
                    "largest": max(largest, default=math.nan),
                    "nonfinite": sum(share[dtype] for _, share in calls) / len(calls),
                }
            )
    table = pd.DataFrame(rows, columns=["layer", "dtype", "largest", "nonfinite"])
    verdicts = {}
    for dtype, part in table.groupby("dtype", sort=False):
        bad = part.loc[part["nonfinite"] > 0, "layer"]
        verdicts[str(dtype)] = f"overflows at {bad.iloc[0]}" if len(bad) else "fits"
    return table, verdicts


def _recorder(name: str, seen: Ranges) -> Callable[..., None]:
    """A forward hook that notes the range of a layer's output and of its own weights."""

    def record(
        module: torch.nn.Module, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]
    ) -> None:
        value = output[0] if isinstance(output, tuple) else output
        finite = value[torch.isfinite(value)]
        largest = float(finite.abs().max()) if finite.numel() else math.nan
        weights = [p.detach() for p in module.parameters(recurse=False)]
        share = {dtype: max(_beyond(x, dtype) for x in (value, *weights)) for dtype in DTYPES}
        seen.setdefault(name, []).append((largest, share))

    return record


def _beyond(values: torch.Tensor, dtype: torch.dtype) -> float:
    """Share of values that a precision cannot hold: what rounds to infinity, or is none."""
    lost = ~torch.isfinite(values.to(dtype))
    return int(lost.sum()) / max(lost.numel(), 1)
