"""Programs: what the library runs for a graph whose inputs have certain sizes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.constants import DTYPES
from edgeseq_runtime.native.kernels import Kernels
from edgeseq_runtime.native.nodes import DependsOnContents, operator_name, unsupported
from edgeseq_runtime.native.operators.arranging import ARRANGING
from edgeseq_runtime.native.operators.elementwise import ELEMENTWISE
from edgeseq_runtime.native.operators.loops import LOOPS
from edgeseq_runtime.native.operators.products import PRODUCTS
from edgeseq_runtime.native.operators.quantised import QUANTISED
from edgeseq_runtime.native.operators.recurrent import RECURRENT
from edgeseq_runtime.native.operators.reducing import REDUCING
from edgeseq_runtime.native.shared import Shared, graphs_in
from edgeseq_runtime.native.values import Block, Value, untouched
from edgeseq_runtime.native.writer import Operator, Writer
from edgeseq_runtime.onnx_wire import Graph, Node
from edgeseq_runtime.tensors.spec import Array

OPERATORS: dict[str, Operator] = {**ARRANGING, **ELEMENTWISE, **REDUCING, **PRODUCTS, **RECURRENT, **QUANTISED}
KEPT = 32  # programs of a model; the one unused longest makes room for a new one
_FIRST = 2  # segment of an input

Key = tuple[object, ...]


class Program(NamedTuple):
    """Words for the library, and what has to be there while they are run."""

    words: Array
    kept: tuple[Array, ...]  # constants that the words point to
    scratch: int  # bytes of memory for values between instructions
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, tuple[int, ...], np.dtype[np.generic]], ...]
    segments: int
    nodes: tuple[tuple[int, str], ...]  # where in the words each begins
    key: Key  # what it was written for
    calls: list[Any]  # of the backend, ready to be made again

    def node_at(self, word: int) -> str:
        """The node that a word belongs to."""
        return next((name for at, name in reversed(self.nodes) if at <= word), "the model's outputs")


class Programs:
    """The programs of one graph, each made when its sizes are seen first."""

    def __init__(self, graph: Graph, kernels: Kernels) -> None:
        for node in _nodes(graph):
            name = operator_name(node)
            if name not in OPERATORS and not (name in LOOPS and node.graphs):
                raise UsageError(unsupported(node, f"have no operator {name}"))
        for one in graph.inputs:
            if one.dtype not in DTYPES:
                names = ", ".join(DTYPES)
                raise UsageError(
                    f"the native kernels compute with {names}, and input '{one.name}' is {one.dtype}; use device 'cpu'"
                )
        self._graph = graph
        self._names = [one.name for one in graph.inputs]
        self._kernels = kernels
        self._shared = Shared(graph)
        self._made: OrderedDict[Key, Program] = OrderedDict()
        self._lock = threading.Lock()
        self.reads: tuple[str, ...] = ()  # inputs whose contents set sizes, as lengths do; a program is for what they hold

    def key_of(self, inputs: Mapping[str, Array]) -> Key:
        """What the program for these inputs depends on."""
        shapes = tuple([inputs[name].shape for name in self._names])
        return (*shapes, *(inputs[name].tobytes() for name in self.reads)) if self.reads else shapes

    def at(self, inputs: Mapping[str, Array]) -> Program:
        """The program for inputs of these shapes, and of these contents where sizes depend on them.

        Raises:
            UsageError: a node asks for what the kernels don't do.
            InputError: a size depends on more than lengths, or these sizes can't be computed.
        """
        with self._lock:
            program = self._made.get(self.key_of(inputs))
            if program is None:
                program = self._written(inputs) if self.reads else self._first(inputs)
                self._made[program.key] = program
                if len(self._made) > KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(program.key)
            return program

    def _first(self, inputs: Mapping[str, Array]) -> Program:
        """A program that depends on shapes alone; else on what as few inputs hold as can be, of those that may be lengths."""
        may_be_read = [name for name, array in inputs.items() if array.ndim <= 1 and array.dtype.kind == "i"]
        for reads in ((), *((name,) for name in may_be_read), tuple(may_be_read)):
            try:
                program = self._written(inputs, reads)
            except DependsOnContents as error:
                problem = error
            else:
                self.reads = tuple(reads)
                return program._replace(key=self.key_of(inputs))
        raise problem

    def _written(self, inputs: Mapping[str, Array], reads: Sequence[str] | None = None) -> Program:
        graph = self._graph
        first_output = _FIRST + len(graph.inputs)
        writer = Writer(self._kernels, OPERATORS, LOOPS, self._shared, first_output + len(graph.outputs))
        reads = self.reads if reads is None else reads
        names = {
            one.name: writer.constant(inputs[one.name].copy())
            if one.name in reads
            else _outside(_FIRST + index, inputs[one.name].shape, one.dtype)
            for index, one in enumerate(graph.inputs)
        }
        results = writer.graph(graph, names).results
        self._shared.forget_what_is_packed()
        for index, value in enumerate(results):
            writer.copy(_outside(first_output + index, value.array.shape, value.array.dtype), value)
        outputs = zip((one.name for one in graph.outputs), results, strict=True)
        return Program(
            words=np.array(writer.words, np.int64),
            kept=tuple(writer.kept),
            scratch=writer.scratch.size,
            inputs=tuple(one.name for one in graph.inputs),
            outputs=tuple((name, value.array.shape, value.array.dtype) for name, value in outputs),
            segments=writer.segments,
            nodes=tuple(writer.nodes),
            key=self.key_of(inputs),
            calls=[],
        )


def _outside(segment: int, shape: tuple[int, ...], dtype: np.dtype[np.generic] | str) -> Value:
    """An array of the caller's."""
    array = untouched(shape, dtype)
    return Value(array, Block(segment, 0, array))


def _nodes(graph: Graph) -> Iterator[Node]:
    for one in graphs_in(graph):
        yield from one.nodes
