"""Denoisers in GGUF files: quantised weights, read back to floating point.

A GGUF file for images holds a denoiser alone, under the original code's names, in blocks of a few
bits a weight (Q8_0, Q4_K, …). The weights are what those blocks mean, in the spec's precision: the
arithmetic of a quantised kernel is not imitated. Read by the package `gguf` of llama.cpp.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import reading
from harness.json_types import JsonObject
from harness.models.checkpoint_keys import (
    Tensors,
    check_tensors,
    convert,
    empty_model,
    refuse_left_over,
)
from harness.models.safetensors_header import UNET, WeightsError, read_header, refuse_not_finite

if TYPE_CHECKING:
    from diffusers import ModelMixin

MAGIC = b"GGUF"
SHAPE = "comfy.gguf.orig_shape."
"""Key of a tensor's shape, where it was laid out otherwise to be cut into blocks."""
LARGEST = 2**34
"""Numbers of one tensor; more is not a weight."""


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def load_gguf(path: Path, component: str, like: ModelMixin, dtype: torch.dtype) -> ModelMixin:
    """A denoiser from a GGUF file.

    Args:
        path: The file.
        component: 'unet' or 'transformer'.
        like: The checkpoint's own denoiser, which it stands in for.
        dtype: Of all weights.

    Raises:
        WeightsError: The package `gguf` is not installed, the file cannot be read, or it holds
            another model.
    """
    tensors = read_gguf(path, dtype)
    config: JsonObject = {"_class_name": type(like).__name__, **like.config}
    model = empty_model(config)
    expected = model.state_dict()
    if expected.keys() <= tensors.keys():  # diffusers' own names
        check_tensors(path, component, expected, tensors)
        refuse_left_over(path, component, tensors.keys() - expected.keys())
        tensors = {name: tensors[name] for name in expected}
    else:
        named = {n if n.startswith(UNET) else UNET + n: t for n, t in tensors.items()}
        tensors = convert(path, component, named, config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> Tensors:
    """A file's tensors in floating point.

    Args:
        path: The file.
        dtype: Of all tensors.

    Raises:
        WeightsError: As `load_gguf`.
    """
    reader = _reader(path)
    from gguf import quants

    tensors: Tensors = {}
    for tensor in reader.tensors:
        if tensor.n_elements > LARGEST:
            raise WeightsError(
                f"{str(path)!r}: {tensor.name[:80]!a} has {tensor.n_elements} numbers"
            )
        with reading(f"{str(path)!r}: {tensor.name[:80]!a} cannot be read", WeightsError):
            values = np.array(quants.dequantize(tensor.data, tensor.tensor_type))
            made = torch.from_numpy(values).reshape(_shape(reader, tensor))
        tensors[tensor.name] = made.to(dtype)
    refuse_not_finite(path, tensors)
    return tensors


def kept_as(path: Path) -> str:
    """How a file of weights keeps its tensors, such as 'Q4_0 x 96, F32 x 40'; '' of a folder.

    Args:
        path: A GGUF or safetensors file.

    Raises:
        WeightsError: It cannot be read.
    """
    if not path.is_file():
        return ""
    if is_gguf(path):
        kinds = Counter(str(t.tensor_type.name) for t in _reader(path).tensors)
    else:
        kinds = Counter(read_header(path).dtypes.values())
    return ", ".join(f"{kind} x {count}" for kind, count in kinds.most_common())


def _reader(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise WeightsError(
            f"{str(path)!r} is a GGUF file; to read it: pip install 'diffusion-audit[gguf]'"
        ) from None

    class Bounded(gguf.GGUFReader):
        """Ends where the file does: its base reads on behind the end, without an end."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise EOFError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

    with reading(f"{str(path)!r} is a damaged GGUF file, cut short?", WeightsError):
        return Bounded(path)


def _shape(reader: Any, tensor: Any) -> tuple[int, ...]:
    """As torch counts it; the file has the last dimension first."""
    field = reader.get_field(SHAPE + tensor.name)
    if field is not None:
        return tuple(int(field.parts[i][0]) for i in field.data)
    return tuple(int(n) for n in reversed(tensor.shape))
