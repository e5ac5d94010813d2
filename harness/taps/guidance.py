"""How much the prompt changes what the denoiser predicts, at every forward: free with guidance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import torch

from harness.json_types import JsonObject
from harness.models.families import family
from harness.taps.record import Record

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput


class GuidanceTap:
    """The tap `guidance`: root mean square of prediction with prompt − prediction with negative.

    Both halves are computed by guidance anyway, so it costs no forward. Arrays: norm, (forwards,),
    in units of the model's own output (noise, or velocity). Notes: why, where there is no
    guidance and so no second half.
    """

    name = "guidance"

    def __init__(self) -> None:
        self._done: list[Record] = []

    def cache_key(self) -> JsonObject:
        """Version."""
        return {"version": "1"}

    @contextmanager
    def watch(self, pipe: DiffusionPipeline, rows: pd.DataFrame, count: int) -> Iterator[None]:
        """Follow one denoising."""
        size = len(rows)
        seen: list[torch.Tensor] = []

        def keep(
            module: torch.nn.Module,
            args: object,
            output: UNet2DConditionOutput | tuple[torch.Tensor, ...],
        ) -> None:
            out = output[0] if isinstance(output, tuple) else output.sample
            if len(out) == 2 * size:
                apart = (out[size:] - out[:size]).detach().float()[:count]
                seen.append(apart.flatten(1).square().mean(dim=1).sqrt().cpu())

        named = family(pipe)
        known = named.inside
        handle = named.model.register_forward_hook(keep) if known else None
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
        why = "" if seen else "without guidance the model is never asked without the prompt"
        why = why if known else "what is inside is not known here"
        self._done = [
            Record(
                {"norm": torch.stack([n[i] for n in seen]).numpy()} if seen else {}, {"why": why}
            )
            for i in range(count)
        ]

    def records(self) -> list[Record]:
        """Of the batch just watched."""
        return self._done
