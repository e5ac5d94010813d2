"""From the attention tap's sums to what a run keeps: numbers by word, and some maps.

A word's map is the sum over its tokens. '<start>' is the start token, '<end>' the end token and
the padding behind it: where SD puts most of its attention, so they are counted and not dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.json_types import JsonObject
from harness.models.families import family
from harness.models.families.base import Family
from harness.models.token_alignment import Reading, encoded_text, read_prompt
from harness.taps.attention_words import END, START, TOP
from harness.taps.cross_attention import (
    Attention,
    AttentionTap,
    combined,
    level_of,
    moments_to_numbers,
)
from harness.taps.joint_attention import JointAttentionTap, Words
from harness.taps.record import Arrays, Record

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class AttentionRecorder:
    """The tap `attention` of a run: attaches `AttentionTap` and keeps words instead of tokens.

    Args:
        maps: Number of first seeds of every prompt whose maps are kept.
        negative: Whether the negative prompt's half is followed too.
        layers: Whether each layer's share of attention is kept.
        stages: Equal parts of the noise levels whose maps are kept; 0: none.
        first_seed: The run's first seed index.
    """

    name = "attention"

    def __init__(
        self, maps: int, negative: bool, layers: bool, stages: int, first_seed: int = 0
    ) -> None:
        self.maps, self.negative, self.layers, self.stages = maps, negative, layers, stages
        self.first_seed = first_seed
        self._done: list[Record] = []

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        kept = {"maps": self.maps, "negative": self.negative, "layers": self.layers}
        return {"version": "2", "top": TOP, **kept, "stages": self.stages}

    @contextmanager
    def watch(self, pipe: DiffusionPipeline, rows: pd.DataFrame, count: int) -> Iterator[None]:
        """Follow a batch, and word it when it is done."""
        named = family(pipe)
        if not named.inside:
            yield
            missing = {named.name: "what is inside is not known here"}
            self._done = [Record({}, {"layers": 0, "missing": missing, "timesteps": []})] * count
            return
        in_chunks, breaks = (bool(rows[k].iloc[0]) for k in ("in_chunks", "breaks"))
        read = partial(words_in, named, in_chunks=in_chunks, breaks=breaks)
        texts = {"prompt": [read(str(t)) for t in rows["text"]]}
        if self.negative:
            texts["negative"] = [read(str(t)) for t in rows["negative_text"]]
        held = {half: [words for words, _ in each] for half, each in texts.items()}
        size = (int(rows["height"].iloc[0]), int(rows["width"].iloc[0]))
        tap = named.attention_tap(held, size, self.layers, self.stages)
        with tap.attached():
            yield
        self._done = [self._record(tap, rows, texts, i) for i in range(count)]

    def records(self) -> list[Record]:
        """Of the batch just watched; arrays and notes as `_half` says, by half."""
        return self._done

    def _record(
        self,
        tap: AttentionTap | JointAttentionTap,
        rows: pd.DataFrame,
        texts: dict[str, list[tuple[Words, str]]],
        image: int,
    ) -> Record:
        keep = int(rows["seed"].iloc[image]) < self.first_seed + self.maps
        arrays: Arrays = {}
        notes: JsonObject = {
            "layers": len(tap.layers),
            "missing": tap.missing,
            "timesteps": [level_of(t) for t in tap.timesteps],
        }
        for name, half in (("prompt", tap.prompt), ("negative", tap.negative)):
            if half is not None and half.maps:
                words, cut = texts[name][image]
                if isinstance(tap, JointAttentionTap):
                    words = [(word, (n,)) for n, (word, _) in enumerate(words)]
                found = half_arrays(half, image, words, len(tap.layers), keep)
                arrays |= {f"{name}/{key}": value for key, value in found.items()}
                notes[name] = {"words": [w for w, _ in words], "cut": cut}
        return Record(arrays, notes)


def words_in(
    named: Family, text: str, in_chunks: bool = False, breaks: bool = False
) -> tuple[Words, str]:
    """Words of a text with their positions for all encoders, start and end behind them; the cut.

    Where two encoders read it one behind the other, a word is both's tokens, and cut is what
    neither sees.

    Args:
        named: Who reads it.
        text: As it is tokenised.
        in_chunks: Whether it is read in chunks where it is long.
        breaks: Whether BREAK ends a chunk.
    """
    held: dict[str, tuple[int, ...]] = {}
    cut = ""
    for reader in named.readers():
        shown = encoded_text(named.pipe, text)
        reading = read_prompt(reader.tokenizer, shown, reader.length, in_chunks, breaks)
        for word, tokens in words_of(reading):
            held[word] = held.get(word, ()) + tuple(reader.first + t for t in tokens)
        cut = reading.cut
    last = [word for word in (START, END) if word in held]
    return [(word, held[word]) for word in [*(w for w in held if w not in last), *last]], cut


def words_of(reading: Reading) -> list[tuple[str, tuple[int, ...]]]:
    """The words that have tokens, then start and end, each with its tokens' positions."""
    words = [(w.label, w.tokens) for w in reading.words if w.tokens]
    start = [(START, reading.start_at)] if reading.start_at else []
    return [*words, *start, (END, tuple(sorted(reading.end_at + reading.padding_at)))]


