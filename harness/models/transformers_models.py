"""Load classifiers of transformers from folders, so that nothing in the folders runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
)

from harness.errors import reading
from harness.library_logs import quiet_libraries
from harness.models.config_check import rehearse
from harness.models.folders import check_folder, read_config
from harness.models.open_clip_models import Classifier
from harness.models.safetensors_header import WeightsError

CLASSIFIES, EMBEDS = "image classification", "text and image"
SAFELY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def task_of(folder: Path) -> str:
    """What a folder's model does: `CLASSIFIES` or `EMBEDS`.

    Raises:
        WeightsError: There is no such folder, or its model does neither.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(f"no config.json in {str(folder)!r}")
    check_folder(folder)
    config = read_config(folder / "config.json")
    named = [str(n) for n in config.get("architectures") or [] if isinstance(n, str)]
    if any(name.endswith("ForImageClassification") for name in named):
        return CLASSIFIES
    with reading(str(folder / "config.json"), WeightsError):
        described = type(AutoConfig.from_pretrained(folder, **SAFELY))
        kind = AutoModel._model_mapping.get(described, None)
    if hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features"):
        return EMBEDS
    raise WeightsError(
        f"{str(folder)!r}: {named[0] if named else 'its model'!a} neither classifies images nor "
        "embeds images and texts"
    )


def load_classifier(folder: Path) -> tuple[PreTrainedModel, Any]:
    """A classifier with labels of its own, on the CPU, and what prepares its images.

    Raises:
        WeightsError: One line with the folder and what is wrong with it.
    """
    kind = AutoModelForImageClassification
    return _load(folder, kind), _processor(folder)


def load_text_and_image(folder: Path) -> Classifier:
    """A model that embeds images and texts, on the CPU, with the calls of an open_clip model.

    Raises:
        WeightsError: One line with the folder and what is wrong with it.
    """
    model, processor = _load(folder, AutoModel), _processor(folder)
    with reading(f"tokenizer of {str(folder)!r}", WeightsError), quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
    length = int(getattr(model.config.text_config, "max_position_embeddings", 77))

    def tokenized(texts: Sequence[str]) -> BatchEncoding:
        found: BatchEncoding = tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=min(length, tokenizer.model_max_length),
            return_tensors="pt",
        )
        return found

    def prepared(image: object) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    return Classifier(_AsOpenClip(model), prepared, tokenized)


class _AsOpenClip(nn.Module):
    """The calls that an open_clip model has, around a model of transformers."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of what cosines are multiplied by."""
        scale: torch.Tensor = self.model.logit_scale
        return scale

    def encode_text(self, tokens: BatchEncoding, normalize: bool) -> torch.Tensor:
        """Embeddings of tokenized texts."""
        return _embedded(self.model.get_text_features(**tokens), normalize)

    def encode_image(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        """Embeddings of prepared images."""
        return _embedded(self.model.get_image_features(pixel_values=pixels), normalize)


def _embedded(found: Any, normalize: bool) -> torch.Tensor:
    embedded: torch.Tensor = getattr(found, "pooler_output", found)
    return nn.functional.normalize(embedded, dim=-1) if normalize else embedded


def _load(folder: Path, kind: Any) -> PreTrainedModel:
    check_folder(folder)
    if not list(folder.glob("*.safetensors")):
        raise WeightsError(
            f"no .safetensors in {str(folder)!r}; of a pickle, `audit convert` makes one"
        )
    with reading(str(folder / "config.json"), WeightsError), quiet_libraries():
        config = AutoConfig.from_pretrained(folder, **SAFELY)
        built = kind._model_mapping.get(type(config), None)
    if built is None or isinstance(built, tuple):
        raise WeightsError(f"{str(folder)!r}: {config.model_type!a} is no such model")
    rehearse(folder, built)
    with reading(str(folder), WeightsError), quiet_libraries():
        model, loading = built.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **SAFELY
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise WeightsError(
            f"{str(folder)!r} lacks weights: {missing[0]} and {len(missing) - 1} more"
        )
    ready: PreTrainedModel = model.eval()
    return ready


def _processor(folder: Path) -> Any:
    with reading(f"preprocessor of {str(folder)!r}", WeightsError), quiet_libraries():
        return AutoImageProcessor.from_pretrained(folder, **SAFELY)
