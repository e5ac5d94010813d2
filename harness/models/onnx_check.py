"""ONNX files of strangers, checked before onnxruntime opens them.

An ONNX file is data, but it can name other files as its weights, operators that somebody's library
would have to bring, and tensors of any size. So it is read first: weights outside its own folder,
operators that onnxruntime does not have itself, and sizes beyond all reason are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import reading
from harness.models.safetensors_header import WeightsError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
"""Operators that onnxruntime brings itself."""
LARGEST_TENSOR = 2**28
"""Numbers of one tensor: a gigabyte as float32; images of a batch come nowhere near it."""
LARGEST_FILE = 2 * 10**9
"""Bytes: protobuf holds no more; larger models keep their weights in a file beside."""
EXTRA = "pip install 'diffusion-audit[onnx]'"


def check_onnx(path: Path) -> list[Path]:
    """Refuse an ONNX file that asks for more than its own data.

    Args:
        path: The file.

    Returns:
        The file, and those beside it that hold weights.

    Raises:
        WeightsError: One line with the file and what it asks for.
    """
    what = repr(str(path))
    try:
        import onnx
    except ImportError:
        raise WeightsError(f"{what}: ONNX files need onnx and onnxruntime: {EXTRA}") from None
    if not path.is_file():
        raise WeightsError(f"{what}: no such file")
    if path.stat().st_size > LARGEST_FILE:
        raise WeightsError(f"{what}: {path.stat().st_size:,} bytes are more than an ONNX file has")
    with reading(f"{what} is no ONNX file", WeightsError):
        model = onnx.load_model(path, load_external_data=False)
    if not model.graph.node:
        raise WeightsError(f"{what} is no ONNX file: it has no operators")
    for node in _nodes(model):
        if node.domain not in DOMAINS and node.domain not in {f.domain for f in model.functions}:
            raise WeightsError(
                f"{what}: operator {node.op_type!a} of {node.domain!a} is none of onnxruntime's "
                "own; code for it is not loaded"
            )
    beside = {_weights_file(what, path.parent, tensor) for tensor in _tensors(model)}
    _check_shapes(what, model)
    return [path, *sorted(file for file in beside if file is not None)]


def _weights_file(what: str, folder: Path, tensor: TensorProto) -> Path | None:
    """The file that holds a weight; None where the ONNX file itself does."""
    if any(d < 0 for d in tensor.dims) or prod(tensor.dims) > LARGEST_TENSOR:
        raise WeightsError(f"{what}: weight {tensor.name[:60]!a} of shape {list(tensor.dims)[:8]}")
    if tensor.data_location != tensor.EXTERNAL:
        return None
    stored = {entry.key: entry.value for entry in tensor.external_data}
    named = stored.get("location", "")
    file = folder / named
    inside = named and not Path(named).is_absolute() and ".." not in Path(named).parts
    if not inside or file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise WeightsError(
            f"{what}: weight {tensor.name[:60]!a} lies in {named[:80]!a}, outside the file's own "
            "folder"
        )
    if not file.is_file():
        raise WeightsError(f"{what}: its weights' file {named[:80]!a} is not beside it")
    with reading(f"{what}: weight {tensor.name[:60]!a}", WeightsError):
        start, length = int(stored.get("offset", 0)), int(stored.get("length", 0))
    if start < 0 or length < 0 or start + length > file.stat().st_size:
        raise WeightsError(
            f"{what}: weight {tensor.name[:60]!a} lies beyond the end of {named[:80]!a}"
        )
    return file


def _check_shapes(what: str, model: ModelProto) -> None:
    """Refuse sizes that are known before anything is computed, also of what is computed."""
    import onnx.shape_inference

    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # what it cannot infer is found out by onnxruntime
        inferred = model
    graph = inferred.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        sides = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if prod(max(side, 1) for side in sides) > LARGEST_TENSOR:
            raise WeightsError(
                f"{what}: {value.name[:60]!a} has the shape {sides[:8]}, more than "
                f"{LARGEST_TENSOR:,} numbers"
            )


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The graph and all graphs inside it."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += list(attribute.graphs)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
