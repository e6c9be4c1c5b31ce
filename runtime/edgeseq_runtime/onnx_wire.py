"""The parts of an ONNX model that a drawing and a forecast need, read from its bytes without the `onnx` package.

Field numbers are those of onnx.proto. Tensors' data is pointed at, never copied, but for the few integers that are shapes, axes
and bounds of slices: a model of a gigabyte is read as fast as its nodes. Nothing is trusted: every length is checked against the
bytes that are there, and graphs nest to a limit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from edgeseq_runtime.errors import BadModel
from edgeseq_runtime.protobuf import integers_in, read_fields

MAX_DEPTH = 16  # of graphs within graphs
MAX_INTEGERS = 1024  # of a constant that is read: more are no shape
ELEMENT_TYPES = (
    "undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64",
    "uint32", "uint64", "complex64", "complex128", "bfloat16",
)  # fmt: skip

_INTEGERS = {"int64": "q", "int32": "i"}  # dtype -> its letter in `struct`
_DATA_FIELDS = (4, 5, 7, 9, 10)  # floats, 32-bit integers, 64-bit integers, raw bytes, doubles

Value = int | memoryview


class Tensor(NamedTuple):
    """A constant: what it is, and of integers that may be a shape what it holds."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    integers: tuple[int, ...] | None = None  # in order; None for floats, for more than MAX_INTEGERS and for data in other files
    data: tuple[tuple[int, Value], ...] = ()  # fields that hold its elements, by number, where they lie in the model's bytes

    @property
    def size(self) -> int:
        """How many elements."""
        size = 1
        for dim in self.dims:
            size *= dim
        return size


class ValueInfo(NamedTuple):
    """A graph's input or output. `shape` is None where it is not declared; a size without a value or name is `?`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


class Node(NamedTuple):
    """One node, with its attributes that are numbers or text, its constants and its subgraphs."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, tuple[int, ...]]
    texts: dict[str, str]
    tensors: dict[str, Tensor]
    graphs: dict[str, Graph]
    floats: dict[str, tuple[float, ...]]
    lists: dict[str, tuple[str, ...]]  # of text


