"""What every pass does to a graph: read constants, make values and nodes, name new initializers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeseq_runtime.tensors.spec import Array

Dims = Iterable["int | ir.SymbolicDim | None"]
PRODUCTS = ("MatMul", "Gemm")


def constant(value: ir.Value | None) -> Array | None:
    """What a value always is; None where it varies."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None and not value.is_graph_input() else None
    return None if tensor is None else np.asarray(tensor.numpy())


def integers(value: ir.Value | None) -> list[int] | None:
    """The integers of a constant."""
    array = constant(value)
    return None if array is None or array.dtype.kind not in "iu" else [int(n) for n in array.reshape(-1)]


def weights_of(node: ir.Node) -> Array | None:
    """W (k, n) of a product x W, or of a layer x W + b, with constant weights; None of anything else."""
    weights = constant(node.inputs[1]) if node.op_type in PRODUCTS and not node.domain else None
    if weights is None or weights.ndim != 2:
        return None
    if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")) or node.attributes.get_int("transA", False):
        return None
    return weights.T if node.attributes.get_int("transB", False) else weights


def rank(value: ir.Value) -> int | None:
    """How many axes a value has; None where the trace did not say."""
    return None if value.shape is None else len(value.shape)


def last_size(value: ir.Value) -> int | None:
    """Features of a value: the size of its last axis; None where it varies."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None


def initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new constant of the model's graph, under a name that it has not."""
    unique, count = name, 1
    while unique in graph.initializers:
        unique, count = f"{name}_{count}", count + 1
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def new_node(
    operator: str, inputs: Iterable[ir.Value | None], like: ir.Value, shape: Dims | None, **attributes: Any
) -> tuple[ir.Node, ir.Value]:
    """A node of one output, which has the dtype of `like` and a name made from its."""
    output = ir.Value(
        name=f"{like.name}_{operator.lower()}",
        shape=None if shape is None else ir.Shape(tuple(shape)),
        type=None if like.dtype is None else ir.TensorType(like.dtype),
    )
    return ir.node(operator, list(inputs), attributes, outputs=[output]), output


def skip_identities(value: ir.Value) -> ir.Value:
    """The value that a chain of Identity nodes hands on."""
    while (producer := value.producer()) is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    return value


def replace(value: ir.Value, by: ir.Value) -> None:
    """Let everything that used a value, outputs of graphs included, use the other."""
    value.replace_all_uses_with(by, replace_graph_outputs=True)


def insert_before(value: ir.Value, *nodes: ir.Node) -> None:
    """Put nodes before the one that makes a value."""
    producer = value.producer()
    assert producer is not None
    graph_of(producer).insert_before(producer, nodes)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph or body that a node is in."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def positive(axis: int, axes: int) -> int:
    """An axis counted from the first."""
    return axis + axes if axis < 0 else axis


def discard(node: ir.Node) -> None:
    """Take a node whose outputs nobody uses out of its graph, and its bodies' nodes off the values that they used."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            body.outputs.clear()
            for inner in reversed(list(body)):
                discard(inner)
    graph_of(node).remove(node, safe=True)


def drop(value: ir.Value) -> None:
    """Take the nodes out that made a value which nobody uses any more, and what was made for them alone."""
    node = value.producer()
    if node is None or node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
        return
    inputs = [value for value in node.inputs if value is not None]
    discard(node)
    for value in dict.fromkeys(inputs):
        drop(value)
