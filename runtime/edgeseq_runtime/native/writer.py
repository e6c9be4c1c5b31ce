"""A program in the making: instructions, the memory of their results, and what is known beforehand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.axes import broadcast, merged
from edgeseq_runtime.native.kernels import ERRORS, Kernels, aligned, call_arguments, call_segments
from edgeseq_runtime.native.nodes import operator_name, unsupported
from edgeseq_runtime.native.shared import Shared
from edgeseq_runtime.native.values import SCRATCH, Block, Scratch, Value, untouched
from edgeseq_runtime.onnx_wire import Graph, Node
from edgeseq_runtime.tensors.spec import Array

NONE = -1  # a place that is not there
Word = int | float | Value | None  # of an instruction


class Operator(Protocol):
    """Writes a node: from its inputs, None where one is left out, to its outputs."""

    def __call__(self, writer: Writer, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value]: ...


class LoopOperator(Protocol):
    """Writes a node that has graphs, which see the names around it."""

    def __call__(
        self, writer: Writer, node: Node, inputs: Sequence[Value | None], names: Mapping[str, Value]
    ) -> Sequence[Value]: ...


class Writer:
    """Writes instructions one after the other. What depends on constants alone is computed at once and becomes a constant."""

    def __init__(
        self,
        kernels: Kernels,
        operators: Mapping[str, Operator],
        loops: Mapping[str, LoopOperator],
        shared: Shared,
        first_free_segment: int,
    ) -> None:
        self.kernels = kernels
        self.words: list[int] = []
        self.kept: list[Array] = []  # constants that the words point to
        self.scratch = Scratch()
        self.nodes: list[tuple[int, str]] = []  # where in the words a node begins, and what it is called
        self.body_nodes: list[tuple[int, str]] = []  # of the body that was written last
        self.last_instruction = 0  # where its words begin
        self.segments = first_free_segment
        self._operators = operators
        self._loops = loops
        self._shared = shared
        self._at_once = False  # whether results are computed now
        self._biasless: dict[int, int] = {}  # block of a product without a bias -> where its instruction's bias is
        # Of the graph that is being written:
        self._ending: Collection[str] = ()  # names that no node after the one that is being written reads
        self._own: dict[str, Block] = {}  # what it made or may overwrite
        self._made: list[Block] = []  # by the node that is being written

    # Graphs

    def graph(self, graph: Graph, names: Mapping[str, Value], states: Mapping[str, Block] | None = None) -> Written:
        """Write a graph's nodes.

        Args:
            graph: the nodes.
            names: its inputs, and what it sees of the graphs around it.
            states: of those, memory that the graph may overwrite once it has read it.

        Raises:
            UsageError: the kernels don't have an operator, or have it otherwise.
            InputError: a size depends on what the inputs hold.
        """
        names = {**names, **{name: Value(array) for name, array in self._shared.constants[id(graph)].items()}}
        around = self._own, self._made, self._ending
        self._own = dict(states or {})
        own: dict[str, Block] = {}
        for node, ending in zip(graph.nodes, self._shared.endings[id(graph)], strict=True):
            self._made, self._ending = [], ending
            self.nodes.append((len(self.words), f"{node.op} '{node.name}'"))
            results = self._node(node, [names[name] if name else None for name in node.inputs], names)
            if any(node.outputs[len(results) :]):
                raise UsageError(unsupported(node, f"give no more than {len(results)} of its results"))
            for name, value in zip(node.outputs, results, strict=False):
                names[name] = value
                if value.block is not None and name:
                    value.block.uses += 1
                    own[name] = self._own[name] = value.block
            for block in self._made:
                if not block.uses:
                    block.uses = 1
                    self.release(block)
            for name in ending:
                if name in own:
                    self.release(own.pop(name))
        self._own, self._made, self._ending = around
        return Written([names[output.name] for output in graph.outputs], list(own.values()))

    def _node(self, node: Node, inputs: list[Value | None], names: Mapping[str, Value]) -> Sequence[Value]:
        if node.graphs and not node.domain and node.op in self._loops:
            return self._loops[node.op](self, node, inputs, names)
        operator = self._operators.get(operator_name(node))
        if operator is None:
            raise UsageError(unsupported(node, f"have no operator {operator_name(node)}"))
        if all(value is None or value.constant for value in inputs) and node.inputs:
            return self._shared.computed(node, inputs, lambda: self.computed(lambda: operator(self, node, inputs)))
        return operator(self, node, inputs)

    def body(self, write: Callable[[], None]) -> list[int]:
        """The words of a loop's body, which are not part of the program until they are added to it."""
        words, nodes, self.words, self.nodes = self.words, self.nodes, [], []
        self._biasless.clear()  # those are places in other words
        try:
            write()
            return self.words
        finally:
            self.body_nodes, self.words, self.nodes = self.nodes, words, nodes
            self._biasless.clear()

    def add_body(self, words: list[int]) -> None:
        """Add a body's words, once the instruction that they belong to is written."""
        self.nodes += [(len(self.words) + at, name) for at, name in self.body_nodes]
        self.words += words

    def computed(self, write: Callable[[], Sequence[Value]]) -> Sequence[Value]:
        """What is written, carried out now."""
        words, self.words, self._at_once, kept = self.words, [], True, len(self.kept)
        failed = 0
        try:
            results = write()
            if self.words:
                written = np.array(self.words, np.int64)
                failed = self.kernels.run(*call_arguments(written, call_segments(1), 1))
                results = [Value(np.array(result.array)) for result in results]
        finally:
            self.words, self._at_once = words, False
            del self.kept[kept:]
        if failed:
            raise InputError(f"a part of the model that depends on constants alone can't be computed: {ERRORS[failed & 0xFF]}")
        return results

    # Memory

    def new(self, shape: Iterable[int], dtype: npt.DTypeLike) -> Value:
        """Memory for a result, contiguous."""
        shape = tuple(shape)
        if self._at_once:
            return self.constant(aligned(np.zeros(shape, dtype)))
        array = untouched(shape, dtype)
        block = Block(SCRATCH, self.scratch.take(array.nbytes), array)
        self._made.append(block)
        return Value(array, block)

    def apart(self, shape: Iterable[int], dtype: npt.DTypeLike) -> Value:
        """Memory that nothing before has had: what a loop fills while its body uses its own again in each round."""
        array = untouched(tuple(shape), dtype)
        block = Block(SCRATCH, self.scratch.take_new(array.nbytes), array)
        self._made.append(block)
        return Value(array, block)

    def release(self, block: Block) -> None:
        """One name less holds a block."""
        block.uses -= 1
        if block.uses == 0 and block.segment == SCRATCH and not block.held:
            self.scratch.give_back(block.start, block.base.nbytes)

    def may_overwrite(self, name: str, value: Value) -> bool:
        """Whether a value's memory, all of it, is needed by the node that is being written alone."""
        block = value.block
        return self._alone(name, block) and value.contiguous and block is not None and value.array.nbytes == block.base.nbytes

    def _alone(self, name: str, block: Block | None) -> bool:
        """Whether the node that is being written is all that still needs the value of this name, which this graph made."""
        return block is not None and self._own.get(name) is block and name in self._ending and block.uses == 1

    def constant(self, array: Array) -> Value:
        """A constant, kept as long as the program."""
        self.kept.append(array)
        return Value(array)

    def segment(self) -> int:
        """A segment that is not in use."""
        self.segments += 1
        return self.segments - 1

    # Instructions

    def emit(self, operation: str, *words: Word | Iterable[int]) -> int:
        """Write an instruction; where its first operand is."""
        start = self.last_instruction = len(self.words)
        self.words += [self.kernels.operations[operation], 0]
        for word in words:
            self._add(word)
        self.words[start + 1] = len(self.words) - start
        return start + 2

    def _add(self, word: Word | Iterable[int]) -> None:
        if word is None:
            self.words.append(NONE)
        elif isinstance(word, Value):
            if word.constant:
                self.kept.append(word.array)
            self.words.append(word.place)
        elif isinstance(word, float):
            self.words.append(int.from_bytes(struct.pack("<f", word), "little"))
        elif isinstance(word, int | np.integer):
            self.words.append(int(word))
        else:
            self.words += [int(one) for one in word]

    def copy(self, to: Value, source: Value) -> None:
        """Write a copy, broadcast to the shape of what it is copied to."""
        if not to.array.size:
            return
        axes = merged(to.array.shape, to.strides, broadcast(source, to.array.shape).strides)
        self.emit("COPY", to, source, to.array.itemsize, len(axes.sizes), axes.sizes, *axes.strides)

    def contiguous(self, value: Value) -> Value:
        """The value without strides: as it is, or copied."""
        if value.contiguous:
            return value
        made = self.new(value.array.shape, value.array.dtype)
        self.copy(made, value)
        return made

    def packed(self, weights: Array) -> Value:
        """Constant weights (K, N) as products read them."""
        return self.once("weights", weights, self.kernels.packed)

    def padded(self, bias: Array) -> Value:
        """A constant bias as products read it."""
        return self.once("bias", bias, self.kernels.padded)

    def once(self, kind: str, source: Array, make: Callable[[Array], Array]) -> Value:
        """What is made of a constant: once for all programs of a model, if it does not depend on sizes."""
        return self.constant(self._shared.once(kind, source, make))

    # A product and the bias that is added to it by the next node are one instruction.

    def without_bias(self, result: Value, at: int) -> None:
        """Remember that a product's instruction has room for a bias."""
        if result.block is not None:
            self._biasless[id(result.block)] = at

    def add_bias(self, name: str, product: Value, bias: Value) -> bool:
        """Whether a bias became part of the product that was written last; no other node may read that."""
        at = self._biasless.get(id(product.block)) if self._alone(name, product.block) else None
        N = product.array.shape[-1] if product.array.ndim else 0
        if at is None or at != len(self.words) - 1 or not bias.constant or not product.contiguous:
            return False
        if bias.array.size != N or bias.array.ndim > product.array.ndim or bias.array.shape[-1:] != (N,):
            return False
        del self._biasless[id(product.block)]
        self.words[at] = self.padded(bias.array).place
        return True


class Written(NamedTuple):
    """A graph that has been written."""

    results: list[Value]
    blocks: list[Block]  # of its own that the results are in, to be released
