"""The size of every value of a graph at given sizes of its inputs, loops and branches included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.errors import BadModel
from edgeseq_runtime.forecast.contents import computed
from edgeseq_runtime.forecast.operators import outputs_of
from edgeseq_runtime.forecast.values import UNKNOWN, Numbers, Shape, Value, Values, Weight, constant_value, numbers_value
from edgeseq_runtime.onnx_wire import Graph, Node


class Body(NamedTuple):
    """The graph inside a node, and how often it runs one after another; None where only the data tell."""

    sized: Sized
    times: int | None


class Placed(NamedTuple):
    """A node with what goes in and comes out."""

    node: Node
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    bodies: tuple[Body, ...] = ()


class Sized(NamedTuple):
    """A graph with the size of each of its values."""

    where: str  # names of the nodes it is inside of: "" for the model's own graph
    graph: Graph
    nodes: tuple[Placed, ...]
    values: Values  # those of the graphs around it included

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self.values.get(spec.name, UNKNOWN) for spec in self.graph.outputs)


def sized_graph(graph: Graph, axes: Mapping[str, int], contents: Mapping[str, Numbers] | None = None) -> Sized:
    """The sizes of a model's values.

    Args:
        graph: the model's.
        axes: a size for each named axis of its inputs.
        contents: what inputs of integers hold, where sizes follow from it, as from sequence lengths.

    Raises:
        BadModel: an input has an axis that is not among those given.
    """
    inputs: Values = {}
    for spec in graph.inputs:
        if spec.shape is None or any(isinstance(size, str) and size not in axes for size in spec.shape):
            raise BadModel(f"the model's input '{spec.name}' has the shape {spec.shape}, and sizes are given for {sorted(axes)}")
        shape = tuple(axes[size] if isinstance(size, str) else size for size in spec.shape)
        inputs[spec.name] = Value(shape, spec.dtype, (contents or {}).get(spec.name))
    return _sized(graph, inputs, {}, "")


def _sized(graph: Graph, inputs: Mapping[str, Value], outer: Mapping[str, Value], where: str) -> Sized:
    values: Values = dict(outer)
    values.update({name: constant_value(tensor, where) for name, tensor in graph.tensors.items()})
    values.update(inputs)
    placed = []
    for number, node in enumerate(graph.nodes):
        one = _placed(node, values, f"{where}{node.name or f'{node.op} {number}'}/")
        placed.append(one)
        values.update({name: value for name, value in zip(node.outputs, one.outputs, strict=True) if name})
    return Sized(where, graph, tuple(placed), values)


def _placed(node: Node, values: Values, where: str) -> Placed:
    inputs = tuple(values.get(name, UNKNOWN) if name else None for name in node.inputs)
    if node.op == "Constant":
        return Placed(node, inputs, (_constant(node, where),))
    if node.op == "Scan":
        return _scan(node, inputs, values, where)
    if node.op == "Loop":
        return _loop(node, inputs, values, where)
    if node.op == "If":
        return _if(node, inputs, values, where)
    outputs = outputs_of(node, inputs)
    numbers = computed(node, inputs)
    if numbers is not None:
        outputs = [numbers_value(numbers), *outputs[1:]]
    fixed = [value.weights for value in inputs if value is not None]
    if node.op in ("Shape", "Size") or not all(weights is not None for weights in fixed):
        return Placed(node, inputs, tuple(outputs))
    weights = frozenset[Weight]().union(*(one for one in fixed if one is not None))
    return Placed(node, inputs, tuple(value._replace(weights=weights) for value in outputs))


def _constant(node: Node, where: str) -> Value:
    if "value" in node.tensors:
        return constant_value(node.tensors["value"], where)
    for name in ("value_int", "value_ints"):
        if name in node.integers:
            numbers = np.array(node.integers[name], np.int64)
            return numbers_value(numbers[0] if name == "value_int" else numbers)
    for name in ("value_float", "value_floats"):
        if name in node.floats:
            numbers = np.array(node.floats[name], np.float32)
            return numbers_value(numbers[0] if name == "value_float" else numbers)
    return UNKNOWN


def _scan(node: Node, inputs: tuple[Value | None, ...], values: Values, where: str) -> Placed:
    body = node.graphs.get("body")
    count = node.integers.get("num_scan_inputs", (0,))[0]
    if body is None or not 0 < count <= len(inputs):
        return Placed(node, inputs, (UNKNOWN,) * len(node.outputs))
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = node.integers.get("scan_input_axes", (0,) * count)
    pieces = [_without_axis(value, axis) for value, axis in zip(scanned, axes, strict=True)]
    times = next((size for value, axis in zip(scanned, axes, strict=True) if (size := _size_at(value, axis)) is not None), None)
    sized = _body(body, [*states, *pieces], values, where)
    made = sized.outputs
    out_axes = node.integers.get("scan_output_axes", (0,) * (len(made) - len(states)))
    whole = [_with_axis(value, times, axis) for value, axis in zip(made[len(states) :], out_axes, strict=True)]
    # A state keeps its shape from step to step.
    kept = [made[i] if state is None or state.shape is None else _data(state) for i, state in enumerate(states)]
    return Placed(node, inputs, (*kept, *whole), (Body(sized, times),))


def _loop(node: Node, inputs: tuple[Value | None, ...], values: Values, where: str) -> Placed:
    body = node.graphs.get("body")
    if body is None:
        return Placed(node, inputs, (UNKNOWN,) * len(node.outputs))
    states = inputs[2:]
    limit = inputs[0].numbers if inputs and inputs[0] is not None else None
    # A condition computed in the body may end the loop before its limit.
    times = None if limit is None or _may_end_early(body) else int(limit.ravel()[0])
    number, going = Value((), "int64"), Value((), "bool")
    sized = _body(body, [number, going, *states], values, where)
    made = sized.outputs[1:]
    kept = [_same(state, made[i]) for i, state in enumerate(states)]
    whole = [_with_axis(value, times, 0) for value in made[len(states) :]]
    return Placed(node, inputs, (*kept, *whole), (Body(sized, times),))


def _may_end_early(body: Graph) -> bool:
    """Whether a loop's condition is more than what came in, or a constant."""
    going = body.outputs[0].name if body.outputs else ""
    copied = {node.outputs[0]: node.inputs[0] for node in body.nodes if node.op == "Identity"}
    while going in copied:
        going = copied[going]
    constants = {name for node in body.nodes if node.op == "Constant" for name in node.outputs}
    return going not in {*(spec.name for spec in body.inputs[1:2]), *body.tensors, *constants}


