"""Loops: their bodies are written once and run as often as there are rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.nodes import given, integer, known, required, unsupported
from edgeseq_runtime.native.values import Block, Value
from edgeseq_runtime.native.writer import LoopOperator, Word, Writer
from edgeseq_runtime.onnx_wire import Node

Inputs = Sequence[Value | None]


def scan(writer: Writer, node: Node, inputs: Inputs, names: Mapping[str, Value]) -> Sequence[Value]:
    body = node.graphs["body"]
    count = integer(node, "num_scan_inputs", 0)
    states = len(inputs) - count
    outputs = len(body.outputs) - states
    in_axes, in_ways = _each(node, "scan_input_axes", count), _each(node, "scan_input_directions", count)
    out_axes, out_ways = _each(node, "scan_output_axes", outputs), _each(node, "scan_output_directions", outputs)
    cut = [required(inputs, states + index, node) for index in range(count)]
    rounds = cut[0].array.shape[in_axes[0]]
    if not rounds:
        raise InputError(unsupported(node, "run no loop of 0 rounds"))
    held = [_held(writer, required(inputs, index, node)) for index in range(states)]
    inner = {**names, **dict(zip((one.name for one in body.inputs), held, strict=False))}
    slices: list[Word] = []
    for value, axis, way, declared in zip(cut, in_axes, in_ways, body.inputs[states:], strict=True):
        moved = np.moveaxis(value.array, axis, 0)[:: -1 if way else 1]
        inner[declared.name] = _sliced(writer, value.viewed(moved), slices)
    made: list[Value] = []
    carried: list[Word] = []

    def write() -> None:
        written = writer.graph(body, inner, {one.name: _block(value) for one, value in zip(body.inputs, held, strict=False)})
        carried.extend(_carried(writer, node, held, written.results))
        for value, way in zip(written.results[states:], out_ways, strict=True):
            whole = writer.apart((rounds, *value.array.shape), value.array.dtype)
            made.append(whole)
            writer.copy(_sliced(writer, whole.viewed(whole.array[:: -1 if way else 1]), slices), value)
        for block in written.blocks:
            writer.release(block)

    words = writer.body(write)
    before = 4 + len(carried) + 1 + len(slices)
    writer.emit("SCAN", rounds, before, len(words), len(carried) // 3, *carried, len(slices) // 3, *slices)
    _add_body(writer, words)
    ends = [_let_go(value) for value in held]
    return [*ends, *(value.viewed(np.moveaxis(value.array, 0, axis)) for value, axis in zip(made, out_axes, strict=True))]


def loop(writer: Writer, node: Node, inputs: Inputs, names: Mapping[str, Value]) -> Sequence[Value]:
    body = node.graphs["body"]
    states = len(inputs) - 2
    if len(body.outputs) > 1 + states:
        raise UsageError(unsupported(node, "run no Loop that collects an output a round"))
    most, going = given(inputs, 0), given(inputs, 1)
    number = writer.new((), np.int64)
    _block(number).held = True
    condition = writer.constant(np.array(1, np.bool_))
    held = [_held(writer, required(inputs, 2 + index, node)) for index in range(states)]
    inner = {**names, body.inputs[0].name: number, body.inputs[1].name: condition}
    inner.update(zip((one.name for one in body.inputs[2:]), held, strict=True))
    carried: list[Word] = []
    goes_on: list[Value] = []

    def write() -> None:
        written = writer.graph(body, inner, {one.name: _block(value) for one, value in zip(body.inputs[2:], held, strict=True)})
        carried.extend(_carried(writer, node, held, written.results[1:]))
        goes_on.append(writer.contiguous(written.results[0]))
        for block in written.blocks:
            writer.release(block)

    words = writer.body(write)
    # `number` keeps its place until here, though nothing but the library writes it.
    writer.emit("LOOP", most, going, goes_on[0], number, 7 + len(carried), len(words), len(carried) // 3, *carried)
    _add_body(writer, words)
    _let_go(number)
    return [_let_go(value) for value in held]


def branch(writer: Writer, node: Node, inputs: Inputs, names: Mapping[str, Value]) -> Sequence[Value]:
    chosen = "then_branch" if bool(known(inputs[0], node, "the condition").reshape(())) else "else_branch"
    written = writer.graph(node.graphs[chosen], names)
    for block in written.blocks:
        block.uses -= 1
    return written.results


def _add_body(writer: Writer, words: list[int]) -> None:
    """A loop's words are its own and its body's."""
    start = writer.last_instruction
    writer.add_body(words)
    writer.words[start + 1] = len(writer.words) - start


def _held(writer: Writer, value: Value) -> Value:
    """Memory of a state, which begins as this value."""
    made = writer.new(value.array.shape, value.array.dtype)
    block = _block(made)
    block.held, block.uses = True, 1
    writer.copy(made, value)
    return made


def _let_go(value: Value) -> Value:
    """A state after the last round: a value like others."""
    block = _block(value)
    block.held, block.uses = False, 0
    return value


def _block(value: Value) -> Block:
    if value.block is None:
        raise AssertionError("a constant has no memory of a loop's")
    return value.block


def _sliced(writer: Writer, whole: Value, slices: list[Word]) -> Value:
    """The part of a value that a round sees, whose first axis is that of the rounds."""
    segment = writer.segment()
    first = whole.viewed(whole.array[0, ...])  # a view even where one element is left
    slices += [segment, first, whole.array.strides[0]]
    return Value(first.array, Block(segment, 0, first.array))


def _carried(writer: Writer, node: Node, held: Sequence[Value], results: Sequence[Value]) -> list[Word]:
    """What to copy after a round: to each state what the body made of it."""
    found: list[Word] = []
    blocks = {id(value.block) for value in held}
    for state, result in zip(held, results, strict=False):
        if result.array.shape != state.array.shape:
            raise InputError(
                unsupported(node, f"carry no state that changes its shape ({state.array.shape}, {result.array.shape})")
            )
        if result.block is state.block and result.contiguous and result.place == state.place:
            continue
        source = result
        if not result.contiguous or id(result.block) in blocks:  # another state, which is about to change
            source = writer.apart(result.array.shape, result.array.dtype)
            writer.copy(source, result)
        found += [state, source, state.array.nbytes]
    return found


def _each(node: Node, name: str, count: int) -> tuple[int, ...]:
    return node.integers.get(name, (0,) * count)


LOOPS: dict[str, LoopOperator] = {"Scan": scan, "Loop": loop, "If": branch}
