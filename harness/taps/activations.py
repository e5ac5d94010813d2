"""What a denoiser's blocks hold while it draws, as means over space, and the first noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from harness.json_types import JsonObject
from harness.models.families import family
from harness.models.families.base import Family
from harness.taps.record import Record
from harness.taps.watched_steps import watched_steps

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SIDE = 16
"""The starting noise is averaged down to this many positions a side, where it has more."""
MOST_BLOCKS = 8
"""Of a transformer's blocks, which are many and alike, so many of each kind are followed."""


class ActivationsTap:
    """The tap `activations`: keeps every block's output, mean over space, at some forwards.

    Of a guided batch the prompt's half. Arrays: noise, (channels, rows, columns), as the model
    first sees it; by block ('down 1', 'middle', 'up 2', …; of a transformer 'block 3', 'single
    5', the image's tokens alone), (watched, channels), fp32. Notes: steps, the forwards from 0;
    blocks.
    """

    name = "activations"

    def __init__(self, watch: int) -> None:
        self.watch_count = watch
        self._done: list[Record] = []

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        return {"version": "1", "watch": self.watch_count, "side": SIDE}

    @contextmanager
    def watch(self, pipe: DiffusionPipeline, rows: pd.DataFrame, count: int) -> Iterator[None]:
        """Follow one denoising."""
        named = family(pipe)
        if not named.inside:
            yield
            self._done = [Record({}, {"steps": [], "blocks": []})] * count
            return
        steps = watched_steps(int(rows["steps"].iloc[0]), self.watch_count)
        size, forward = len(rows), [-1]
        height, width = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        noise: list[torch.Tensor] = []
        blocks = blocks_of(named)
        held: dict[str, list[torch.Tensor]] = {name: [] for name in blocks}

        def begin(
            module: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
        ) -> None:
            forward[0] += 1
            if forward[0] == 0:
                key = "sample" if named.denoiser == "unet" else "hidden_states"
                sample = args[0] if args else kwargs[key]
                latents = named.latents(sample[-size:][:count].detach(), height, width)
                noise.append(latents.float().cpu())

        def hook(name: str) -> Callable[..., None]:
            def keep(
                module: torch.nn.Module,
                args: object,
                output: torch.Tensor | tuple[torch.Tensor, ...],
            ) -> None:
                if forward[0] in steps:
                    # A transformer's block gives the prompt's tokens, then the image's.
                    joint = named.denoiser == "transformer"
                    out = output[joint] if isinstance(output, tuple) else output
                    space = 1 if joint else (2, 3)
                    held[name].append(out[-size:][:count].detach().float().mean(dim=space).cpu())

            return keep

        handles = [named.model.register_forward_pre_hook(begin, with_kwargs=True)]
        for name, block in blocks.items():
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


def blocks_of(named: Family) -> JsonObject:
    """A denoiser's blocks from first to last by name; some U-Nets have no middle."""
    model = named.model
    if named.denoiser == "transformer":
        kinds = {"block": model.transformer_blocks}
        if hasattr(model, "single_transformer_blocks"):
            kinds["single"] = model.single_transformer_blocks
        return {
            f"{kind} {i + 1}": blocks[i]
            for kind, blocks in kinds.items()
            for i in watched_steps(len(blocks), MOST_BLOCKS)
        }
    held = {f"down {i}": block for i, block in enumerate(model.down_blocks, 1)}
    if model.mid_block is not None:
        held["middle"] = model.mid_block
    return held | {f"up {i}": block for i, block in enumerate(model.up_blocks, 1)}
