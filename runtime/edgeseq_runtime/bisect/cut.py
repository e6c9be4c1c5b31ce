"""A node cut out of its graph, with what it reads, as a model of its own.

Nodes that only one of the graphs has are taken along, back to values that both have. A node of a body is cut out for the step in
which it first differs: its inputs are what the reference computed for it then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.align import Level, Pair
from edgeseq_runtime.bisect.computation import Computation
from edgeseq_runtime.bisect.differences import level_graphs
from edgeseq_runtime.bisect.expose import Place, Value
from edgeseq_runtime.bisect.graphs import Graph, Node, constant_of
from edgeseq_runtime.protobuf import Field, bytes_field, parse, serialise
from edgeseq_runtime.tensors.spec import Array


class NotShown(Exception):
    """A value that a cut needs can't be had."""


class Spotted(NamedTuple):
    """A node among aligned graphs, and the step of each loop around it."""

    level: Level  # of the main graphs
    pair: Pair
    iterations: tuple[int, ...]


class Piece(NamedTuple):
    """Nodes of one graph with the constants they read; what else they read becomes an input."""

    nodes: tuple[Node, ...]
    constants: dict[str, memoryview]
    inputs: tuple[str, ...]

    def model(self, whole: bytes, arrays: Mapping[str, Array], outputs: list[str]) -> bytes:
        """A model of these nodes alone, of the versions that the whole one declares."""
        fields: list[Field] = [bytes_field(graphs.GRAPH_NODE, serialise(node.fields)) for node in self.nodes]
        fields.append(bytes_field(2, "reproduction"))
        fields += [bytes_field(graphs.GRAPH_TENSOR, _renamed(data, name)) for name, data in self.constants.items()]
        fields += [bytes_field(graphs.GRAPH_INPUT, graphs.value_info(name, arrays[name])) for name in self.inputs]
        fields += [bytes_field(graphs.GRAPH_OUTPUT, graphs.value_info(name)) for name in outputs]
        return graphs.with_graph(whole, serialise(fields))


def _renamed(data: memoryview, name: str) -> bytes:
    """A tensor under the name of the value that holds it: a `Constant` node's has its own or none."""
    return serialise([*(field for field in parse(data) if field.number != 8), bytes_field(8, name)])


class Side:
    """One of the two graphs, seen from the node that was found."""

    def __init__(
        self, node: Spotted, reference: Computation, inputs: Mapping[str, Array], suspect: Computation | None = None
    ) -> None:
        """The suspect's side where its computation is given, else the reference's."""
        level, pair = node.level, node.pair
        self._spotted = node
        self._reference, self._suspect, self._inputs = reference, suspect, inputs
        self._node = pair.reference if suspect is None else pair.suspect
        self._reference_scopes = level_graphs(level, pair)[1]
        self._scopes = self._reference_scopes if suspect is None else level_graphs(level, pair)[0]
        values = level.at(pair.place).values
        self._answers = {name: name for name in values.values()} if suspect is None else values

    def cut(self, depth: int) -> Piece:
        """The node, those before it up to a depth, and beyond that those whose values the other graph has not."""
        nodes: dict[int, tuple[int, int, Node]] = {}
        constants: dict[str, memoryview] = {}
        inputs: list[str] = []
        left = [(name, depth - 1) for name in graphs.reads(self._node)]
        seen: dict[str, int] = {}
        while left:
            name, more = left.pop()
            if not name or seen.get(name, -1) >= more:
                continue
            seen[name] = more
            constant = constant_of(name, self._scopes)
            maker = self._maker(name)
            if constant is not None:
                constants[name] = constant
            elif maker is not None and (more > 0 or name not in self._answers):
                nodes[id(maker[2])] = maker
                left += [(read, more - 1) for read in graphs.reads(maker[2])]
            else:
                inputs.append(name)
        made = {name for _, _, node in nodes.values() for name in node.outputs}
        ordered = [node for _, _, node in sorted(nodes.values(), key=lambda one: (-one[0], one[1]))]
        given = tuple(sorted({name for name in inputs if name not in made}))
        return Piece((*ordered, self._node), constants, given)

    def _maker(self, name: str) -> tuple[int, int, Node] | None:
        """The node that makes a value, how many graphs out, and its place there."""
        for out, graph in enumerate(self._scopes):
            for index, node in enumerate(graph.nodes):
                if name in node.outputs:
                    return out, index, node
        return None

    def array(self, name: str) -> Array:
        """What the reference computed for a value in the step that was found; what only the suspect has, as the suspect did."""
        answer = self._answers.get(name)
        if answer is not None:
            return self._array(self._reference, self._reference_scopes, self._spotted.pair.reference_place, answer)
        if self._suspect is None:
            raise NotShown
        return self._array(self._suspect, self._scopes, self._spotted.pair.place, name)

    def _array(self, computation: Computation, scopes: list[Graph], place: Place, name: str) -> Array:
        out = next((at for at, graph in enumerate(scopes) if _has(graph, name)), None)
        if out is None:
            raise NotShown
        value = Value(place[: len(scopes) - 1 - out], name)
        if not value.place and name in self._inputs:
            return self._inputs[name]
        seen = computation.values([value], self._inputs).get(value)
        if seen is None:
            raise NotShown
        return np.asarray(seen.array[self._spotted.iterations[: len(value.place)]])


def _has(graph: Graph, name: str) -> bool:
    return name in graph.inputs or any(name in node.outputs for node in graph.nodes)


def fed(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Of some arrays those that a model takes."""
    return {name: inputs[name] for name in graphs.read_graph(model).inputs}
