"""Load diffusers folders component by component, so that each says which tensors it did not use.

The libraries only warn of tensors that have no place in the model and of weights that no file
gives, which then are random. Here both are refused. A folder that holds only one variant of its
weights (such as '*.fp16.safetensors') is read by that variant, component by component.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from transformers import PreTrainedModel

from harness.errors import reading
from harness.library_logs import quiet_libraries
from harness.models.checkpoint_keys import refuse_left_over
from harness.models.config_check import rehearse
from harness.models.folders import check_folder, read_config
from harness.models.safetensors_header import WeightsError, some

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
NOT_LOADED = ("safety_checker", "feature_extractor")
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[\w-]+?))?(?:-\d{5}-of-\d{5})?\.safetensors"
)


def load_folder(path: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """Load a diffusers folder as the pipeline that its model_index.json names, on the CPU.

    Args:
        path: Path of the folder.
        dtype: Precision of all weights.

    Returns:
        The pipeline, without a safety checker.

    Raises:
        WeightsError: A component has tensors that its model does not use, or lacks some.
    """
    check_folder(path)
    index = read_config(path / "model_index.json")
    loaded = {}
    for name, kind in index.items():
        if name in NOT_LOADED or not (isinstance(kind, list) and len(kind) == 2):
            continue
        model_class = getattr(LIBRARIES.get(kind[0]), str(kind[1]), None)
        if isinstance(model_class, type) and issubclass(model_class, (ModelMixin, PreTrainedModel)):
            loaded[name] = load_component(path / name, model_class, dtype)
    unchecked = {"safety_checker": None} if "safety_checker" in index else {}
    with reading(f"{str(path)!r} cannot be loaded", WeightsError), quiet_libraries():
        return DiffusionPipeline.from_pretrained(
            path, dtype=dtype, use_safetensors=True, local_files_only=True, **loaded, **unchecked
        )


def load_component(path: Path, model_class: type[ModelMixin], dtype: torch.dtype) -> ModelMixin:
    """Load one model of diffusers or transformers from a folder of its own, every tensor used.

    Args:
        path: Path of the folder: config.json and .safetensors files.
        model_class: Class with `from_pretrained`, of either library.
        dtype: Precision of the weights.

    Raises:
        WeightsError: It asks for more than data, cannot be loaded, or tensors are left over or
            missing; the first is quoted.
    """
    check_folder(path)
    rehearse(path, model_class)
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    with reading(f"{str(path)!r} cannot be loaded", WeightsError), quiet_libraries():
        model, info = model_class.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=only_variant(names),
            output_loading_info=True,
        )
    refuse_left_over(path, path.name, info["unexpected_keys"])
    missing = list(info["missing_keys"])
    if missing:
        raise WeightsError(
            f"{str(path)!r} lacks {len(missing)} tensors of its {path.name} ({some(missing, 1)}), "
            "which would be random: get the folder again"
        )
    return model


def only_variant(names: Iterable[str]) -> str | None:
    """The variant of the weights that is there where the plain ones are not.

    >>> only_variant(["config.json", "diffusion_pytorch_model.fp16.safetensors"])
    'fp16'
    >>> only_variant(["model.safetensors", "model.fp16.safetensors"])

    Args:
        names: Names of the files in a component's folder.

    Returns:
        The variant, 'fp16' before others; None where there are plain weights, or none at all.
    """
    found = {m["variant"] for name in names if (m := _WEIGHTS.fullmatch(name))}
    if None in found or not found:
        return None
    return "fp16" if "fp16" in found else sorted(v for v in found if v)[0]
