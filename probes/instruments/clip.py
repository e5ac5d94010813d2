"""CLIP models as instruments: what attribute an image shows, how like its prompt it is.

One image is encoded once for all attributes. Class probabilities are a softmax over the
classes' mean prompt embeddings (prompt ensembles: Radford et al. 2021, section 3.1.4);
'nobody' and 'several' are weighed against 'a person' in a softmax of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from harness.json_types import JsonObject
from harness.spec.attributes import AttributeSpec
from harness.spec.sections import ClassifierSpec, Fit
from harness.text import slug
from probes.contracts import Batch, Context
from probes.instruments.crops import part_seen, squares
from probes.instruments.faces import Box, faces_of

if TYPE_CHECKING:
    import torch

    from harness.models.open_clip_models import Classifier


class Shown(NamedTuple):
    """What a model saw of some images.

    Attributes:
        crops: by image, embeddings (crops, width) of length 1.
        found: whether there is a face; all True where none is looked for.
        boxes: where the face is, with its surroundings; None where none is looked for or found.
    """

    crops: list[torch.Tensor]
    found: list[bool]
    boxes: list[Box | None]


class ClipModel:
    """One open_clip model, loaded when first used.

    Args:
        name: Its name in the spec.
        spec: Which model.
        fit: How it takes images that are not square.
    """

    def __init__(self, name: str, spec: ClassifierSpec, fit: Fit = "crop") -> None:
        self.name, self.spec, self.fit = name, spec, fit
        self._last: tuple[tuple[str, ...], Shown] | None = None

    @cached_property
    def _loaded(self) -> Classifier:
        from harness.models.open_clip_models import load_classifier

        return load_classifier(self.name, self.spec.model, self.spec.pretrained)

    @cached_property
    def digest(self) -> str:
        """Exact digest of the weights."""
        from harness.models.digests import digest_of

        return digest_of(self._loaded[0])

    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts, (n, width), of length 1."""
        import torch

        model, _, tokenizer = self._loaded
        with torch.no_grad():
            embedded: torch.Tensor = model.encode_text(
                tokenizer(list(prompts)).to(_device(model)), normalize=True
            )
        return embedded.cpu()

    def ensemble(self, prompts: Sequence[str]) -> torch.Tensor:
        """Mean embedding of several phrasings, (width,), of length 1."""
        mean = self.text(prompts).mean(dim=0)
        return mean / mean.norm()

    def crops(self, batch: Batch, device: str) -> Shown:
        """Embeddings of what stands for each image; see `squares`. The last batch is kept.

        With `faces` in the spec it is the largest face that is embedded.
        """
        import torch

        if self._last is None or self._last[0] != batch.cells:
            model, preprocess, _ = self._loaded
            model.to(device)
            images, found, boxes = faces_of(batch.images, self.spec.faces)
            shown = [squares(i, self.fit, self.spec.pad_colour) for i in images]
            pixels = torch.stack([preprocess(Image.fromarray(s)) for own in shown for s in own])
            with torch.no_grad():
                embedded = model.encode_image(pixels.to(device), normalize=True).float().cpu()
            parts = list(embedded.split([len(own) for own in shown]))
            self._last = (batch.cells, Shown(parts, found, boxes))
        return self._last[1]

    def images(self, batch: Batch, device: str) -> tuple[torch.Tensor, list[bool]]:
        """One embedding for each image, (n, width), of length 1: the mean over its crops."""
        import torch

        crops, found, _ = self.crops(batch, device)
        return torch.cat([_mean_direction(own) for own in crops]), found

    @property
    def fitting(self) -> JsonObject:
        """What identity says of the fit: nothing of 'crop', open_clip's own and once the only."""
        if self.fit == "crop":
            return {}
        return {"fit": self.fit} | ({"pad": self.spec.pad_colour} if self.fit == "pad" else {})

    def seen(self, batch: Batch) -> dict[str, list[float]]:
        """A column with the part of each image that is seen; none where all are square."""
        if all(i.shape[0] == i.shape[1] for i in batch.images):
            return {}
        return {"seen": [part_seen(i, self.fit) for i in batch.images]}

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before the softmax."""
        return float(self._loaded[0].logit_scale.detach().exp())


class ClipLikeness:
    """Cosine of each image with its own prompt, and its embedding (for diversity)."""

    version = "1"
    inputs = frozenset({"images"})

    def __init__(self, model: ClipModel) -> None:
        self.model = model
        self.name = f"{slug(model.name)}.likeness"

    def cache_key(self) -> JsonObject:
        """Version and weights."""
        return (
            {"version": self.version, "weights": self.model.digest, "name": self.name}
            | {"faces": self.model.spec.faces}
            | self.model.fitting
        )

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, likeness (-1 to 1; NaN without a prompt), embedding (float32 list).

        Batches with an image that is not square have `seen` as well: the part of it that counts.
        """
        shown, _ = self.model.images(batch, context.device)
        prompts = sorted(set(batch.prompts))
        said = dict(zip(prompts, self.model.text(prompts), strict=True))
        cosines = [
            float(image @ said[prompt]) if prompt else float("nan")
            for image, prompt in zip(shown, batch.prompts, strict=True)
        ]
        return pd.DataFrame(
            {"cell": batch.cells, "likeness": cosines, "embedding": list(shown.numpy())}
            | self.model.seen(batch)
        )