def half_arrays(
    half: Attention,
    image: int,
    words: Words,
    layers: int,
    keep_maps: bool,
) -> Arrays:
    """Numbers by word of one image and one half of the batch.

    Returns:
        moments: (forwards, words, 4), as `Attention.moments`, mean over layers; the first is the
        share of attention; in cross-attention it sums to 1 over all words and the tokens
        between them, in joint attention the rest goes to the image.
        text_entropy: (forwards,), nats, mean over layers.
        map_entropy: (words,): entropy over pixels of the word's map as a part of the largest
        possible, 0 (one pixel) to 1 (everywhere alike).
        overlap: (words, words): IoU of the maps' highest quarters.
        maps: (words, rows, columns), float16, where kept.
        stage_maps, where asked for: (stages, words, rows, columns), as maps; zeros for a stage
        without a forward.
        layer_mass, where asked for: (layers, words), mean over forwards.
    """
    forwards = len(half.moments)
    words = _to_the_end(words, half.moments[0].shape[1])
    moments = torch.stack([m[image] for m in half.moments]) / layers
    maps = _pool(combined(half, image).flatten(0, 1), words).cpu()
    arrays: Arrays = {
        "moments": _pool(moments.transpose(1, 2), words).permute(1, 0, 2).cpu().numpy(),
        "text_entropy": (torch.stack([e[image] for e in half.entropy]) / layers).cpu().numpy(),
        "map_entropy": map_entropy(maps).numpy(),
        "overlap": overlap(maps.numpy()),
    }
    arrays["moments"] = np.ascontiguousarray(arrays["moments"])
    if keep_maps:
        rows, columns = max(half.maps, key=lambda s: s[0] * s[1])
        arrays["maps"] = maps.half().numpy().reshape(len(words), rows, columns)
        if half.stages:
            kept = np.zeros((len(half.stages), len(words), rows, columns), np.float16)
            for n, stage in enumerate(half.stages):
                if stage.maps:
                    own = _pool(combined(stage, image).flatten(0, 1), words).cpu().half()
                    kept[n] = own.numpy().reshape(kept[n].shape)
            arrays["stage_maps"] = kept
    if half.by_layer:
        mass = torch.stack([m[image] for m in half.by_layer.values()]) / forwards
        arrays["layer_mass"] = np.ascontiguousarray(_pool(mass, words).T.cpu().numpy())
    return arrays


def _to_the_end(words: Words, tokens: int) -> Words:
    """The empty chunks behind a text that is shorter than its batch's longest are its end."""
    last = max((t for _, held in words for t in held), default=-1)
    if words and words[-1][0] == END and last + 1 < tokens:
        words = [*words[:-1], (END, (*words[-1][1], *range(last + 1, tokens)))]
    return words


def _pool(values: Tensor, words: Sequence[tuple[str, tuple[int, ...]]]) -> Tensor:
    """Sum over each word's tokens: (…, tokens) to (words, …)."""
    return torch.stack([values[..., list(tokens)].sum(dim=-1) for _, tokens in words])


def map_entropy(maps: Tensor) -> Tensor:
    """Entropy of maps (n, pixels) over their pixels, as a part of the largest possible: (n,)."""
    shares = maps.double() / maps.double().sum(dim=1, keepdim=True)
    return torch.special.entr(shares).sum(dim=1) / math.log(max(2, maps.shape[1]))


def overlap(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of every two maps' highest quarters of pixels.

    Args:
        maps: (n, pixels). Equal values are taken in the order of the pixels.

    Returns:
        (n, n), 0 to 1; `CHANCE_OVERLAP` for unrelated maps of many pixels.
    """
    n, pixels = maps.shape
    count = max(1, round(TOP * pixels))
    high = np.zeros((n, pixels), bool)
    order = np.argsort(-maps, axis=1, kind="stable")[:, :count]
    np.put_along_axis(high, order, True, axis=1)
    both = high.astype(int) @ high.T.astype(int)
    return (both / (2 * count - both)).astype(np.float32)


def numbers(
    moments: NDArray[np.generic],
) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
    """Share of attention, centre (y, x) and spread from moments (…, 4); see the tap."""
    mass, centre, spread = moments_to_numbers([torch.from_numpy(np.asarray(moments))])
    return mass.numpy(), centre.numpy(), spread.numpy()
