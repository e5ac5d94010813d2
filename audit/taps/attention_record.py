"""From the attention tap's sums to what a run keeps: numbers by word, and some maps.

A word's map is the sum over its tokens. '<start>' is the start token, '<end>' the end token and
the padding behind it: where SD puts most of its attention, so they are counted and not dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from audit.spec import Spec
from audit.taps.attention import Attention, AttentionTap, combined, moments_to_numbers
from audit.taps.store import Arrays, Record
from audit.text.words import Reading, encoded_text, read_words

START, END = "<start>", "<end>"
TOP = 0.25
"""Overlap is counted on the quarter of the pixels that a word's map holds highest."""
CHANCE_OVERLAP = TOP / (2 - TOP)
"""IoU of two independent random quarters of many pixels: 1/7."""


class AttentionRecorder:
    """The tap `attention` of a run: attaches `AttentionTap` and keeps words instead of tokens."""

    name = "attention"

    def __init__(self, spec: Spec) -> None:
        self.settings = spec.attention
        self.first_seed = spec.seeds.start
        self._done: list[Record] = []

    def identity(self) -> dict[str, Any]:
        """Version and settings."""
        return {"version": "1", "top": TOP, **self.settings.model_dump()}

    @contextmanager
    def watch(self, pipe: Any, rows: pd.DataFrame, count: int) -> Iterator[None]:
        """Follow a batch, and word it when it is done."""
        settings = self.settings
        tap = AttentionTap(pipe.unet, len(rows), settings.negative, settings.layers)
        with tap.attached():
            yield
        self._done = [self._record(pipe, tap, rows, i) for i in range(count)]

    def records(self) -> list[Record]:
        """Of the batch just watched; arrays and notes as `_half` says, by half."""
        return self._done

    def _record(self, pipe: Any, tap: AttentionTap, rows: pd.DataFrame, image: int) -> Record:
        row = rows.iloc[image]
        keep = int(row["seed"]) < self.first_seed + self.settings.maps
        arrays: Arrays = {}
        notes: dict[str, Any] = {
            "layers": len(tap.layers),
            "missing": tap.missing,
            "timesteps": [float(torch.as_tensor(t).flatten()[0]) for t in tap.timesteps],
        }
        halves = [("prompt", tap.prompt, str(row["text"]))]
        if tap.negative is not None and tap.negative.maps:
            halves.append(("negative", tap.negative, str(row["negative_text"])))
        for name, half, text in halves:
            if half.maps:
                reading = read_words(pipe.tokenizer, encoded_text(pipe, text))
                found = half_arrays(half, image, words_of(reading), len(tap.layers), keep)
                arrays |= {f"{name}/{key}": value for key, value in found.items()}
                notes[name] = {"words": [w for w, _ in words_of(reading)], "cut": reading.cut}
        return Record(arrays, notes)


def words_of(reading: Reading) -> list[tuple[str, tuple[int, ...]]]:
    """The words that have tokens, then start and end, each with its tokens' positions."""
    words = [(w.label, w.tokens) for w in reading.words if w.tokens]
    return [*words, (START, (0,)), (END, tuple(range(reading.used - 1, reading.length)))]


def half_arrays(
    half: Attention,
    image: int,
    words: Sequence[tuple[str, tuple[int, ...]]],
    layers: int,
    keep_maps: bool,
) -> Arrays:
    """Numbers by word of one image and one half of the batch.

    Returns:
        moments: (forwards, words, 4), as `Attention.moments`, mean over layers; the first is the
        share of attention and sums to 1 over all words and the tokens between them.
        text_entropy: (forwards,), nats, mean over layers.
        map_entropy: (words,): entropy over pixels of the word's map as a part of the largest
        possible, 0 (one pixel) to 1 (everywhere alike).
        overlap: (words, words): IoU of the maps' highest quarters.
        maps: (words, rows, columns), float16, where kept.
        layer_mass, where asked for: (layers, words), mean over forwards.
    """
    forwards = len(half.moments)
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
    if half.by_layer:
        mass = torch.stack([m[image] for m in half.by_layer.values()]) / forwards
        arrays["layer_mass"] = np.ascontiguousarray(_pool(mass, words).T.cpu().numpy())
    return arrays


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


def numbers(moments: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Share of attention, centre (y, x) and spread from moments (…, 4); see the tap."""
    mass, centre, spread = moments_to_numbers([torch.from_numpy(np.asarray(moments))])
    return mass.numpy(), centre.numpy(), spread.numpy()
