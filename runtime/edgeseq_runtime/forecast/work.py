"""How much a graph computes and moves, from the sizes of its values.

Operations are those of products (a multiply-add counts as two): they are what a recurrent network's time and energy go to, and what
other tools count. Element-wise operators are left out, so a bound made from these figures stays a bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from edgeseq_runtime.forecast.calculating import RECURRENT_GATES, einsum_sizes, einsum_terms
from edgeseq_runtime.forecast.given import NotKnown
from edgeseq_runtime.forecast.operators import is_known
from edgeseq_runtime.forecast.sizes import Body, Placed, Sized
from edgeseq_runtime.forecast.values import Value, Weight

LOOKUPS = ("Gather", "GatherND", "GatherElements")  # read the rows that are asked for, not the table
PRODUCTS = ("MatMul", "MatMulInteger", "MatMulNBits", "Gemm", "Conv", "ConvInteger", "ConvTranspose", "Einsum", *RECURRENT_GATES)


class Work(NamedTuple):
    """What one run of a graph takes."""

    operations: int
    by_operator: dict[str, int]  # operator -> operations
    reads: dict[Weight, int]  # constant -> how often it is read one after another; a table is not among them
    tables: frozenset[Weight]  # constants of which rows are looked up
    looked_up: int  # bytes of those rows
    interface: int  # bytes of the model's inputs and outputs
    peak: int  # bytes of the values that are alive at once, inputs and outputs included
    uncounted: dict[str, int]  # operator that is not known, or whose sizes are not -> how many nodes
    loops: int  # whose length only the data tell; they are counted once
    unsized: int  # values whose size only the data tell; they are in none of the bytes

    @property
    def weights(self) -> frozenset[Weight]:
        """Every constant that is computed with."""
        return frozenset(self.reads) | self.tables


class _Part(NamedTuple):
    by_operator: Counter[str]
    reads: Counter[Weight]
    tables: frozenset[Weight]
    looked_up: int
    uncounted: Counter[str]
    loops: int


def work_of(sized: Sized) -> Work:
    """The work of a model whose values' sizes are known."""
    part = _part_of(sized)
    inputs = [sized.values[spec.name] for spec in sized.graph.inputs]
    interface = sum(value.bytes for value in (*inputs, *sized.outputs))
    return Work(
        operations=part.by_operator.total(),
        by_operator=dict(sorted(part.by_operator.items())),
        reads=dict(sorted(part.reads.items())),
        tables=part.tables - frozenset(part.reads),
        looked_up=part.looked_up,
        interface=interface,
        peak=peak_bytes(sized),
        uncounted=dict(sorted(part.uncounted.items())),
        loops=part.loops,
        unsized=_unsized(sized),
    )


def _part_of(sized: Sized) -> _Part:
    return _sum(_part_of_node(placed) for placed in sized.nodes if not _is_fixed(placed))


def _sum(parts: Iterable[_Part]) -> _Part:
    by_operator: Counter[str] = Counter()
    reads: Counter[Weight] = Counter()
    tables: frozenset[Weight] = frozenset()
    looked_up = 0
    uncounted: Counter[str] = Counter()
    loops = 0
    for part in parts:
        by_operator += part.by_operator
        reads |= part.reads  # two nodes that share a weight may read it at the same time
        tables |= part.tables
        looked_up += part.looked_up
        uncounted += part.uncounted
        loops += part.loops
    return _Part(by_operator, reads, tables, looked_up, uncounted, loops)


def _is_fixed(placed: Placed) -> bool:
    """Whether a node's outputs follow from constants and sizes: computed once, when the model is loaded."""
    return not placed.bodies and all(value.weights is not None or value.numbers is not None for value in placed.outputs)


def _part_of_node(placed: Placed) -> _Part:
    if placed.bodies:
        return _part_of_bodies(placed)
    node = placed.node
    operations = operations_of(placed)
    fixed = [value.weights for value in placed.inputs if value is not None and value.weights]
    weights = frozenset[Weight]().union(*fixed)
    counted = Counter({node.op: operations}) if operations else Counter[str]()
    uncounted = Counter({node.op: 1}) if operations is None else Counter[str]()
    if node.op in LOOKUPS and weights and placed.inputs[0] is not None and placed.inputs[0].weights:
        return _Part(counted, Counter(), weights, placed.outputs[0].bytes, uncounted, 0)
    reads = Counter(dict.fromkeys(weights, 1))
    if node.op in RECURRENT_GATES and placed.outputs and (steps := _steps(placed)):
        recurrent = placed.inputs[2]
        for weight in (recurrent.weights or ()) if recurrent is not None else ():
            reads[weight] = steps
    return _Part(counted, reads, frozenset(), 0, uncounted, 0)


