"""What all programs of a model share: its constants, and what has been made of them once."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgeseq_runtime.native.constants import array_of, numbers_of
from edgeseq_runtime.native.values import Value, address_of
from edgeseq_runtime.onnx_wire import Graph, Node, Tensor, names_read
from edgeseq_runtime.tensors.spec import Array

LAYERS = ("LSTM", "GRU", "RNN")
LARGE = 1 << 16  # bytes of weights from which on it counts that there is one copy


class Shared:
    """Of one model. Not for several threads at once."""

    def __init__(self, graph: Graph) -> None:
        self._unread: dict[int, Tensor] = {}  # weights that have a place and were not copied there, by the id of its array
        self._read: set[int] = set()  # those of them that have been packed
        self._permanent: set[int] = set()  # ids of arrays that don't depend on sizes
        alone = weights_of_layers_alone(graph)
        self.constants = {
            id(one): {name: self._held(tensor, deferred=name in alone) for name, tensor in one.tensors.items()}
            for one in graphs_in(graph)
        }
        self.endings = {id(one): endings_in(one) for one in graphs_in(graph)}
        for one in graphs_in(graph):  # whose tensors point to the model's bytes, which nothing else needs any longer
            one.tensors.update({name: tensor._replace(data=()) for name, tensor in one.tensors.items()})
        self._made: dict[object, tuple[object, object]] = {}  # key -> what was made, and of what, so that its address stays its own

    def once(self, kind: str, source: Array, make: Callable[[Array], Array]) -> Array:
        """What is made of an array: once, if it does not depend on sizes."""
        key = (kind, *_where(source))
        if key in self._made:
            return self._made[key][0]  # type: ignore[return-value]
        made = make(self._content(source))
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

    def forget_what_is_packed(self) -> None:
        """Let go of the model's bytes, once a whole program has been written: every program packs the same weights alike."""
        for number in self._read:
            self._unread[number] = self._unread[number]._replace(data=())
        self._read.clear()

    def _held(self, tensor: Tensor, *, deferred: bool) -> Array:
        """A constant; of weights that are only ever packed, the place alone, in memory that is never touched and so not there."""
        if not deferred or tensor.dtype != "float32" or 4 * tensor.size < LARGE:
            array = array_of(tensor)
            self._permanent.add(id(array))
            return array
        numbers_of(tensor)  # raises where they can't be read
        place = np.frombuffer(mmap.mmap(-1, 4 * tensor.size), np.float32)
        self._permanent.add(id(place))
        self._unread[id(place)] = tensor
        return place.reshape(tensor.dims)

    def _content(self, source: Array) -> Array:
        """What an array holds, also where only its place is there."""
        owner = _owner(source)
        tensor = self._unread.get(id(owner))
        if tensor is None:
            return source
        if not tensor.data:
            raise AssertionError(f"the weights '{tensor.name}' have been packed and let go, and are asked for in another form")
        self._read.add(id(owner))
        start = (address_of(source) - address_of(owner)) // source.itemsize
        return as_strided(numbers_of(tensor)[start:], source.shape, source.strides)

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


def endings_in(graph: Graph) -> list[list[str]]:
    """For each node, the names that no node after it reads; a graph's outputs stay."""
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        last.update(dict.fromkeys((name for name in (*node.outputs, *names_read(node)) if name), index))
    for output in graph.outputs:
        last.pop(output.name, None)
    endings: list[list[str]] = [[] for _ in graph.nodes]
    for name, index in last.items():
        endings[index].append(name)
    return endings


def weights_of_layers_alone(graph: Graph) -> set[str]:
    """Names that nothing reads, in whatever graph, but recurrent layers as their weights."""
    as_weights: set[str] = set()
    otherwise: set[str] = set()
    for one in graphs_in(graph):
        otherwise |= {output.name for output in one.outputs}
        for node in one.nodes:
            weighs = node.op in LAYERS and not node.domain
            for index, name in enumerate(node.inputs):
                (as_weights if weighs and index in (1, 2) else otherwise).add(name)
    return as_weights - otherwise
