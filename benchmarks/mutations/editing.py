"""An exported graph as something to edit: nodes of the graph and of the loop bodies in it, their constants, what reads a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
PREFIX = "mutation_"


class Edit(NamedTuple):
    """One place where a graph can be harmed, and the harm."""

    site: str  # unique among the edits of one kind
    apply: Callable[[], object]


Edits = Iterator[Edit]


class Editor:
    """Finds and changes parts of one model, in place. New constants belong to the outer graph, where every body sees them."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self._fresh = 0

    @cached_property
    def types(self) -> dict[str, tuple[int, list[str | int]]]:
        """Element type and sizes of the outer graph's values, as far as ONNX can infer them; unknown sizes are ''."""
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        tensors = {v.name: v.type.tensor_type for v in (*graph.input, *graph.output, *graph.value_info)}
        return {name: (t.elem_type, [d.dim_value or d.dim_param for d in t.shape.dim]) for name, t in tensors.items()}

    def nodes(self, *operators: str) -> list[NodeProto]:
        """Nodes of these operators, of any where none is named, of the graph and of the bodies in it."""
        return [node for graph in self.graphs() for node in graph.node if not operators or node.op_type in operators]

    def graphs(self) -> list[GraphProto]:
        """The graph and the bodies in it."""
        found, pending = [], [self.graph]
        while pending:
            graph = pending.pop(0)
            found.append(graph)
            pending += [a.g for node in graph.node for a in node.attribute if a.type == AttributeProto.GRAPH]
        return found

    def constants(self) -> dict[str, TensorProto]:
        """Initialisers by name."""
        return {tensor.name: tensor for graph in self.graphs() for tensor in graph.initializer}

    def constant(self, node: NodeProto, position: int) -> Array | None:
        """The value of a constant input; None where it is none, or not given."""
        name = node.input[position] if position < len(node.input) else ""
        tensor = self.constants().get(name)
        return None if tensor is None else numpy_helper.to_array(tensor).copy()

    def set_constant(self, name: str, value: Array) -> None:
        """Give an initialiser another value, for all that read it."""
        self.constants()[name].CopyFrom(numpy_helper.from_array(np.array(value, order="C"), name))

    def add_constant(self, value: Array) -> str:
        """A new initialiser."""
        name = self.fresh()
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def set_input(self, node: NodeProto, position: int, value: str | Array) -> None:
        """Make one input of a node another value, or a constant of its own."""
        node.input.extend([""] * (position + 1 - len(node.input)))
        node.input[position] = value if isinstance(value, str) else self.add_constant(value)

    def fresh(self) -> str:
        """A name that nothing has."""
        self._fresh += 1
        return f"{PREFIX}{self._fresh}"

    def insert(
        self, beside: NodeProto, operator: str, inputs: Sequence[str | Array], *, after: bool = False, **attributes: Any
    ) -> str:
        """A new node just before another one, or after it and what was inserted there; the name of its output."""
        graph, at = self.place_of(beside)
        names = [value if isinstance(value, str) else self.add_constant(value) for value in inputs]
        node = helper.make_node(operator, names, [self.fresh()], **attributes)
        if after:
            at += 1
            while at < len(graph.node) and graph.node[at].output[0].startswith(PREFIX):
                at += 1
        graph.node.insert(at, node)
        return str(node.output[0])

    def after(self, node: NodeProto) -> Callable[..., str]:
        """`insert` after a node."""
        return partial(self.insert, node, after=True)

    def place_of(self, node: NodeProto) -> tuple[GraphProto, int]:
        """The graph or body that holds a node, and where in it."""
        return next((graph, at) for graph in self.graphs() for at, each in enumerate(graph.node) if each.output == node.output)

    def readers(self, name: str) -> list[tuple[NodeProto, int]]:
        """Every node and input position that reads a value."""
        return [(node, at) for node in self.nodes() for at, value in enumerate(node.input) if value == name]

    def is_output(self, name: str) -> bool:
        """Whether the graph or a body gives this value away."""
        return any(output.name == name for graph in self.graphs() for output in graph.output)

    def replace(self, node: NodeProto, position: int, make: Callable[[str], str]) -> None:
        """Put what `make` makes of an output in its place, for all that read it, outputs of the graph included."""
        name = node.output[position]
        inner = self.fresh()
        node.output[position] = inner
        made = make(inner)
        producer = next(each for each in self.nodes() if made in each.output)
        producer.output[list(producer.output).index(made)] = name

    def remove(self, node: NodeProto, instead: str) -> None:
        """Take a node out; whatever read its first output reads another value."""
        graph, at = self.place_of(node)
        del graph.node[at]
        graph.node.insert(at, helper.make_node("Identity", [instead], [node.output[0]]))


def number(value: float) -> Array:
    """A float32 without dimensions."""
    return np.array(value, np.float32)


def label(node: NodeProto) -> str:
    """A node by its operator and the first output that it has."""
    return f"{node.op_type} {next(filter(None, node.output))}"


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, text as `str`."""
    for found in node.attribute:
        if found.name == name:
            value = helper.get_attribute_value(found)
            if isinstance(value, bytes):
                return value.decode()
            return [v.decode() for v in value] if value and isinstance(value, list) and isinstance(value[0], bytes) else value
    return default


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Set an attribute; None removes it."""
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])


def is_float(tensor: TensorProto) -> bool:
    """Whether a constant holds weights rather than sizes or indices."""
    return bool(tensor.data_type == onnx.TensorProto.FLOAT)
