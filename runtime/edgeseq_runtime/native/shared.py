"""What all programs of a model share: its constants, and what has been made of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.native.constants import array_of
from edgeseq_runtime.native.values import Value, address_of
from edgeseq_runtime.onnx_wire import Graph, Node
from edgeseq_runtime.tensors.spec import Array


class Uses(NamedTuple):
    """Of the names in a graph."""

    ending: list[list[str]]  # for each node, those that no node after it reads
    single: frozenset[str]  # those that are read once


class Shared:
    """Of one model. Not for several threads at once."""

    def __init__(self, graph: Graph) -> None:
        self.constants = {id(one): {name: array_of(tensor) for name, tensor in one.tensors.items()} for one in graphs_in(graph)}
        self.uses = {id(one): uses_of(one) for one in graphs_in(graph)}
        for one in graphs_in(graph):  # whose tensors point to the model's bytes, which nothing else needs any longer
            one.tensors.update({name: tensor._replace(data=()) for name, tensor in one.tensors.items()})
        self._permanent = {id(array) for held in self.constants.values() for array in held.values()}
        self._made: dict[object, tuple[object, object]] = {}  # key -> what was made, and of what, so that its address stays its own

    def once(self, kind: str, source: Array, make: Callable[[Array], Array]) -> Array:
        """What is made of an array: once, if it does not depend on sizes."""
        key = (kind, *_where(source))
        if key in self._made:
            return self._made[key][0]  # type: ignore[return-value]
        made = make(source)
        if self._stays(source):
            self._made[key] = made, source
        return made

    def computed(self, node: Node, inputs: Sequence[Value | None], compute: Callable[[], Sequence[Value]]) -> Sequence[Value]:
        """The results of a node that depends on constants alone: computed once, if they don't depend on sizes."""
        arrays = [None if value is None else value.array for value in inputs]
        key = (id(node), *(None if array is None else _where(array) for array in arrays))
        if key in self._made:
            return self._made[key][0]  # type: ignore[return-value]
        results = compute()
        if all(array is None or self._stays(array) for array in arrays):
            self._made[key] = results, arrays
            self._permanent |= {id(_owner(value.array)) for value in results}
        return results

    def _stays(self, array: Array) -> bool:
        """Whether the model holds it, rather than one program."""
        return id(_owner(array)) in self._permanent


def _where(array: Array) -> tuple[object, ...]:
    return address_of(array), array.shape, array.strides


def _owner(array: Array) -> Array:
    """The array whose memory this is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def graphs_in(graph: Graph) -> Iterator[Graph]:
    """A graph and those of its loops."""
    yield graph
    for node in graph.nodes:
        for body in node.graphs.values():
            yield from graphs_in(body)


def uses_of(graph: Graph) -> Uses:
    """How often and when for the last time each value is read; a graph's outputs stay."""
    last: dict[str, int] = {}
    count: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        last.update(dict.fromkeys((name for name in node.outputs if name), index))
        for name in names_read(node):
            last[name] = index
            count[name] = count.get(name, 0) + 1
    outputs = {output.name for output in graph.outputs}
    ending: list[list[str]] = [[] for _ in graph.nodes]
    for name, index in last.items():
        if name not in outputs:
            ending[index].append(name)
    return Uses(ending, frozenset(name for name, times in count.items() if times == 1 and name not in outputs))


def names_read(node: Node) -> list[str]:
    """What a node reads, in its bodies too, each as often as it does."""
    found = [name for name in node.inputs if name]
    for body in node.graphs.values():
        own = {one.name for one in body.inputs} | set(body.tensors)
        for inner in body.nodes:
            found += [name for name in names_read(inner) if name not in own]
            own |= set(inner.outputs)
        found += [output.name for output in body.outputs if output.name not in own]
    return found
