"""A graph made ready once, node by node, and then run on inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from edgeseq_export.graph64.control import CONTROL
from edgeseq_export.graph64.elementwise import ELEMENTWISE
from edgeseq_export.graph64.linear import LINEAR
from edgeseq_export.graph64.node import Body, Build, FailedNode, Kernel, Node, UnknownOperator, attributes_of, constant, widened
from edgeseq_export.graph64.recurrent import RECURRENT
from edgeseq_export.graph64.reduction import REDUCTIONS
from edgeseq_export.graph64.shapes import SHAPES
from edgeseq_export.reference import single_threaded
from edgeseq_runtime.tensors.spec import Array

OPERATORS: dict[str, Build] = {**ELEMENTWISE, **REDUCTIONS, **SHAPES, **LINEAR, **RECURRENT}


def evaluate_graph64(model: bytes, outputs: Sequence[str]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A serialised ONNX model as a function in float64: named inputs -> the named outputs.

    Float inputs may have any precision; integers, booleans and shapes are as the graph has them.

    Raises:
        UnknownOperator: the graph has an operator that is not known here; the message names each.
        FailedNode: from the function, where a node does not fit its inputs.
    """
    proto = onnx.load_from_string(model)
    unknown = sorted(set(_unknown_operators(proto.graph)))
    if unknown:
        raise UnknownOperator(f"the graph can't be evaluated in float64: no equations for {', '.join(unknown)}")
    graph = Graph64(proto.graph)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with np.errstate(all="ignore"), single_threaded():
            values = graph.values({name: widened(array) for name, array in inputs.items()})
        return {name: values[name] for name in outputs}

    return run


def _unknown_operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or (node.op_type not in OPERATORS and node.op_type not in CONTROL):
            yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for body in _bodies(node):
            yield from _unknown_operators(body)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


class _Step(NamedTuple):
    compute: Callable[[dict[str, Any]], Any]
    outputs: tuple[str, ...]
    label: str


class Graph64:
    """A graph, or the body of a node, whose nodes have their kernels.

    Raises:
        UnknownOperator: a form of an operator that is not known here.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self._constants = {tensor.name: constant(tensor) for tensor in graph.initializer}
        self._steps = [_step(node) for node in graph.node]
        self.captured = _used(graph) - _defined(graph)

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every value of the graph by name, from its inputs and, for a body, what it captures."""
        values = {**self._constants, **given}
        for step in self._steps:
            try:
                found = step.compute(values)
            except FailedNode:
                raise
            # NumPy raises what it likes where shapes or dtypes do not fit.
            except Exception as error:
                raise FailedNode(f"{step.label} can't be evaluated in float64: {type(error).__name__}: {error}") from error
            for name, array in zip(step.outputs, found if isinstance(found, tuple) else (found,), strict=False):
                values[name] = array if type(array) is np.ndarray else np.asarray(array)
        return values

    def body(self, outside: Mapping[str, Any]) -> Body:
        """The graph as a function of its inputs, where it is run among the values of another."""
        captured = {name: outside[name] for name in self.captured}

        def run(inputs: Sequence[Any]) -> list[Any]:
            values = self.values({**captured, **dict(zip(self.inputs, inputs, strict=True))})
            return [values[name] for name in self.outputs]

        return run


def _defined(graph: onnx.GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    return made | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}


def _used(graph: onnx.GraphProto) -> set[str]:
    """Every name that the graph's nodes, its outputs or graphs nested in it read, and do not define themselves where nested."""
    read = {name for node in graph.node for name in node.input if name} | {value.name for value in graph.output}
    return read.union(*(_used(body) - _defined(body) for node in graph.node for body in _bodies(node)))


def _step(node: onnx.NodeProto) -> _Step:
    names = tuple(node.input)
    label = f"{node.op_type} node '{node.name or node.output[0]}'"
    described = Node(node.op_type, node.name, attributes_of(node), len(node.input), len(node.output))
    if node.op_type in CONTROL:
        control = CONTROL[node.op_type](described)
        bodies = {attribute.name: Graph64(attribute.g) for attribute in node.attribute if attribute.HasField("g")}

        def flow(values: dict[str, Any]) -> Any:
            inside = {name: graph.body(values) for name, graph in bodies.items()}
            return control(inside, *(values[name] if name else None for name in names))

        return _Step(flow, tuple(node.output), label)
    kernel: Kernel = OPERATORS[node.op_type](described)
    return _Step(lambda values: kernel(*(values[name] if name else None for name in names)), tuple(node.output), label)
