"""The last step of a sequence, taken as a slice: TensorRT leaves a Gather undefined that counts from the end of a dynamic axis.

NVIDIA's NvInfer.h says so of IGatherLayer. Slice has its start computed from the size.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def slice_from_the_end(graph: ir.Graph) -> None:
    """Every Gather of one constant negative index becomes a Slice and a Squeeze, unless the axis' size is known."""
    for node in list(ir.traversal.RecursiveGraphIterator(graph)):
        index = negative_index(node)
        if index is not None and isinstance(node.graph, ir.Graph):
            _replace(node.graph, node, index)


def negative_index(node: ir.Node) -> int | None:
    """The one constant index that a Gather counts from the end of an axis whose size is not known; None if it does not."""
    data, indices = node.inputs[:2] if node.op_type == "Gather" and not node.domain else (None, None)
    constant = ir.convenience.get_const_tensor(indices) if indices is not None else None
    if data is None or constant is None or constant.shape.rank() != 0:
        return None
    index = int(constant.numpy())
    known = data.shape is not None and isinstance(data.shape[node.attributes.get_int("axis", 0)], int)
    return index if index < 0 and not known else None


def _replace(graph: ir.Graph, node: ir.Node, index: int) -> None:
    name, axis = node.outputs[0].name, node.attributes.get_int("axis", 0)
    # Position -1 ends where the axis does, and that has no negative name.
    bounds = {"start": index, "end": index + 1 or np.iinfo(np.int64).max, "axis": axis}
    start, end, axes = (_constant(graph, f"{name}_{which}", value) for which, value in bounds.items())
    part = ir.node("Slice", [node.inputs[0], start, end, axes])
    one = ir.node("Squeeze", [part.outputs[0], axes], outputs=[ir.Value(name=name)])
    ir.convenience.replace_nodes_and_values(graph, node, [node], [part, one], node.outputs, one.outputs)


def _constant(graph: ir.Graph, name: str, number: int) -> ir.Value:
    tensor = ir.tensor(np.array([number]), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape([1]), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value
