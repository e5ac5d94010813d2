"""Instruments with labels of their own: from a score for each label to an attribute's classes.

A classifier, a tagger, a table of what somebody counted: all give an image a score for each of
their labels. An attribute says which labels mean a class; what no label claims is split evenly
over the classes, so that an image on which all of them are low reads 'cannot tell'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import AuditError
from harness.json_types import JsonObject
from harness.spec.attributes import AttributeSpec
from harness.spec.sections import Fit, InstrumentSpec
from harness.text import nearest, slug
from probes.contracts import Batch, Context
from probes.instruments.crops import squares
from probes.instruments.faces import Box, faces_of

Floats = NDArray[np.float64]
BESIDE = ("nobody", "several")


class LabelScores(NamedTuple):
    """What a model says of some images.

    Attributes:
        values: (images, labels), 0 to 1.
        somebody: (images,) False where there is nobody to be judged, such as no face.
        known: (images,) False where nothing is said of the image at all; it gets no row.
        boxes: the part of each image that was judged: left, top, right, bottom in pixels; None
            where it is the whole, or was not recorded.
    """

    values: Floats
    somebody: NDArray[np.bool_]
    known: NDArray[np.bool_]
    boxes: Sequence[Box | None]


def all_seen(values: Floats) -> LabelScores:
    """Scores of images that are all judged as a whole."""
    every = np.ones(len(values), bool)
    return LabelScores(values, every, every, [None] * len(values))


class LabelModel(Protocol):
    """What gives each image a score for each of its labels: the seam for one's own instruments.

    Attributes:
        labels: its labels.
        exclusive: whether one image has one of them (their scores sum to 1), not any number.
        whole: whether it takes images as they are; else it is given the largest face where the
            spec asks for faces, and squares of images that are not square.
    """

    labels: tuple[str, ...]
    exclusive: bool
    whole: bool

    def identity(self) -> JsonObject:
        """All that changes its scores: digest of its weights, settings, versions."""
        ...

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """Scores of the images of a batch."""
        ...


class LabelReader:
    """One model for all attributes that name it; opened when first used, an image read once.

    Args:
        name: Its name in the spec.
        options: What is common to all kinds.
        fit: How it takes images that are not square.
        open_model: Opens the model.
    """

    def __init__(
        self, name: str, options: InstrumentSpec, fit: Fit, open_model: Callable[[], LabelModel]
    ) -> None:
        self.name, self.options, self.fit, self._open = name, options, fit, open_model
        self._last: tuple[tuple[str, ...], LabelScores] | None = None

    @cached_property
    def model(self) -> LabelModel:
        """The model."""
        return self._open()

    def instrument(self, attribute: AttributeSpec) -> LabelAttribute:
        """What reads one attribute."""
        return LabelAttribute(self, attribute)

    def identity(self) -> JsonObject:
        """The model's, and how images are given to it."""
        if self.model.whole:
            return self.model.identity()
        pad = {"pad": self.options.pad_colour} if self.fit == "pad" else {}
        return self.model.identity() | {"faces": self.options.faces, "fit": self.fit} | pad

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """Scores of a batch; those of the last one are kept."""
        if self._last is None or self._last[0] != batch.cells:
            self._last = (batch.cells, self._read(batch, device))
        return self._last[1]

    def _read(self, batch: Batch, device: str) -> LabelScores:
        if self.model.whole:
            return self.model.scores(batch, device)
        images, found, boxes = faces_of(batch.images, self.options.faces)
        shown = [squares(i, self.fit, self.options.pad_colour) for i in images]
        flat = [square for own in shown for square in own]
        sizes = [len(own) for own in shown]
        # The squares of an image are images of their own to the model.
        cells = [c for c, n in zip(batch.cells, sizes, strict=True) for _ in range(n)]
        prompts = [p for p, n in zip(batch.prompts, sizes, strict=True) for _ in range(n)]
        read = self.model.scores(Batch(tuple(cells), tuple(prompts), tuple(flat)), device)
        ends = np.cumsum(sizes)[:-1]
        values = np.stack([part.mean(axis=0) for part in np.split(read.values, ends)])
        return LabelScores(values, np.array(found, bool), np.ones(len(images), bool), boxes)


