"""What differs between two nodes that answer to each other, read from their graphs: operator, attributes, inputs, constants.

Gates of recurrent nodes are told apart by ONNX's order of blocks (onnx.ai/onnx/operators): LSTM i, o, f, c; GRU z, r, h; RNN h.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.align import Level, Pair
from edgeseq_runtime.bisect.graphs import Attribute, Graph, Node, constant_of, tensor_array
from edgeseq_runtime.tensors.spec import Array

GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}
PEEPHOLES = "iof"
ROLES = dict.fromkeys(graphs.RECURRENT, ("X", "W", "R", "B", "sequence_lens", "initial_h")) | {
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
}


def node_differences(pair: Pair, level: Level) -> Iterator[str]:
    """A line for each difference that can be read; none where the nodes look alike."""
    mine, yours = pair.suspect, pair.reference
    if (mine.op, mine.domain) != (yours.op, yours.domain):
        yield f"operator {mine.op}; the reference has {yours.op}"
    elif _own_bodies(pair, level):
        yield from _body_differences(mine.bodies["body"], yours.bodies["body"], level.at((*pair.place, pair.at)).values)
    yield from _attribute_differences(mine.attributes, yours.attributes)
    yield from _output_differences(pair)
    scopes = level_graphs(level, pair)
    for at in range(max(len(mine.inputs), len(yours.inputs))):
        a, b = (node.inputs[at] if at < len(node.inputs) else "" for node in (mine, yours))
        yield from _input_difference(pair, at, a, b, scopes, level.at(pair.place))


def _output_differences(pair: Pair) -> Iterator[str]:
    """Outputs that both nodes have, at other places."""
    for mine, yours in pair.outputs:
        places = pair.suspect.outputs.index(mine), pair.reference.outputs.index(yours)
        if places[0] != places[1]:
            yield f"'{mine}' is output {places[0]}; the reference's is output {places[1]}"


def level_graphs(level: Level, pair: Pair) -> tuple[list[Graph], list[Graph]]:
    """The graphs that a pair's nodes see, from the inside out: of the suspect, and of the reference."""
    found = ([level.suspect], [level.reference])
    for index in pair.place:
        level = level.below[index]
        found[0].insert(0, level.suspect)
        found[1].insert(0, level.reference)
    return found


def _own_bodies(pair: Pair, level: Level) -> bool:
    return pair.at in level.at(pair.place).below


def _body_differences(mine: Graph, yours: Graph, values: dict[str, str]) -> Iterator[str]:
    for at, (a, b) in enumerate(zip(mine.outputs, yours.outputs, strict=False)):
        if values.get(a, b) != b:
            yield f"output {at} of the body is '{a}'; the reference's is '{b}'"


def _attribute_differences(mine: dict[str, Attribute], yours: dict[str, Attribute]) -> Iterator[str]:
    for name in sorted({*mine, *yours}):
        a, b = mine.get(name), yours.get(name)
        if (a or b) is None or any(one is not None and one.body is not None for one in (a, b)):
            continue
        tensors = [None if one is None or one.tensor is None else tensor_array(one.tensor) for one in (a, b)]
        if tensors[0] is not None and tensors[1] is not None:
            yield from constant_differences(name, tensors[0], tensors[1], "", ())
        elif (a.plain if a else None) != (b.plain if b else None):
            yield f"attribute {name} is {_plain(a)}; the reference's is {_plain(b)}"


def _plain(attribute: Attribute | None) -> str:
    if attribute is None:
        return "absent"
    plain = attribute.plain if isinstance(attribute.plain, tuple) else (attribute.plain,)
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in plain)