class Graph(NamedTuple):
    """A graph, or the body of a node."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    tensors: dict[str, Tensor]


class Model(NamedTuple):
    """A model."""

    ir_version: int
    opsets: dict[str, int]  # domain -> version; the standard one is ""
    producer: str
    graph: Graph


def read_model(data: bytes) -> Model:
    """The model in the bytes of an `.onnx` file.

    Raises:
        BadModel: the bytes are no model, are cut short, or nest too deep.
    """
    ir_version, producer, graph = 0, "", None
    opsets: dict[str, int] = {}
    for number, value, _ in read_fields(memoryview(data), "model"):
        if number == 1:
            ir_version = _integer(value, "model")
        elif number == 2:
            producer = _text(value, "model")
        elif number == 7:
            graph = _graph(_bytes(value, "graph"), 0)
        elif number == 8:
            domain, version = _opset(_bytes(value, "opset"))
            opsets[domain] = version
    if graph is None:
        raise BadModel(f"these {len(data)} bytes are no ONNX model: they hold no graph; export the model again")
    return Model(ir_version, opsets, producer, graph)


def names_read(node: Node) -> Iterator[str]:
    """The names a node reads, those that its bodies take from outside included."""
    yield from (name for name in node.inputs if name)
    for body in node.graphs.values():
        yield from free_names(body)


def free_names(graph: Graph) -> Iterator[str]:
    """The names a graph takes from outside."""
    own = {*graph.tensors, *(spec.name for spec in graph.inputs), *(name for node in graph.nodes for name in node.outputs)}
    asked = [spec.name for spec in graph.outputs]
    for name in (*(name for node in graph.nodes for name in names_read(node)), *asked):
        if name not in own:
            yield name


def _opset(data: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, value, _ in read_fields(data, "opset"):
        if number == 1:
            domain = _text(value, "opset")
        elif number == 2:
            version = _integer(value, "opset")
    return domain, version


def _graph(data: memoryview, depth: int) -> Graph:
    if depth > MAX_DEPTH:
        raise BadModel(f"the ONNX model nests graphs deeper than {MAX_DEPTH}; this release reads no such model")
    name = ""
    nodes: list[Node] = []
    inputs: list[ValueInfo] = []
    outputs: list[ValueInfo] = []
    tensors: dict[str, Tensor] = {}
    for number, value, _ in read_fields(data, "graph"):
        if number == 1:
            nodes.append(_node(_bytes(value, "node"), depth))
        elif number == 2:
            name = _text(value, "graph")
        elif number == 5:
            tensor = _tensor(_bytes(value, "tensor"))
            tensors[tensor.name] = tensor
        elif number == 11:
            inputs.append(_value_info(_bytes(value, "input")))
        elif number == 12:
            outputs.append(_value_info(_bytes(value, "output")))
    # Models of IR 3 list their constants among the inputs too.
    return Graph(name, tuple(nodes), tuple(one for one in inputs if one.name not in tensors), tuple(outputs), tensors)


def _node(data: memoryview, depth: int) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    words = {3: "", 4: "", 7: ""}
    node = Node("", "", "", (), (), {}, {}, {}, {}, {}, {})
    for number, value, _ in read_fields(data, "node"):
        if number == 1:
            inputs.append(_text(value, "node"))
        elif number == 2:
            outputs.append(_text(value, "node"))
        elif number in words:
            words[number] = _text(value, "node")
        elif number == 5:
            _add_attribute(node, _bytes(value, "attribute"), depth)
    return node._replace(op=words[4], domain=words[7], name=words[3], inputs=tuple(inputs), outputs=tuple(outputs))


def _add_attribute(node: Node, data: memoryview, depth: int) -> None:
    name = ""
    integers: list[int] = []
    found = False
    text: str | None = None
    graphs: list[Graph] = []
    tensor: Tensor | None = None
    floats: list[float] = []
    texts: list[str] = []
    for number, value, _ in read_fields(data, "attribute"):
        if number == 1:
            name = _text(value, "attribute")
        elif number in (2, 7):
            floats += _unpacked("f", _bytes(value, "attribute"), "attribute")
        elif number == 3:
            integers, found = [_integer(value, "attribute")], True
        elif number == 4:
            text = _text(value, "attribute")
        elif number == 5:
            tensor = _tensor(_bytes(value, "attribute"))
        elif number in (6, 11):
            graphs.append(_graph(_bytes(value, "attribute"), depth + 1))
        elif number == 8:
            integers += integers_in(value, "attribute")
            found = True
        elif number == 9:
            texts.append(_text(value, "attribute"))
    if found:
        node.integers[name] = tuple(integers)
    if text is not None:
        node.texts[name] = text
    if tensor is not None:
        node.tensors[name] = tensor
    if floats:
        node.floats[name] = tuple(floats)
    if texts:
        node.lists[name] = tuple(texts)
    for index, graph in enumerate(graphs):
        node.graphs[name if len(graphs) == 1 else f"{name} {index}"] = graph


def _tensor(data: memoryview) -> Tensor:
    dims: list[int] = []
    held: list[tuple[int, Value]] = []
    kind, name = 0, ""
    for number, value, _ in read_fields(data, "tensor"):
        if number == 1:
            dims += integers_in(value, "tensor")
        elif number == 2:
            kind = _integer(value, "tensor")
        elif number == 8:
            name = _text(value, "tensor")
        elif number in _DATA_FIELDS:
            held.append((number, value))
    if any(dim < 0 for dim in dims):
        raise BadModel(f"the ONNX model holds the tensor {name!r} with a negative size {dims}; export the model again")
    tensor = Tensor(name, element_type(kind), tuple(dims), data=tuple(held))
    if tensor.dtype not in _INTEGERS or tensor.size > MAX_INTEGERS:
        return tensor
    found: list[int] = []
    for number, value in held:
        if number not in (5, 7, 9):
            return tensor
        found += (
            integers_in(value, "tensor") if number != 9 else _unpacked(_INTEGERS[tensor.dtype], _bytes(value, "tensor"), "tensor")
        )
    return tensor._replace(integers=tuple(found)) if len(found) == tensor.size else tensor


def _value_info(data: memoryview) -> ValueInfo:
    name, dtype = "", ""
    shape: tuple[int | str, ...] | None = None
    for number, value, _ in read_fields(data, "value"):
        if number == 1:
            name = _text(value, "value")
        elif number == 2:
            for kind, inner, _ in read_fields(_bytes(value, "type"), "type"):
                if kind == 1:
                    dtype, shape = _tensor_type(_bytes(inner, "type"))
    return ValueInfo(name, dtype, shape)


def _tensor_type(data: memoryview) -> tuple[str, tuple[int | str, ...] | None]:
    dtype = ""
    shape: tuple[int | str, ...] | None = None
    for number, value, _ in read_fields(data, "type"):
        if number == 1:
            dtype = element_type(_integer(value, "type"))
        elif number == 2:
            shape = tuple(_dim(_bytes(dim, "shape")) for one, dim, _ in read_fields(_bytes(value, "shape"), "shape") if one == 1)
    return dtype, shape


def _dim(data: memoryview) -> int | str:
    size: int | str = "?"
    for number, value, _ in read_fields(data, "dimension"):
        if number == 1:
            size = _integer(value, "dimension")
        elif number == 2:
            size = _text(value, "dimension")
    return size


def element_type(kind: int) -> str:
    """NumPy's name for ONNX's number of a type of elements."""
    return ELEMENT_TYPES[kind] if 0 <= kind < len(ELEMENT_TYPES) else f"type {kind}"


def _integer(value: Value, where: str) -> int:
    if not isinstance(value, int):
        raise BadModel(f"the ONNX model is damaged: a {where} holds bytes where a number belongs; export the model again")
    (signed,) = integers_in(value)
    return signed


def _bytes(value: Value, where: str) -> memoryview:
    if isinstance(value, int):
        raise BadModel(f"the ONNX model is damaged: a {where} is a number; export the model again")
    return value


def _unpacked(kind: str, data: memoryview, where: str) -> tuple[Any, ...]:
    """Numbers of one size, side by side."""
    count, left = divmod(len(data), struct.calcsize(f"<{kind}"))
    if left:
        raise BadModel(f"the ONNX model is damaged: {len(data)} bytes in a {where} are no whole numbers; export the model again")
    return struct.unpack(f"<{count}{kind}", data)


def _text(value: Value, where: str) -> str:
    return bytes(_bytes(value, where)).decode("utf-8", "replace")
