"""Small ONNX graphs, as TensorRT's importer understands them and as ONNX Runtime runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

Arrays = dict[str, np.ndarray]
node = helper.make_node


def graph_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    dynamic: bool = True,
) -> bytes:
    """A serialised model.

    Args:
        nodes: of the graph.
        inputs: an example of each.
        outputs: the dtype of each.
        constants: initializers.
        dynamic: whether every axis of the inputs is; else none.
    """

    def declared(name, array):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        shape = [f"{name}_{axis}" for axis in range(array.ndim)] if dynamic else array.shape
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        list(nodes),
        "graph",
        [declared(name, array) for name, array in inputs.items()],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
            for name, dtype in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def by_onnxruntime(model: bytes, inputs: Arrays) -> Arrays:
    """All outputs by name."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def by_tensorrt(model: bytes, inputs: Arrays) -> Arrays:
    """All outputs by name, from the network that TensorRT's importer made."""
    from edgeseq_runtime.backends.tensorrt_network_backend import parse_network
    from edgeseq_runtime.tensorrt_network import Interpreter

    return Interpreter(parse_network(model))(inputs)
