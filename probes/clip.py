"""CLIP models as instruments: what attribute a picture shows, how like its prompt it is.

One picture is encoded once for all attributes. Class probabilities are a softmax over the
classes' mean prompt embeddings (prompt ensembles: Radford et al. 2021, section 3.1.4);
'nobody' and 'several' are weighed against 'a person' in a softmax of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from audit.attributes import AttributeSpec
from audit.checkpoints.classifiers import Classifier, load_classifier
from audit.checkpoints.models import digest_of
from audit.prompts import slug
from audit.spec import ClassifierSpec
from probes import Batch, Context
from probes.faces import faces


class ClipModel:
    """One open_clip model, loaded when first used.

    Args:
        name: Its name in the spec.
        spec: Which model.
    """

    def __init__(self, name: str, spec: ClassifierSpec) -> None:
        self.name, self.spec = name, spec
        self._last: tuple[tuple[str, ...], torch.Tensor, list[bool]] | None = None

    @cached_property
    def _loaded(self) -> Classifier:
        return load_classifier(self.name, self.spec.model, self.spec.pretrained)

    @cached_property
    def digest(self) -> str:
        """Exact digest of the weights."""
        return digest_of(self._loaded[0])

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts, (n, width), of length 1."""
        model, _, tokenizer = self._loaded
        embedded: torch.Tensor = model.encode_text(
            tokenizer(list(prompts)).to(_device(model)), normalize=True
        )
        return embedded.cpu()

    def ensemble(self, prompts: Sequence[str]) -> torch.Tensor:
        """Mean embedding of several phrasings, (width,), of length 1."""
        mean = self.text(prompts).mean(dim=0)
        return mean / mean.norm()

    @torch.no_grad()
    def images(self, batch: Batch, device: str) -> tuple[torch.Tensor, list[bool]]:
        """Embeddings of a batch's images, (n, width), of length 1; the last batch is kept.

        With `faces` in the spec it is the largest face that is embedded; the second value says
        which images have one (all True without).
        """
        if self._last is None or self._last[0] != batch.cells:
            model, preprocess, _ = self._loaded
            model.to(device)
            images, found = list(batch.images), [True] * len(batch.images)
            if self.spec.faces:
                crops = [faces(image) for image in images]
                found = [bool(c) for c in crops]
                images = [c[0] if c else i for c, i in zip(crops, images, strict=True)]
            pixels = torch.stack([preprocess(Image.fromarray(i)) for i in images])
            embedded = model.encode_image(pixels.to(device), normalize=True).float().cpu()
            self._last = (batch.cells, embedded, found)
        return self._last[1], self._last[2]

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before the softmax."""
        return float(self._loaded[0].logit_scale.detach().exp())


class ClipLikeness:
    """Cosine of each picture with its own prompt, and its embedding (for diversity)."""

    version = "1"
    needs = frozenset({"images"})

    def __init__(self, model: ClipModel) -> None:
        self.model = model
        self.name = f"{slug(model.name)}.likeness"

    def identity(self) -> dict[str, Any]:
        """Version and weights."""
        return {"version": self.version, "weights": self.model.digest, "name": self.name} | {
            "faces": self.model.spec.faces
        }

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, likeness (-1 to 1; NaN without a prompt), embedding (float32 list)."""
        shown, _ = self.model.images(batch, context.device)
        prompts = sorted(set(batch.prompts))
        said = dict(zip(prompts, self.model.text(prompts), strict=True))
        cosines = [
            float(image @ said[prompt]) if prompt else float("nan")
            for image, prompt in zip(shown, batch.prompts, strict=True)
        ]
        return pd.DataFrame(
            {"cell": batch.cells, "likeness": cosines, "embedding": list(shown.numpy())}
        )


class ClipAttribute:
    """Probabilities of an attribute's classes, and of nobody and several people."""

    version = "1"
    needs = frozenset({"images"})

    def __init__(self, model: ClipModel, attribute: AttributeSpec) -> None:
        self.model, self.attribute = model, attribute
        self.name = f"{slug(model.name)}.{attribute.name}"

    def identity(self) -> dict[str, Any]:
        """Version, weights, and every prompt that is compared with."""
        words = self.attribute.model_dump(mode="json", include={"classes", *_BESIDE})
        return {"version": self.version, "weights": self.model.digest, "name": self.name} | (
            words | {"faces": self.model.spec.faces}
        )

    @cached_property
    def _texts(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
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
        """Rows of cell, 'class:NAME' (summing to 1), nobody, several (NaN: not an outcome)."""
        shown, found = self.model.images(batch, context.device)
        classes, beside = self._texts
        table = pd.DataFrame({"cell": batch.cells})
        probabilities = _softmax(shown, classes, self.model.scale)
        for i, name in enumerate(self.attribute.class_names):
            table[f"class:{name}"] = probabilities[:, i]
        for name in ("nobody", "several"):
            table[name] = float("nan")
        if beside:
            people = _softmax(shown, torch.stack(list(beside.values())), self.model.scale)
            for i, name in enumerate(beside):
                if name != "person":
                    table[name] = people[:, i]
        if not all(found):
            table.loc[[not f for f in found], ["nobody", "several"]] = [1.0, 0.0]
        return table


_BESIDE = ("person", "nobody", "several")


def _softmax(shown: torch.Tensor, texts: torch.Tensor, scale: float) -> NDArray[np.float64]:
    logits = scale * shown.double() @ texts.double().T
    probabilities: NDArray[np.float64] = logits.softmax(dim=1).numpy()
    return probabilities


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device