class ClipAttribute:
    """Probabilities of an attribute's classes, and of nobody and several people."""

    version = "1"
    inputs = frozenset({"images"})

    def __init__(self, model: ClipModel, attribute: AttributeSpec) -> None:
        self.model, self.attribute = model, attribute
        self.name = f"{slug(model.name)}.{attribute.name}"

    def cache_key(self) -> JsonObject:
        """Version, weights, and every prompt that is compared with."""
        words = self.attribute.model_dump(mode="json", include={"classes", *_BESIDE})
        return (
            {"version": self.version, "weights": self.model.digest, "name": self.name}
            | words
            | {"faces": self.model.spec.faces}
            | self.model.fitting
        )

    @cached_property
    def _texts(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch

        classes = [self.model.ensemble(c.prompts) for c in self.attribute.classes]
        beside = {
            name: self.model.ensemble(prompts)
            for name in ("nobody", "several")
            if (prompts := getattr(self.attribute, name))
        }
        if beside:
            own = [p for c in self.attribute.classes for p in c.prompts]
            beside["person"] = self.model.ensemble(self.attribute.person or own)
        return torch.stack(classes), beside

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, 'class:NAME' (summing to 1), nobody, several (NaN: not an outcome).

        With `faces` also box: left, top, right and bottom of what was seen, in pixels.
        """
        import torch

        crops, found, boxes = self.model.crops(batch, context.device)
        shown = torch.cat(crops)
        classes, beside = self._texts
        probabilities = _softmax(shown, classes, self.model.scale)
        people = np.full((len(shown), len(_BESIDE)), np.nan)
        if beside:
            known = _softmax(shown, torch.stack(list(beside.values())), self.model.scale)
            people[:, [_BESIDE.index(name) for name in beside]] = known
        if len(shown) > len(crops):
            probabilities, people = _over_crops(probabilities, people, [len(c) for c in crops])
        table = pd.DataFrame({"cell": batch.cells})
        for i, name in enumerate(self.attribute.class_names):
            table[f"class:{name}"] = probabilities[:, i]
        for name in ("nobody", "several"):
            table[name] = people[:, _BESIDE.index(name)]
        if not all(found):
            table.loc[[not f for f in found], ["nobody", "several"]] = [1.0, 0.0]
        if any(boxes):
            table["box"] = [None if b is None else list(map(float, b)) for b in boxes]
        return table


def _mean_direction(embedded: torch.Tensor) -> torch.Tensor:
    """The mean of an image's crops, (1, width), of length 1; one alone stays bit for bit."""
    if len(embedded) == 1:
        return embedded
    mean = embedded.mean(dim=0, keepdim=True)
    return mean / mean.norm()


_BESIDE = ("person", "nobody", "several")


def _over_crops(
    classes: NDArray[np.float64], people: NDArray[np.float64], sizes: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the crops of each image say together.

    Classes are the mean over crops, weighted by how likely each shows one person: of a wall
    above somebody nothing is learnt of them. Nobody and several are those of the crop that
    likeliest shows somebody.

    Args:
        classes: (crops of all images, classes), summing to 1.
        people: (crops of all images, person, nobody and several); NaN where it is no outcome.
        sizes: Number of crops of each image.
    """
    ends = np.cumsum(sizes)
    one, other = [], []
    for start, end in zip(ends - sizes, ends, strict=True):
        weight = np.nan_to_num(people[start:end, 0], nan=1.0) + 1e-9
        one.append((classes[start:end] * weight[:, None]).sum(axis=0) / weight.sum())
        nobody = np.nan_to_num(people[start:end, _BESIDE.index("nobody")])
        other.append(people[start + int(nobody.argmin())])
    return np.stack(one), np.stack(other)


def _softmax(shown: torch.Tensor, texts: torch.Tensor, scale: float) -> NDArray[np.float64]:
    logits = scale * shown.double() @ texts.double().T
    probabilities: NDArray[np.float64] = logits.softmax(dim=1).numpy()
    return probabilities


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
