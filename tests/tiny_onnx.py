"""An ONNX classifier of a few numbers."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(
    path,
    *,
    layout="NCHW",
    kind=TensorProto.FLOAT,
    side=64,
    out=10,
    number="n",
    spread=3.0,
    weights=None,
):
    """A model that weighs the mean of each channel of each image."""
    rng = np.random.default_rng(0)
    shape = [number, 3, side, side] if layout == "NCHW" else [number, side, side, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    if weights is None:
        weights = rng.normal(0, spread, (3, out)).astype(np.float32)
    out = weights.shape[1]
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [number, out])],
        [
            numpy_helper.from_array(np.array(axes, np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, path)
    return path
