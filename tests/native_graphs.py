"""Small graphs for device "native", and what it computes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgeseq_runtime.backends.native_backend import NativeModel, load_model
from edgeseq_runtime.plan import plan_for_device

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def opened(model: onnx.ModelProto) -> NativeModel:
    """The model as the backend opens it. Arrays that it is given must fit: no session checks them."""
    return load_model(model.SerializeToString(), plan_for_device("native"))


def model_of(
    nodes: Sequence[NodeProto], inputs: Mapping[str, np.ndarray], outputs: Sequence[str], constants: Mapping[str, np.ndarray] = {}
) -> onnx.ModelProto:
    """A graph whose inputs have axes without sizes; outputs are of whatever the nodes make."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TYPES[array.dtype.name], [None] * array.ndim) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def computed(
    nodes: Sequence[NodeProto], inputs: Mapping[str, np.ndarray], outputs: Sequence[str], constants: Mapping[str, np.ndarray] = {}
) -> list[np.ndarray]:
    """What device "native" computes of nodes."""
    results = opened(model_of(nodes, inputs, outputs, constants)).run(inputs)
    return [results[name] for name in outputs]


def graph_of(
    nodes: Sequence[NodeProto], inputs: Mapping[str, str], outputs: Sequence[str], constants: Mapping[str, np.ndarray] = {}
) -> onnx.GraphProto:
    """The body of a loop: its inputs with their dtypes."""
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(name, TYPES[dtype], None) for name, dtype in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )


def node(op: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    """A node; its inputs and outputs in one text each, `-` where one is left out."""
    names = [["" if name == "-" else name for name in each.split()] for each in (inputs, outputs)]
    return helper.make_node(op, *names, **attributes)


def strided(name: str, array: np.ndarray) -> tuple[np.ndarray, list[NodeProto], dict[str, np.ndarray]]:
    """Another array to give, nodes that make of it a view `name` equal to the first but of other strides, and their constants."""
    rank = array.ndim
    if not rank:
        return array, [node("Identity", f"{name}_given", name)], {}
    axes = range(rank)
    backwards = {"starts": [-1] * rank, "ends": [-(1 << 40)] * rank, "axes": list(axes), "steps": [-1] * rank}
    constants = {f"{name}_{part}": np.array(values, np.int64) for part, values in backwards.items()}
    nodes = [
        node("Slice", f"{name}_given " + " ".join(constants), f"{name}_turned"),
        node("Transpose", f"{name}_turned", name, perm=list(reversed(axes))),
    ]
    return np.ascontiguousarray(np.flip(array).T), nodes, constants
