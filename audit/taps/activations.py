"""What a U-Net's blocks hold while a picture is made, as means over space, and the first noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch

from audit.spec import Spec
from audit.taps.steps import watched_steps
from audit.taps.store import Record

SIDE = 16
"""The starting noise is averaged down to this many positions a side, where it has more."""


class ActivationsTap:
    """The tap `activations`: keeps every block's output, mean over space, at some forwards.

    Of a guided batch the prompt's half. Arrays: noise, (channels, rows, columns), as the model
    first sees it; by block ('down 1', 'middle', 'up 2', …), (watched, channels), fp32. Notes:
    steps, the forwards from 0; blocks.
    """

    name = "activations"

    def __init__(self, spec: Spec) -> None:
        self.watch_count = spec.latents.watch
        self._done: list[Record] = []

    def identity(self) -> dict[str, Any]:
        """Version and settings."""
        return {"version": "1", "watch": self.watch_count, "side": SIDE}

    @contextmanager
    def watch(self, pipe: Any, rows: pd.DataFrame, count: int) -> Iterator[None]:
        """Follow one denoising."""
        steps = watched_steps(int(rows["steps"].iloc[0]), self.watch_count)
        size, forward = len(rows), [-1]
        noise: list[torch.Tensor] = []
        held: dict[str, list[torch.Tensor]] = {name: [] for name in blocks_of(pipe.unet)}

        def begin(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            forward[0] += 1
            if forward[0] == 0:
                sample = args[0] if args else kwargs["sample"]
                noise.append(sample[-size:][:count].detach().float().cpu())

        def hook(name: str) -> Any:
            def keep(module: Any, args: Any, output: Any) -> None:
                if forward[0] in steps:
                    out = output[0] if isinstance(output, tuple) else output
                    mean = out[-size:][:count].detach().float().mean(dim=(2, 3))
                    held[name].append(mean.cpu())

            return keep

        handles = [pipe.unet.register_forward_pre_hook(begin, with_kwargs=True)]
        for name, block in blocks_of(pipe.unet).items():
            handles.append(block.register_forward_hook(hook(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        small = (min(SIDE, noise[0].shape[-2]), min(SIDE, noise[0].shape[-1]))
        first = torch.nn.functional.adaptive_avg_pool2d(noise[0], small)
        notes = {"steps": [s for s in steps if s <= forward[0]], "blocks": list(held)}
        self._done = [
            Record(
                {"noise": first[i].numpy()}
                | {k: np.stack([v[i].numpy() for v in values]) for k, values in held.items()},
                notes,
            )
            for i in range(count)
        ]

    def records(self) -> list[Record]:
        """Of the batch just watched."""
        return self._done


def blocks_of(unet: Any) -> dict[str, Any]:
    """A U-Net's blocks from fine to coarse and back, by name; some have no middle."""
    named = {f"down {i}": block for i, block in enumerate(unet.down_blocks, 1)}
    if unet.mid_block is not None:
        named["middle"] = unet.mid_block
    return named | {f"up {i}": block for i, block in enumerate(unet.up_blocks, 1)}
