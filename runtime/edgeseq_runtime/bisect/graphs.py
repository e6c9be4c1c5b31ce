"""ONNX graphs to read and to edit without the `onnx` package. Field numbers are those of onnx.proto.

A graph keeps the fields that it was read from; functions here give new fields and change none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime import protobuf
from edgeseq_runtime.errors import BadModel
from edgeseq_runtime.protobuf import (
    Field,
    bytes_field,
    bytes_of,
    integers_of,
    number_field,
    parse,
    serialise,
    text_of,
    texts_of,
)
from edgeseq_runtime.tensors.spec import Array

MAX_DEPTH = 16  # of graphs within graphs
RECURRENT = ("LSTM", "GRU", "RNN")
LOOPS = ("Scan", "Loop")

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_TENSOR, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE = 1, 5, 11, 12, 13
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TYPE, ATTRIBUTE_INTS, ATTRIBUTE_GRAPHS = 1, 5, 6, 20, 8, 11
_TYPE_INTS = 7

DTYPES = {  # TensorProto.DataType -> NumPy's; bfloat16, text and the narrow ones have none there
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
    12: "uint32", 13: "uint64",
}  # fmt: skip
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}

Plain = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


class Attribute(NamedTuple):
    """One attribute of a node: `plain` for numbers and text, else a tensor's bytes, a body, or none of them."""

    name: str
    plain: Plain | None
    tensor: memoryview | None
    body: Graph | None
    raw: memoryview


class Node(NamedTuple):
    """One node. Names of inputs and outputs may be empty where they are optional."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]
    fields: list[Field]

    @property
    def bodies(self) -> dict[str, Graph]:
        """The node's bodies by attribute."""
        return {name: attribute.body for name, attribute in self.attributes.items() if attribute.body is not None}

    def integers(self, name: str) -> tuple[int, ...]:
        """An attribute of integers; empty where it is absent."""
        plain = self.attributes[name].plain if name in self.attributes else ()
        return tuple(int(value) for value in plain) if isinstance(plain, tuple) else ()


class Graph(NamedTuple):
    """A graph or the body of a node."""

    nodes: tuple[Node, ...]
    tensors: dict[str, memoryview]  # initializers: TensorProto bytes by name
    inputs: tuple[str, ...]  # but for initializers
    outputs: tuple[str, ...]
    fields: list[Field]


def read_graph(model: bytes) -> Graph:
    """The main graph of a serialised model.

    Raises:
        BadModel: the bytes are no model, are cut short, or nest too deep.
    """
    found = next((field for field in parse(model) if field.number == MODEL_GRAPH), None)
    if found is None:
        raise BadModel(f"these {len(model)} bytes are no ONNX model: they hold no graph; export the model again")
    return _graph(bytes_of(found), 0)


def with_graph(model: bytes, graph: bytes) -> bytes:
    """The model with another graph."""
    fields = parse(model)
    return serialise(bytes_field(MODEL_GRAPH, graph) if field.number == MODEL_GRAPH else field for field in fields)


def _graph(data: memoryview, depth: int) -> Graph:
    if depth > MAX_DEPTH:
        raise BadModel(f"the ONNX model nests graphs deeper than {MAX_DEPTH}; this release reads no such model")
    fields = parse(data)
    tensors = {text_of(parse(bytes_of(one)), 8): bytes_of(one) for one in fields if one.number == GRAPH_TENSOR}
    names = tuple(text_of(parse(bytes_of(one)), 1) for one in fields if one.number == GRAPH_INPUT)
    return Graph(
        nodes=tuple(_node(bytes_of(one), depth) for one in fields if one.number == GRAPH_NODE),
        tensors=tensors,
        inputs=tuple(name for name in names if name not in tensors),  # models of IR 3 list initializers too
        outputs=tuple(text_of(parse(bytes_of(one)), 1) for one in fields if one.number == GRAPH_OUTPUT),
        fields=fields,
    )


