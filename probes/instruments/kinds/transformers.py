"""Folders of transformers: classifiers with labels of their own, and models that weigh texts.

What a folder is, its config.json says: a class '…ForImageClassification' has labels; one that
embeds images and texts (CLIP, SigLIP, …) weighs the prompts of classes as an open_clip model does.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from harness.json_types import JsonObject
from harness.spec.sections import ClassifierSpec, Fit, InstrumentSpec
from probes.contracts import Batch
from probes.instruments.clip import ClipModel
from probes.instruments.kinds import Kind, KindOptions, Reader, naming, register
from probes.instruments.kinds.open_clip import PromptReader
from probes.instruments.labels import LabelReader, LabelScores, all_seen

if TYPE_CHECKING:
    from harness.models.open_clip_models import Classifier

ACTIVATIONS = {"multi_label_classification": "sigmoid"}
"""By problem_type; any other is a softmax over the labels."""


class TransformersOptions(KindOptions):
    """A model of transformers.

    Attributes:
        transformers: its folder, with config.json, safetensors and preprocessor_config.json.
        activation: what makes probabilities of a classifier's outputs; not given: as its
            config.json says.
    """

    transformers: str
    activation: Literal["softmax", "sigmoid"] | None = None


@register
class Transformers(Kind[TransformersOptions]):
    """A folder of transformers."""

    name = "transformers"
    Options = TransformersOptions
    paths = ("transformers",)

    def reader(
        self, name: str, options: TransformersOptions, common: InstrumentSpec, fit: Fit
    ) -> Reader:
        """A reader of its labels, or of class prompts."""
        from harness.models import transformers_models as models

        folder = Path(options.transformers)
        with naming(name):
            task = models.task_of(folder)
        if task == models.CLASSIFIES:
            return LabelReader(name, common, fit, lambda: Labelled(name, folder, options))
        shared = common.model_dump(include=set(InstrumentSpec.model_fields))
        spec = ClassifierSpec(model=str(folder), **shared)
        return PromptReader(TextAndImage(name, spec, fit))


class TextAndImage(ClipModel):
    """A model of transformers that embeds images and texts, used as an open_clip model is."""

    @cached_property
    def _loaded(self) -> Classifier:
        from harness.models.transformers_models import load_text_and_image

        with naming(self.name):
            return load_text_and_image(Path(self.spec.model))


class Labelled:
    """A classifier with labels of its own.

    Args:
        name: Of the instrument, for messages.
        folder: The model's.
        options: How its outputs are read.

    Raises:
        AuditError: It cannot be loaded.
    """

    whole = False

    def __init__(self, name: str, folder: Path, options: TransformersOptions) -> None:
        from harness.models.transformers_models import load_classifier

        with naming(name):
            self.model, self.processor = load_classifier(folder)
        config = self.model.config
        self.labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        own = ACTIVATIONS.get(str(config.problem_type), "softmax")
        self.activation = options.activation or own
        self.exclusive = self.activation == "softmax"

    def identity(self) -> JsonObject:
        """Digest of the weights, the labels, and what is done to images before."""
        from harness.models.digests import digest_of

        return {
            "weights": digest_of(self.model),
            "labels": list(self.labels),
            "activation": self.activation,
            "images": self.processor.to_json_string(),
        }

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """Probabilities of the labels."""
        import torch

        images = [Image.fromarray(image) for image in batch.images]
        given: Any = self.processor(images=images, return_tensors="pt")
        self.model.to(device)
        with torch.no_grad():
            logits = self.model(given["pixel_values"].to(device)).logits.double().cpu()
        softmax = self.activation == "softmax"
        values = logits.softmax(dim=1) if softmax else logits.sigmoid()
        return all_seen(np.asarray(values.numpy(), np.float64))
