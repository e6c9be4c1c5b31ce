"""Make values inside a graph outputs of it, so that they can be looked at: those of the graph itself and those in bodies.

A value of a `Scan` or `Loop` body becomes one more output of the body, hence one more output of the node, with the steps as its
first axis in the order in which they run; in a body within a body, with the outer steps before the inner. `If` has no steps: its
branches are looked at as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.graphs import Graph, read_graph, tensor_array, tensor_bytes, with_graph
from edgeseq_runtime.protobuf import Field, bytes_field, bytes_of, parse, serialise, text_of
from edgeseq_runtime.tensors.spec import Array

FRESH = "edgeseq_exposed_"

Place = tuple[int, ...]  # of a graph: the nodes whose bodies lead to it, from the outside in; () is the main graph


class Value(NamedTuple):
    """A value by where it is: a graph, and the name there."""

    place: Place
    name: str


class Exposed(NamedTuple):
    """A model with more outputs, and what each value is called among them."""

    model: bytes
    names: dict[Value, str]


def expose(model: bytes, values: Sequence[Value], dtypes: Mapping[Value, str] | None = None) -> Exposed:
    """The model with these values as outputs: outputs of nodes, and in bodies the bodies' inputs too.

    `dtypes` are declared where they are known: ONNX Runtime infers them, TensorRT's importer does not.
    """
    fresh = _Fresh(model)
    fields, names = _expose(read_graph(model), list(values), (), fresh, dtypes or {})
    return Exposed(with_graph(model, serialise(fields)), names)


class _Fresh:
    """Names that no value of the model has."""

    def __init__(self, model: bytes) -> None:
        self._used = model.count(FRESH.encode())

    def __call__(self) -> str:
        self._used += 1
        return f"{FRESH}{self._used}"


def _expose(
    graph: Graph, values: list[Value], place: Place, fresh: _Fresh, dtypes: Mapping[Value, str]
) -> tuple[list[Field], dict[Value, str]]:
    """The fields of one graph with its values, and those of bodies below, as outputs; and their names there."""
    depth = len(place)
    names = {value: value.name for value in values if value.place == place}
    nodes: dict[int, bytes] = {}
    for index in sorted({value.place[depth] for value in values if len(value.place) > depth}):
        below = [value for value in values if value.place[: depth + 1] == (*place, index)]
        nodes[index], found = _expose_body(graph.nodes[index], below, (*place, index), fresh, dtypes)
        names |= found
    fields = graphs.replaced_nodes(graph, nodes)
    taken = {*graph.outputs} if place else set()
    for value, name in list(names.items()):
        if place and (name in taken or name in graph.inputs):  # a body may not give one value twice, nor its input as it is
            names[value] = fresh()
            fields.append(bytes_field(graphs.GRAPH_NODE, graphs.node_bytes("Identity", [name], [names[value]])))
        taken.add(names[value])
    declared = set(graph.outputs)
    new = {name: dtypes.get(value, "") for value, name in names.items() if name not in declared}
    infos = (graphs.value_of_type(name, dtype) for name, dtype in new.items())
    return [*fields, *(bytes_field(graphs.GRAPH_OUTPUT, info) for info in infos)], names


def _expose_body(
    node: graphs.Node, values: list[Value], place: Place, fresh: _Fresh, dtypes: Mapping[Value, str]
) -> tuple[bytes, dict[Value, str]]:
    """A `Scan` or `Loop` with more outputs, and their names."""
    body = node.bodies["body"]
    inner, inner_names = _expose(body, values, place, fresh, dtypes)
    outer_names = {value: fresh() for value in inner_names}
    fields = graphs.with_attribute(node.fields, "body", graphs.body_attribute(node.attributes["body"], serialise(inner)))
    # Trailing outputs may have been left out; names stand for them so that the new ones come after.
    missing = len(body.outputs) - (node.op == "Loop") - len(node.outputs)
    fields += [bytes_field(graphs.NODE_OUTPUT, fresh()) for _ in range(missing)]
    fields += [bytes_field(graphs.NODE_OUTPUT, name) for name in outer_names.values()]
    for attribute in ("scan_output_axes", "scan_output_directions"):
        if given := node.integers(attribute):
            longer = graphs.integers_attribute(attribute, (*given, *[0] * len(outer_names)))
            fields = graphs.with_attribute(fields, attribute, longer)
    return serialise(fields), outer_names


def name_unused_outputs(model: bytes) -> bytes:
    """The model with a name for the `Y` of each recurrent node that leaves it out: the only output with a time axis."""
    graph = read_graph(model)
    nodes = {
        index: serialise(_named(node.fields, f"{next(filter(None, node.outputs))}/Y"))
        for index, node in enumerate(graph.nodes)
        if node.op in graphs.RECURRENT and node.outputs and not node.outputs[0] and any(node.outputs)
    }
    return with_graph(model, serialise(graphs.replaced_nodes(graph, nodes))) if nodes else model


def _named(fields: list[Field], name: str) -> list[Field]:
    first = next(at for at, field in enumerate(fields) if field.number == graphs.NODE_OUTPUT)
    return [*fields[:first], bytes_field(graphs.NODE_OUTPUT, name), *fields[first + 1 :]]


def nudged(model: bytes, random: np.random.Generator) -> bytes:
    """The model with every constant of floats moved by one unit in its last place, up or down at random."""
    return with_graph(model, _nudged(read_graph(model), random))


def _nudged(graph: Graph, random: np.random.Generator) -> bytes:
    fields = []
    nodes = iter(graph.nodes)
    for field in graph.fields:
        if field.number == graphs.GRAPH_TENSOR:
            fields.append(bytes_field(field.number, _nudged_tensor(bytes_of(field), random)))
        elif field.number == graphs.GRAPH_NODE:
            fields.append(_nudged_node(next(nodes), field, random))
        else:
            fields.append(field)
    return serialise(fields)


def _nudged_node(node: graphs.Node, field: Field, random: np.random.Generator) -> Field:
    fields = node.fields
    for name, body in node.bodies.items():
        fields = graphs.with_attribute(fields, name, graphs.body_attribute(node.attributes[name], _nudged(body, random)))
    return field if fields is node.fields else bytes_field(field.number, serialise(fields))


def _nudged_tensor(data: memoryview, random: np.random.Generator) -> bytes | memoryview:
    array = tensor_array(data)
    if array is None or not np.issubdtype(array.dtype, np.floating):
        return data
    return tensor_bytes(text_of(parse(data), 8), nudge(array, random))


def nudge(array: Array, random: np.random.Generator) -> Array:
    """Floats moved by one unit in their last place, up or down at random; all else as it is.

    So are whole numbers: they hold no rounding, and an exponent of 2 that is moved makes a power of negative numbers undefined.
    """
    if not np.issubdtype(array.dtype, np.floating):
        return array
    towards = np.where(random.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    moved = np.nextafter(array, towards)
    return np.where(np.isfinite(array) & (array != np.rint(array)), moved, array).astype(array.dtype)