def _input_difference(
    pair: Pair, at: int, mine: str, yours: str, scopes: tuple[list[Graph], list[Graph]], level: Level
) -> Iterator[str]:
    roles = ROLES.get(pair.suspect.op, ())
    role = roles[at] if at < len(roles) else f"input {at}"
    constants = [constant_of(name, graph) if name else None for name, graph in zip((mine, yours), scopes, strict=True)]
    if constants[0] is not None and constants[1] is not None:
        a, b = tensor_array(constants[0]), tensor_array(constants[1])
        if a is not None and b is not None:
            yield from constant_differences(f"{role} ('{mine}')", a, b, pair.suspect.op, _directions(pair.suspect), role)
        return
    if (level.values.get(mine) if mine else "") == yours:
        return
    maker = next((node for graph in scopes[0] for node in graph.nodes if mine in node.outputs), None) if mine else None
    known = level.values.get(mine)
    by = f", which {maker.op} '{maker.name}' makes and the reference lacks" if maker is not None and known is None else ""
    yield f"{role} is {_named(mine)}{by}; the reference's is {_named(yours)}"


def _named(name: str) -> str:
    return f"'{name}'" if name else "left out"


def _directions(node: Node) -> tuple[str, ...]:
    held = node.attributes.get("direction")
    name = "forward" if held is None else str(held.plain)
    return ("forward", "reverse") if name == "bidirectional" else (name,)


def constant_differences(
    what: str, mine: Array, yours: Array, op: str, directions: tuple[str, ...], role: str = ""
) -> Iterator[str]:
    """How two constants differ, in a line; nothing where they are equal."""
    if mine.dtype != yours.dtype or mine.shape != yours.shape:
        yield f"{what} is {mine.dtype} {mine.shape}; the reference's is {yours.dtype} {yours.shape}"
        return
    unequal = (
        np.asarray(mine != yours) & ~(np.isnan(mine) & np.isnan(yours)) if mine.dtype.kind == "f" else np.asarray(mine != yours)
    )
    if not unequal.any():
        return
    most = float(np.abs(mine.astype(np.float64) - yours.astype(np.float64)).max())
    notes = [note for note in (_same_after_change(mine, yours), *_gate_notes(mine, yours, unequal, op, directions, role)) if note]
    line = f"{what} differs in {np.count_nonzero(unequal)} of {mine.size} elements, by up to {most:.2g}"
    yield "; ".join([line, *notes])


def _same_after_change(mine: Array, yours: Array) -> str:
    """A change of the whole tensor that explains the difference."""
    if mine.dtype == np.float32:
        with np.errstate(over="ignore"):
            if np.array_equal(mine, yours.astype(np.float16).astype(np.float32)):
                return "it is the reference's rounded to float16"
        if np.array_equal(mine, _as_bfloat16(yours)):
            return "it is the reference's rounded to bfloat16"
    if mine.ndim >= 2 and mine.shape[-1] == mine.shape[-2] and np.array_equal(mine, np.swapaxes(yours, -1, -2)):
        return "it is the reference's transposed"
    return ""


def _as_bfloat16(array: Array) -> Array:
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _gate_notes(mine: Array, yours: Array, unequal: Array, op: str, directions: tuple[str, ...], role: str) -> Iterator[str]:
    """Which blocks of gates differ, and where a block holds what the reference has in another."""
    if op not in GATES or role not in ("W", "R", "B", "P") or mine.ndim < 2 or mine.shape[0] != len(directions):
        return
    gates = PEEPHOLES if role == "P" else GATES[op]
    halves = ("W", "R") if role == "B" else ("",)
    if mine.shape[1] % (len(gates) * len(halves)):
        return
    blocks = [f"{half}{' ' if half else ''}{gate}" for half in halves for gate in gates]
    for at, direction in enumerate(directions):
        cut, own, other = (np.split(array[at], len(blocks)) for array in (unequal, mine, yours))
        wrong = [index for index, block in enumerate(cut) if block.any()]
        moved = [
            f"{blocks[index]} holds the reference's {blocks[source]}"
            for index in wrong
            for source in range(len(blocks))
            if np.array_equal(own[index], other[source]) and own[index].any()
        ]
        if wrong:
            which = "every gate" if len(wrong) == len(blocks) > 1 else f"gate {', '.join(blocks[index] for index in wrong)}"
            yield f"{direction}: {which}" + (f" ({', '.join(moved)})" if moved else "")