def _if(node: Node, inputs: tuple[Value | None, ...], values: Values, where: str) -> Placed:
    if not {"then_branch", "else_branch"} <= set(node.graphs):
        return Placed(node, inputs, (UNKNOWN,) * len(node.outputs))
    branches = [_body(node.graphs[name], [], values, f"{where}{name}/") for name in ("then_branch", "else_branch")]
    asked = inputs[0].numbers if inputs[0] is not None else None
    if asked is not None:
        taken = branches[0] if asked.ravel()[0] else branches[1]
        return Placed(node, inputs, tuple(_data(value) for value in taken.outputs), (Body(taken, 1),))
    made = [_same(one, other) for one, other in zip(branches[0].outputs, branches[1].outputs, strict=True)]
    return Placed(node, inputs, tuple(made), tuple(Body(branch, 1) for branch in branches))


def _body(body: Graph, given: Sequence[Value | None], values: Values, where: str) -> Sized:
    inputs = {spec.name: _data(value or Value(None, spec.dtype)) for spec, value in zip(body.inputs, given, strict=False)}
    return _sized(body, inputs, values, where)


def _data(value: Value) -> Value:
    """A value whose content varies from step to step, whatever it was made from."""
    return value._replace(numbers=None, weights=None)


def _same(one: Value | None, other: Value) -> Value:
    if one is None or one.shape != other.shape:
        return Value(None, other.dtype)
    return _data(other)


def _size_at(value: Value | None, axis: int) -> int | None:
    return None if value is None or value.shape is None else value.shape[axis]


def _without_axis(value: Value | None, axis: int) -> Value | None:
    if value is None or value.shape is None:
        return value
    at = axis % len(value.shape)
    return Value((*value.shape[:at], *value.shape[at + 1 :]), value.dtype)


def _with_axis(value: Value, size: int | None, axis: int) -> Value:
    if value.shape is None or size is None:
        return Value(None, value.dtype)
    at = axis % (len(value.shape) + 1)
    shape: Shape = (*value.shape[:at], size, *value.shape[at:])
    return Value(shape, value.dtype)