def _part_of_bodies(placed: Placed) -> _Part:
    parts = [_repeated(_part_of(body.sized), body.times) for body in placed.bodies]
    if placed.node.op != "If" or len(parts) == 1:
        return _sum(parts)
    # Which branch is taken depends on the data: the one with fewer operations, so that a bound stays one.
    return min(parts, key=lambda part: part.by_operator.total())


def _repeated(part: _Part, times: int | None) -> _Part:
    if times is None:  # only the data tell how often: counted once, and said so
        return part._replace(loops=part.loops + 1)
    return part._replace(
        by_operator=Counter({op: count * times for op, count in part.by_operator.items()}),
        reads=Counter({weight: count * times for weight, count in part.reads.items()}),
        looked_up=part.looked_up * times,
    )


def _steps(placed: Placed) -> int:
    x = placed.inputs[0]
    if x is None or x.shape is None or len(x.shape) != 3:
        return 0
    return x.shape[1] if placed.node.integers.get("layout", (0,))[0] else x.shape[0]


def operations_of(placed: Placed) -> int | None:
    """Operations of a node's products; 0 for a node without, None where they can't be counted or the operator is not known."""
    node, inputs, outputs = placed.node, placed.inputs, placed.outputs
    if node.op not in PRODUCTS:
        return 0 if is_known(node) else None
    try:
        return _products(node.op, placed, [_shape(value) for value in inputs], _shape(outputs[0]))
    except (NotKnown, IndexError, ValueError, KeyError):
        return None


def _shape(value: Value | None) -> tuple[int, ...]:
    if value is None:
        return ()
    if value.shape is None:
        raise NotKnown
    return value.shape


def _products(op: str, placed: Placed, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    node = placed.node
    if op in RECURRENT_GATES:
        x, r = inputs[0], inputs[2]
        T, B, features = x[0], x[1], x[2]
        directions, hidden = r[0], r[1] if op == "DynamicQuantizeLSTM" else r[2]
        return 2 * T * B * directions * RECURRENT_GATES[op] * hidden * (features + hidden)
    if op in ("MatMul", "MatMulInteger"):
        return 2 * math.prod(output) * inputs[0][-1]
    if op == "MatMulNBits":
        return 2 * math.prod(output) * node.integers["K"][0]
    if op == "Gemm":
        return 2 * math.prod(output) * inputs[0][0 if node.integers.get("transA", (0,))[0] else 1]
    if op == "Einsum":
        return 2 * math.prod(einsum_sizes(einsum_terms(node)[0], inputs).values())
    kernel = math.prod(inputs[1][1:])  # channels in a group, and the window
    return 2 * kernel * math.prod(inputs[0] if op == "ConvTranspose" else output)


def peak_bytes(sized: Sized) -> int:
    """Most bytes of inputs, outputs and what is between that are alive at once, nodes taken in order.

    An estimate: a runtime may share memory between values, fuse nodes, or hold scratch space of its own.
    """
    last = _last_uses(sized)
    asked = {spec.name for spec in sized.graph.outputs}
    alive = {spec.name: sized.values[spec.name].bytes for spec in sized.graph.inputs if spec.name in sized.values}
    peak = sum(alive.values())
    for index, placed in enumerate(sized.nodes):
        inside = max((peak_bytes(body.sized) for body in placed.bodies), default=0)
        if not _is_fixed(placed):
            alive.update({name: value.bytes for name, value in zip(placed.node.outputs, placed.outputs, strict=True) if name})
        peak = max(peak, sum(alive.values()) + inside)
        for name in [name for name in alive if last.get(name, -1) <= index and name not in asked]:
            del alive[name]
    return peak


def _unsized(sized: Sized) -> int:
    own = sum(value.shape is None for placed in sized.nodes for value in placed.outputs)
    return own + sum(_unsized(body.sized) for placed in sized.nodes for body in placed.bodies)


def _last_uses(sized: Sized) -> Mapping[str, int]:
    return {name: index for index, placed in enumerate(sized.nodes) for name in _names_read(placed)}


def _names_read(placed: Placed) -> Iterator[str]:
    yield from placed.node.inputs
    for body in placed.bodies:
        yield from _read_inside(body)


def _read_inside(body: Body) -> Iterator[str]:
    for placed in body.sized.nodes:
        yield from _names_read(placed)
    yield from (spec.name for spec in body.sized.graph.outputs)
