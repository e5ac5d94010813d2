"""What looking inside costs: `python -m benchmarks.inside`.

Interleaved pairs on the reference model: the same batch with and without a tap, or with an
eager processor that keeps every map. Processor time of one thread, so that other
work on the machine does not count; a row is the median ratio with its exact 95 % interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from benchmarks.pairs import ratio
from harness.generate.sampling import Generator
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec
from harness.taps.cross_attention import AttentionTap
from harness.taps.trajectory import StepsTap
from reference.world import ROLES, neutral_prompt

BATCH, STEPS, GUIDANCE = 8, 4, 3.0


class EveryMap(AttnProcessor):
    """An eager processor that keeps a map of every token, layer and head: 7,168 tensors here.

    It is the upper bound of what maps cost. DAAM 0.2 keeps 192 tensors an image and costs 1.11
    with its own hook (docs/costs.md).
    """

    def __init__(self, kept: dict[tuple[int, int, int], torch.Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, *a: Any,
                 **k: Any) -> Any:  # fmt: skip
        """Attend, and add each head's map of each token to what is kept."""
        if encoder_hidden_states is not None:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            weights = attn.get_attention_scores(query, key)
            weights = weights[len(weights) // 2 :].transpose(1, 2)
            for head, maps in enumerate(weights):
                for token, one in enumerate(maps):
                    place = (id(attn), head, token)
                    self.kept[place] = self.kept[place] + one if place in self.kept else one
        return super().__call__(attn, hidden_states, encoder_hidden_states, *a, **k)


def rows(batch: int = BATCH, side: int = 64, steps: int = STEPS) -> pd.DataFrame:
    """One batch of neutral prompts."""
    texts = [neutral_prompt(r) for r in ROLES[:batch]]
    table = pd.DataFrame({"text": texts, "negative_text": "", "sampler": "own", "switch": -1})
    table = table.assign(noise=range(batch), steps=steps, guidance=GUIDANCE, width=side)
    return table.assign(height=side, seed=0)


def arms(
    generator: Generator, batch: int, side: int, steps: int, held: list[int] | None = None
) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """One batch without a tap, with the attention tap, and with every map kept.

    Args:
        generator: Of a pipeline with a U-Net.
        batch: Images.
        side: Of the images.
        steps: Of denoising.
        held: Is given the bytes that the tap held.
    """
    table, unet = rows(batch, side, steps), generator.pipe.unet

    def plain() -> None:
        generator.denoise(table)

    def tapped() -> None:
        tap = AttentionTap(unet, batch)
        with tap.attached():
            generator.denoise(table)
        if held is not None:
            held[:] = [tap.prompt.nbytes()]

    def every_map() -> None:
        kept: dict[tuple[int, int, int], torch.Tensor] = {}
        unet.set_attn_processor(EveryMap(kept))
        generator.denoise(table)
        unet.set_attn_processor(AttnProcessor2_0())

    return plain, tapped, every_map


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    source = CheckpointSpec(source="reference:balanced")
    pipe = load_checkpoint("balanced", source, Path(), "cpu", torch.float32).pipe
    generator, batch = Generator(pipe, BATCH), rows()
    held: list[int] = []

    plain, tapped, every_map = arms(generator, BATCH, 64, STEPS, held)

    def stepped() -> None:
        generator.denoise(batch, [StepsTap(5)])

    def peer() -> None:
        from attention_map_diffusers import AttentionCapture

        with AttentionCapture(pipe, relations="image->text", mode="exact", offload=None) as seen:
            generator.denoise(batch)
        seen.compute()

    def cost(arm: Callable[[], None]) -> str:
        return ratio(plain, arm, rounds, time.process_time)

    print(f"processor time of denoising {BATCH} images, {STEPS} guided steps, against no tap")
    print("no tap, again:", cost(plain), flush=True)
    print("attention tap:", cost(tapped), flush=True)
    print(f"  state: {held[0] / BATCH / 1e3:.1f} kB an image")
    print("steps tap:", cost(stepped), flush=True)
    print("every map of every token, layer and head:", cost(every_map), flush=True)
    if find_spec("attention_map_diffusers"):
        print("attention-map-diffusers:", cost(peer), flush=True)
    else:
        print("attention-map-diffusers: not measured (pip install attention-map-diffusers)")


if __name__ == "__main__":
    main()
