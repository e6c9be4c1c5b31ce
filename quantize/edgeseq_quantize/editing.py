"""A graph being changed: constants read and added, names that nothing else has, nodes put in the place of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseq_runtime.tensors.spec import Array

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators

Rule = Callable[[onnx.NodeProto], "Sequence[onnx.NodeProto] | None"]  # what to put in a node's place; None to keep it


class Editing:
    """A model whose nodes are replaced. Values keep their names: what takes a node's place gives the node's outputs."""

    def __init__(self, model: bytes) -> None:
        self._model = onnx.load_from_string(model)
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._uses = Counter(name for node in self.nodes() for name in node.input)
        self._names = set(self._constants) | {name for node in self.nodes() for name in (*node.input, *node.output)}
        for graph in _graphs_of(self._model.graph):
            self._names |= {value.name for value in (*graph.input, *graph.output)}

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Every node, those of bodies and branches included."""
        return (node for graph in _graphs_of(self._model.graph) for node in graph.node)

    def constant(self, name: str) -> Array | None:
        """The value of an initializer of the main graph; None where the name is another value's."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def uses(self, name: str) -> int:
        """How many inputs of nodes read a value, in all graphs."""
        return self._uses[name]

    def fresh(self, name: str) -> str:
        """A name like this one that no value has."""
        found = name
        for number in range(1, len(self._names) + 2):
            if found not in self._names:
                break
            found = f"{name}_{number}"
        self._names.add(found)
        return found

    def add_constant(self, name: str, value: Array) -> str:
        """Add an initializer to the main graph, where every graph sees it. Returns its name, like the one given."""
        name = self.fresh(name)
        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def rewrite(self, rule: Rule) -> None:
        """Apply a rule to every node, those of bodies and branches included."""
        _rewrite(self._model.graph, rule)

    def finish(self) -> bytes:
        """The model, without the constants that nothing reads any more, and with the domains that it needs."""
        graph = self._model.graph
        read = {name for node in self.nodes() for name in node.input} | {value.name for value in graph.output}
        _keep(graph.initializer, lambda tensor: tensor.name in read)
        made = {name for node in graph.node for name in node.output}
        _keep(graph.value_info, lambda value: value.name in made)
        declared = {opset.domain for opset in self._model.opset_import}
        for domain in sorted({node.domain for node in self.nodes()} - declared - {"", "ai.onnx"}):
            self._model.opset_import.append(helper.make_opsetid(domain, 1))
        return bytes(self._model.SerializeToString(deterministic=True))


class Nodes:
    """Nodes that take the place of one, in order; the values between them get names after its first output."""

    def __init__(self, editing: Editing, prefix: str) -> None:
        self.editing = editing
        self.made: list[onnx.NodeProto] = []
        self._prefix = prefix

    def constant(self, name: str, value: Array) -> str:
        """A constant of the main graph."""
        return self.editing.add_constant(f"{self._prefix}_{name}", value)

    def name(self, name: str) -> str:
        """A name for a value."""
        return self.editing.fresh(f"{self._prefix}_{name}")

    def add(self, operator: str, inputs: Sequence[str], name: str, *, domain: str = "", **attributes: Any) -> str:
        """A node with one output, which is called like `name`; the output."""
        (output,) = self.add_many(operator, inputs, [self.name(name)], domain=domain, **attributes)
        return output

    def add_many(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> Sequence[str]:
        """A node with outputs of these very names; the outputs."""
        self.made.append(helper.make_node(operator, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node, by name; texts as `str`."""
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    return {name: _text(value) for name, value in found.items()}


def input_of(node: onnx.NodeProto, position: int) -> str:
    """The name of an input; empty where it was left out."""
    return node.input[position] if position < len(node.input) else ""


def output_of(node: onnx.NodeProto, position: int) -> str:
    """The name of an output; empty where it was left out."""
    return node.output[position] if position < len(node.output) else ""


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return [_text(one) for one in value] if isinstance(value, list) else value


def _graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for body in _bodies_of(graph):
        yield from _graphs_of(body)


def _bodies_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g


def _rewrite(graph: onnx.GraphProto, rule: Rule) -> None:
    for body in _bodies_of(graph):
        _rewrite(body, rule)
    nodes = [other for node in graph.node for other in (rule(node) or [node])]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [one for one in field if wanted(one)]
    del field[:]
    field.extend(kept)
