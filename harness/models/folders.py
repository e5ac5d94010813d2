"""Folders of models, checked before any library opens them.

A model folder is data of a stranger. Its JSON files can ask the libraries to import Python beside
them (`auto_map`, a pipeline or component class of its own), to fetch code or other weights (a
kernel for attention, a quantizer, an adapter's base model), or to read files elsewhere. None of
that is wanted: what asks for it is refused by name, and so nothing of it depends on how a library
treats it. Sizes are counted, so that a few bytes cannot build a model without end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import reason
from harness.json_types import JsonObject
from harness.models.pickle_scan import PICKLE_SUFFIXES, refusal
from harness.models.safetensors_header import WeightsError

LARGEST_JSON = 4_000_000
"""Bytes of a configuration; vocabularies, which are larger, are not read here."""
MOST_VALUES = 200_000
LARGEST_NUMBER = 10**7
"""In a config.json: no width, vocabulary or length comes near it."""
MOST_LAYERS = 200
MOST_BLOCKS = 64
MOST_ENTRIES = 1000
LIBRARIES = ("diffusers", "transformers")
"""Whose classes a pipeline's components may be."""
QUANTIZED = ("bitsandbytes",)
CONFIGS = (
    "model_index.json",
    "config.json",
    "tokenizer_config.json",
    "scheduler_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "open_clip_config.json",
    "adapter_config.json",
    "chat_template.json",
    "modular_model_index.json",
    "modular_config.json",
)
BOUNDED = ("config.json", "model_index.json", "open_clip_config.json", "scheduler_config.json")
"""Files whose numbers say how much is built; a tokenizer's may be anything."""
NOT_LOADED = ("safety_checker", "feature_extractor")
"""Folders of a pipeline whose weights are left alone."""
_CODE = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_generate", "code_revision")
"""Keys that have a library import what a folder or the hub holds."""


def check_folder(folder: Path) -> None:
    """Refuse a model folder, and the folders of its components, that asks for more than data.

    Args:
        folder: A diffusers folder, or that of one component or tokenizer.

    Raises:
        WeightsError: One line with the file and the key.
    """
    for place in (folder, *_components(folder)):
        for path in _entries(place):
            if path.name in CONFIGS or path.name.endswith("config.json"):
                _check_config(path, read_config(path))
            elif path.name.endswith(".index.json"):
                _check_shards(path, read_config(path))
        if place.name not in NOT_LOADED:
            _check_weights(place)


def _components(folder: Path) -> list[Path]:
    """Folders of a pipeline's components; a folder of anything else has none."""
    index = folder / "model_index.json"
    if not index.exists():
        return []
    named = [key for key, value in read_config(index).items() if isinstance(value, list)]
    return [p for p in _entries(folder) if p.name in named and p.is_dir()]