def _node(data: memoryview, depth: int) -> Node:
    fields = parse(data)
    attributes = [_attribute(bytes_of(one), depth) for one in fields if one.number == NODE_ATTRIBUTE]
    domain = text_of(fields, NODE_DOMAIN)
    return Node(
        op=text_of(fields, NODE_OP),
        domain="" if domain == "ai.onnx" else domain,
        name=text_of(fields, NODE_NAME),
        inputs=texts_of(fields, NODE_INPUT),
        outputs=texts_of(fields, NODE_OUTPUT),
        attributes={attribute.name: attribute for attribute in attributes},
        fields=fields,
    )


def _attribute(data: memoryview, depth: int) -> Attribute:
    fields = parse(data)
    tensor = next((bytes_of(one) for one in fields if one.number == ATTRIBUTE_TENSOR), None)
    body = next((_graph(bytes_of(one), depth + 1) for one in fields if one.number == ATTRIBUTE_GRAPH), None)
    return Attribute(text_of(fields, ATTRIBUTE_NAME), _plain(fields), tensor, body, memoryview(data))


def _plain(fields: list[Field]) -> Plain | None:
    kind = next(iter(integers_of(fields, ATTRIBUTE_TYPE)), 0)
    numbers = {field.number for field in fields}
    if kind == 1 or (kind == 0 and 2 in numbers):
        return next(iter(protobuf.floats_of(fields, 2)), 0.0)
    if kind == 2 or (kind == 0 and 3 in numbers):
        return next(iter(integers_of(fields, 3)), 0)
    if kind == 3 or (kind == 0 and 4 in numbers):
        return text_of(fields, 4)
    if kind == 6 or (kind == 0 and 7 in numbers):
        return protobuf.floats_of(fields, 7)
    if kind == _TYPE_INTS or (kind == 0 and 8 in numbers):
        return integers_of(fields, ATTRIBUTE_INTS)
    if kind == 8 or (kind == 0 and 9 in numbers):
        return texts_of(fields, 9)
    return None


def tensor_array(data: memoryview) -> Array | None:
    """A constant as an array; None where NumPy has no such type or the numbers are in another file."""
    fields = parse(data)
    dims = integers_of(fields, 1)
    dtype = DTYPES.get(next(iter(integers_of(fields, 2)), 0))
    raw = next((bytes_of(field) for field in fields if field.number == 9), None)
    if dtype is None or any(field.number == 13 for field in fields):
        return None
    if raw is not None:
        values = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype)
    elif dtype == "float32":
        values = np.array(protobuf.floats_of(fields, 4), dtype)
    elif dtype == "float64":
        values = np.frombuffer(b"".join(bytes_of(field) for field in fields if field.number == 10), "<f8").astype(dtype)
    elif dtype == "float16":
        values = np.array(integers_of(fields, 5), np.uint16).view(np.float16)
    else:
        values = np.array([*integers_of(fields, 5), *integers_of(fields, 7), *integers_of(fields, 11)]).astype(dtype)
    return values.reshape(dims) if values.size == int(np.prod(dims, dtype=np.int64)) else None


def tensor_bytes(name: str, array: Array) -> bytes:
    """A TensorProto that holds an array."""
    fields = [number_field(1, size) for size in array.shape]
    fields += [number_field(2, NUMBERS[array.dtype.name]), bytes_field(8, name)]
    return serialise([*fields, bytes_field(9, np.ascontiguousarray(array).tobytes())])


def value_info(name: str, array: Array | None = None) -> bytes:
    """A ValueInfoProto: a name alone, whose type ONNX Runtime infers, or with the dtype and shape of an array."""
    if array is None:
        return serialise([bytes_field(1, name)])
    shape = serialise(bytes_field(1, serialise([number_field(1, size)])) for size in array.shape)
    tensor = serialise([number_field(1, NUMBERS[array.dtype.name]), bytes_field(2, shape)])
    return serialise([bytes_field(1, name), bytes_field(2, serialise([bytes_field(1, tensor)]))])


