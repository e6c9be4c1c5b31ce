"""Where each value of a graph comes from: from what it is given, or from constants and sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgeseq_runtime.onnx_wire import Graph, Node, Tensor, names_read

NATIVE = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
LOOPS = ("Scan", "Loop")
RECURRENT = (*NATIVE, *LOOPS)
SIZES = ("Shape", "Size")
# Counted as weights; integers are axes, shapes and lengths.
WEIGHTS = frozenset(("float16", "bfloat16", "float32", "float64", "int8", "uint8"))

Weights = dict[str, int]  # constant -> elements


class Value(NamedTuple):
    """What a name stands for inside a graph."""

    fixed: bool  # whether it follows from constants and sizes alone
    weights: Weights  # that went into it, where it is fixed


Values = dict[str, Value]


def values_of(graph: Graph, outer: Mapping[str, Value]) -> tuple[Values, tuple[int, ...]]:
    """Every name of a graph, and the indices of the nodes worth drawing: those that compute with data.

    A recurrent node always is, and so is what gives an output of the graph.
    """
    values: Values = dict(outer)
    values.update({name: Value(True, _weights([tensor], name)) for name, tensor in graph.tensors.items()})
    values.update({spec.name: Value(False, {}) for spec in graph.inputs})
    asked = {spec.name for spec in graph.outputs}
    kept = []
    for index, node in enumerate(graph.nodes):
        read = [values[name] for name in names_read(node) if name in values]
        fixed = node.op in SIZES or (all(value.fixed for value in read) and node.op not in RECURRENT)
        drawn = not fixed or bool(asked & set(node.outputs))
        if drawn:
            kept.append(index)
        weights = {} if not fixed or node.op in SIZES else _merged(value.weights for value in read)
        weights |= _weights(node.tensors.values(), next(iter(node.outputs), "")) if node.op == "Constant" else {}
        values.update({name: Value(not drawn, weights) for name in node.outputs if name})
    return values, tuple(kept)


def weights_of(node: Node, values: Mapping[str, Value]) -> Weights:
    """The constants a node computes with, those inside its bodies included."""
    found = _merged(values[name].weights for name in names_read(node) if name in values)
    for number, body in enumerate(node.graphs.values()):
        inner, kept = values_of(body, values)
        for index in kept:
            for name, size in weights_of(body.nodes[index], inner).items():
                found[name if name in found else f"{number}/{name}"] = size
    return found


def weights_in(graph: Graph) -> int:
    """Elements of all constants of a graph and of the bodies of its nodes."""
    own = sum(_weights(graph.tensors.values(), "").values())
    inside = sum(sum(_weights(node.tensors.values(), "").values()) for node in graph.nodes if node.op == "Constant")
    return own + inside + sum(weights_in(body) for node in graph.nodes for body in node.graphs.values())


def _merged(many: Iterable[Weights]) -> Weights:
    found: Weights = {}
    for one in many:
        found |= one
    return found


def _weights(tensors: Iterable[Tensor], name: str) -> Weights:
    size = sum(tensor.size for tensor in tensors if tensor.dtype in WEIGHTS)
    return {name: size} if size else {}
