"""Weights kept as 8-bit floats with a scale beside them ('scaled fp8', as ComfyUI writes it).

A layer's `NAME.weight` is float8 and its values are to be multiplied by `NAME.scale_weight` (in
newer files `NAME.weight_scale`), a number or one for each output row. `NAME.scale_input` and
`NAME.input_scale` scale the layer's *input* where the matrix product itself runs in 8 bits; here
it runs in the spec's precision, so they have no part in it. Cast without its scale such a weight
is off by orders of magnitude, and nothing would say so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from harness.models.safetensors_header import Header, WeightsError, some

WEIGHT_SCALES = (".scale_weight", ".weight_scale")
INPUT_SCALES = (".scale_input", ".input_scale")
MARKER = "scaled_fp8"
FORMAT = ".comfy_quant"
FLOAT8 = ("F8_E4M3", "F8_E5M2")
FORMATS = ("float8_e4m3fn", "float8_e5m2")


class Scales(NamedTuple):
    """The scales of one file.

    Attributes:
        of: name of the scale by name of the weight.
        beside: all names that say how others are kept and are no weights themselves.
    """

    of: Mapping[str, str] = MappingProxyType({})
    beside: frozenset[str] = frozenset()


def scales_of(header: Header, get: Callable[[str], torch.Tensor]) -> Scales:
    """Find the scales of a file.

    Args:
        header: Header of the file.
        get: Reads one tensor of it.

    Raises:
        WeightsError: A scale without its float8 weight, or weights in another quantisation.
    """
    of: dict[str, str] = {}
    beside = set()
    for name in header.shapes:
        if name.endswith((MARKER, *INPUT_SCALES)):
            beside.add(name)
        elif name.endswith(FORMAT):
            beside.add(name)
            _check_format(header, name, get(name))
        elif name.endswith(WEIGHT_SCALES):
            weight = f"{name.rpartition('.')[0]}.weight"
            if header.dtypes.get(weight) not in FLOAT8:
                raise WeightsError(
                    f"{str(header.path)!r}: {some([name])} scales {weight!a}, which is "
                    f"{header.dtypes.get(weight, 'not there')}, should be an 8-bit float "
                    f"({' or '.join(FLOAT8)}); name the file that was not quantised"
                )
            of[weight] = name
            beside.add(name)
    return Scales(of, frozenset(beside))


def unscaled(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Weights as the model means them, float32: each row times its scale.

    Args:
        tensor: (rows, …), 8-bit floats.
        scale: One number, or one for each row.

    Raises:
        ValueError: As many numbers as neither.
    """
    if scale.numel() not in (1, tensor.shape[0] if tensor.ndim else 1):
        raise ValueError(f"{scale.numel()} scales for {tuple(tensor.shape)} weights")
    shape = (-1, *[1] * (tensor.ndim - 1)) if scale.numel() > 1 else ()
    return tensor.float() * scale.float().reshape(shape)


def _check_format(header: Header, name: str, blob: torch.Tensor) -> None:
    try:
        said = json.loads(bytes(blob.flatten().to(torch.uint8).tolist()))["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = "one that cannot be read"
    if said not in FORMATS:
        raise WeightsError(
            f"{str(header.path)!r}: {some([name])}: weights quantised as {ascii(said)[:80]}; read "
            f"are {' and '.join(FORMATS)}: name the file that was not quantised"
        )