def value_of_type(name: str, dtype: str) -> bytes:
    """A ValueInfoProto of a dtype without a shape; of a name alone where the dtype is not known."""
    if dtype not in NUMBERS:
        return value_info(name)
    tensor = serialise([number_field(1, NUMBERS[dtype])])
    return serialise([bytes_field(1, name), bytes_field(2, serialise([bytes_field(1, tensor)]))])


def node_bytes(op: str, inputs: Iterable[str], outputs: Iterable[str]) -> bytes:
    """A node without attributes."""
    names = [bytes_field(NODE_INPUT, name) for name in inputs] + [bytes_field(NODE_OUTPUT, name) for name in outputs]
    return serialise([*names, bytes_field(NODE_OP, op)])


def integers_attribute(name: str, values: Iterable[int]) -> bytes:
    """An attribute that holds a list of integers."""
    items = [number_field(ATTRIBUTE_INTS, value) for value in values]
    return serialise([bytes_field(ATTRIBUTE_NAME, name), *items, number_field(ATTRIBUTE_TYPE, _TYPE_INTS)])


def with_attribute(fields: list[Field], name: str, attribute: bytes) -> list[Field]:
    """A node's fields with one attribute replaced, or added."""
    kept = [one for one in fields if one.number != NODE_ATTRIBUTE or text_of(parse(bytes_of(one)), ATTRIBUTE_NAME) != name]
    return [*kept, bytes_field(NODE_ATTRIBUTE, attribute)]


def body_attribute(attribute: Attribute, body: bytes) -> bytes:
    """The attribute with another body."""
    fields = parse(attribute.raw)
    return serialise(bytes_field(ATTRIBUTE_GRAPH, body) if one.number == ATTRIBUTE_GRAPH else one for one in fields)


def replaced_nodes(graph: Graph, nodes: Mapping[int, bytes]) -> list[Field]:
    """A graph's fields with some nodes replaced, by their place."""
    fields, at = [], -1
    for field in graph.fields:
        at += field.number == GRAPH_NODE
        fields.append(bytes_field(GRAPH_NODE, nodes[at]) if field.number == GRAPH_NODE and at in nodes else field)
    return fields


def first_nodes(model: bytes, count: int) -> bytes:
    """The model with only its first nodes, and what the last of them computes as its outputs; with none, its first input."""
    graph = read_graph(model)
    kept = [field for field in graph.fields if field.number not in (GRAPH_NODE, GRAPH_OUTPUT, GRAPH_VALUE)]
    nodes = [field for field in graph.fields if field.number == GRAPH_NODE][:count]
    if nodes:
        names = [name for name in graph.nodes[count - 1].outputs if name]
    else:
        names = ["edgeseq_first_input"]
        nodes = [bytes_field(GRAPH_NODE, node_bytes("Identity", graph.inputs[:1], names))]
    return with_graph(model, serialise([*kept, *nodes, *(bytes_field(GRAPH_OUTPUT, value_info(name)) for name in names)]))


def captured(graph: Graph) -> tuple[str, ...]:
    """Values that a body reads from the graphs around it, each once."""
    inside = {*graph.inputs, *graph.tensors, *(name for node in graph.nodes for name in node.outputs)}
    names = (name for node in graph.nodes for name in reads(node))
    return tuple(dict.fromkeys(name for name in (*names, *graph.outputs) if name and name not in inside))


def reads(node: Node) -> tuple[str, ...]:
    """Every value that a node reads: its inputs, then what its bodies read from around it."""
    return (*node.inputs, *(name for body in node.bodies.values() for name in captured(body)))


def constants(graph: Graph) -> Iterator[tuple[str, memoryview]]:
    """Initializers and the tensors of `Constant` nodes, by the name of their value."""
    yield from graph.tensors.items()
    for node in graph.nodes:
        held = node.attributes.get("value")
        if node.op == "Constant" and held is not None and held.tensor is not None:
            yield node.outputs[0], held.tensor


def constant_of(name: str, scopes: Sequence[Graph]) -> memoryview | None:
    """The constant of that name that a node sees; None where the name is no constant."""
    for graph in scopes:
        found = next((data for constant, data in constants(graph) if constant == name), None)
        if found is not None:
            return found
    return None