def read_config(path: Path) -> JsonObject:
    """A JSON file that holds keys and values.

    Raises:
        WeightsError: Unreadable, too large, nested too deeply, or something else than that.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise WeightsError(
                f"{str(path)!r} has {size:,} bytes; a configuration has some hundred"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except WeightsError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{str(path)!r} cannot be read as JSON: {reason(error)}") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{str(path)!r} holds a {type(values).__name__}, not keys and values")
    return values


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise WeightsError(f"{str(folder)!r} cannot be read: {reason(error)}") from None


def _check_config(path: Path, values: JsonObject) -> None:
    bounded = path.name in BOUNDED
    if path.name == "adapter_config.json":
        raise WeightsError(
            f"{str(path)!r} puts an adapter on a model that it names: merge it, or give the LoRA "
            "under `loras`"
        )
    for count, (key, value) in enumerate(_walk(path, values)):
        where = f"{str(path)!r}: {key[:60]!a}"
        if count > MOST_VALUES:
            raise WeightsError(f"{str(path)!r} holds more than {MOST_VALUES:,} values")
        if key in _CODE and value not in (None, False, {}, ""):
            raise WeightsError(
                f"{where} asks for code to be run that is not part of the libraries: refused, and "
                "nothing of it was run; get the model in a form without it"
            )
        if "attn_implementation" in key and isinstance(value, str) and "/" in value:
            raise WeightsError(f"{where} asks for code of {value[:60]!a}: refused")
        if key == "quantization_config" and isinstance(value, dict):
            method = value.get("quant_method")
            if method not in QUANTIZED:
                raise WeightsError(
                    f"{where} is of the kind {str(method)[:40]!a}, which needs code of its own; "
                    f"supported: {', '.join(QUANTIZED)}"
                )
        if key.endswith("_file") and isinstance(value, str) and _lies_outside(path, value):
            raise WeightsError(f"{where} points to a file outside the folder: {value[:80]!a}")
        if bounded and isinstance(value, int | list):
            _check_number(where, key, value)
    if path.name == "model_index.json":
        _check_index(path, values)


def _check_number(where: str, key: str, value: int | list[object]) -> None:
    if isinstance(value, list):
        most = MOST_BLOCKS if "block" in key else MOST_ENTRIES
        if len(value) > most:
            raise WeightsError(f"{where} has {len(value):,} entries; at most {most:,} are read")
        return
    most = MOST_LAYERS if "layers" in key or key in ("depth", "num_blocks") else LARGEST_NUMBER
    if abs(value) > most:
        raise WeightsError(f"{where} is {value:.3g}, which no model has (at most {most:,})")


def _walk(path: Path, values: object) -> Iterator[tuple[str, Any]]:
    """Every value of the JSON with the key that it stands under, in lists too."""
    stack: list[tuple[str, Any]] = [("", values)]
    while stack:
        key, value = stack.pop()
        yield key, value
        if isinstance(value, dict):
            stack.extend(value.items())
        elif isinstance(value, list):
            stack.extend((key, item) for item in value)


def _lies_outside(path: Path, value: str) -> bool:
    try:
        target = Path(os.path.abspath(path.parent / value))
        return target.exists() and Path(os.path.abspath(path.parent)) not in target.parents
    except (OSError, ValueError):  # a name that no file can have
        return True


def _check_index(path: Path, values: Mapping[str, object]) -> None:
    """A pipeline and its components, all of classes that the libraries have."""
    import diffusers

    name = values.get("_class_name")
    if not isinstance(name, str):
        found = "missing" if name is None else f"{str(name)[:60]!a}, not a class of diffusers"
        raise WeightsError(f"{str(path)!r}: '_class_name' is {found}; name a pipeline of diffusers")
    if getattr(diffusers, name, None) is None:
        raise WeightsError(
            f"{str(path)!r}: '_class_name' is {name[:60]!a}, which diffusers "
            f"{diffusers.__version__} does not have"
        )
    for key, value in values.items():
        if key.startswith("_") or not isinstance(value, list):
            continue
        where = f"{str(path)!r}: {key[:60]!a}"
        if len(value) < 2 or not all(isinstance(v, str | None) for v in value[:2]):
            raise WeightsError(f"{where} is no pair of a library and a class")
        library, kind = value[:2]
        if library is None or kind is None:
            continue
        known = library in LIBRARIES or hasattr(diffusers.pipelines, library)
        if not known or not kind.isidentifier() or "/" in key or key in ("..", "."):
            raise WeightsError(
                f"{where} is of {f'{library}.{kind}'[:80]!a}; components are classes of "
                f"{' and '.join(LIBRARIES)}, no others are imported"
            )
        if (path.parent / key / f"{library}.py").exists():
            raise WeightsError(f"{where} has Python code of its own ({library}.py): refused")


def _check_shards(path: Path, values: Mapping[str, object]) -> None:
    shards = values.get("weight_map")
    if not isinstance(shards, dict):
        raise WeightsError(f"{str(path)!r} has no 'weight_map' of tensors to files")
    for name in dict.fromkeys(str(v) for v in shards.values()):
        if Path(name).name != name or not name.endswith(".safetensors"):
            if "safetensors" not in path.name:
                continue  # the list of a pickle's parts, which is never read
            raise WeightsError(
                f"{str(path)!r} names {name[:80]!a}; parts are .safetensors files beside it"
            )


def _check_weights(folder: Path) -> None:
    """Where there are weights, some must be safetensors: pickles are never opened."""
    names = [p for p in _entries(folder) if p.is_file()]
    pickles = [p for p in names if p.suffix.lower() in PICKLE_SUFFIXES]
    if pickles and not any(p.suffix == ".safetensors" for p in names):
        raise WeightsError(refusal(pickles[0]))