class LabelAttribute:
    """Probabilities of an attribute's classes, of nobody and of several, from labels' scores.

    Args:
        reader: Whose labels.
        attribute: Which classes.
    """

    version = "1"
    inputs = frozenset({"images"})

    def __init__(self, reader: LabelReader, attribute: AttributeSpec) -> None:
        self.reader, self.attribute = reader, attribute
        self.name = f"{slug(reader.name)}.{attribute.name}"

    def cache_key(self) -> JsonObject:
        """Version, model, and which labels mean which class.

        Raises:
            AuditError: A class has no label of this model.
        """
        labels = self.reader.model.labels
        meant = {name: [labels[i] for i in at] for name, at in self._meant.items()}
        return {
            "version": self.version,
            "name": self.name,
            "model": self.reader.identity(),
            "labels": meant | {"otherwise": self.attribute.otherwise},
        }

    @cached_property
    def _meant(self) -> dict[str, list[int]]:
        """Positions of the labels of each class, and of nobody and several."""
        labels, one = self.reader.model.labels, self.attribute
        places = {label.casefold(): i for i, label in enumerate(labels)}
        found: dict[str, list[int]] = {}
        for name in (*one.class_names, *BESIDE):
            if name == one.otherwise:
                continue
            wanted = one.labels.get(name, () if name in BESIDE else (name,))
            for label in wanted:
                if label.casefold() not in places:
                    raise AuditError(
                        f"attributes: {one.name}: class {name!r}: {self.reader.name} has no label "
                        f"{label!r}; {nearest(label, labels)}; name its labels under `labels`"
                    )
            found[name] = [places[label.casefold()] for label in wanted]
        return found

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, 'class:NAME' (summing to 1), nobody, several; where recorded, box."""
        read = self.reader.scores(batch, context.device)
        classes, beside = self._weighed(read.values)
        beside[~read.somebody] = (1.0, 0.0)
        table = pd.DataFrame({"cell": batch.cells})
        for i, name in enumerate(self.attribute.class_names):
            table[f"class:{name}"] = classes[:, i]
        for i, name in enumerate(BESIDE):
            table[name] = beside[:, i]
        if any(box is not None for box in read.boxes):
            table["box"] = [None if b is None else list(map(float, b)) for b in read.boxes]
        return table[read.known].reset_index(drop=True)

    def _weighed(self, values: Floats) -> tuple[Floats, Floats]:
        """Probabilities of the classes, and of nobody and several, of each image."""
        exclusive, names = self.reader.model.exclusive, self.attribute.class_names
        parts = {
            name: (values[:, at].sum(axis=1) if exclusive else values[:, at].max(axis=1))
            if at
            else np.zeros(len(values))
            for name, at in self._meant.items()
        }
        beside = np.column_stack([parts[name] for name in BESIDE])
        beside /= np.maximum(beside.sum(axis=1, keepdims=True), 1.0)
        held = [parts[n] for n in names if n in parts]
        others = np.column_stack([*held, *beside.T]) if exclusive else np.column_stack(held)
        rest = 1 - others.sum(axis=1) if exclusive else np.prod(1 - others, axis=1)
        rest = np.maximum(rest, 0.0)
        if self.attribute.otherwise:
            parts[self.attribute.otherwise] = rest
            rest = np.zeros_like(rest)
        classes = np.column_stack([parts[n] for n in names]) + rest[:, None] / len(names)
        total = classes.sum(axis=1, keepdims=True)
        even = np.full_like(classes, 1 / len(names))
        return np.divide(classes, total, out=even, where=total > 0), beside
