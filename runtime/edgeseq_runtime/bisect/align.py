"""Which value of one graph is which of another: by name, and where names do not say, by what computes it from what.

Values are aligned graph by graph, bodies with bodies, by their names first: a node is a pair with the one that makes a value of
the same name. A node that is left over is paired with one that has the same operator and reads the same values. Graphs that were
numbered anew share names by chance; so names count only where most nodes that share one have the same operator, or where nodes
were fused and the rest kept theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edgeseq_runtime.bisect import graphs
from edgeseq_runtime.bisect.expose import Place, Value
from edgeseq_runtime.bisect.graphs import Graph, Node


class Pair(NamedTuple):
    """A node of the suspect and the one of the reference that it answers to."""

    place: Place  # of its graph in the suspect
    at: int  # in its graph
    suspect: Node
    reference_place: Place
    reference_at: int
    reference: Node
    outputs: tuple[tuple[str, str], ...]  # (in the suspect, in the reference)


class Level(NamedTuple):
    """Two graphs and what answers to what in them; `values` holds what they see of the graphs around them, too."""

    suspect: Graph
    reference: Graph
    values: dict[str, str]  # of the suspect -> of the reference
    pairs: tuple[Pair, ...]  # in the suspect's order
    below: dict[int, Level]  # bodies of steps, by the suspect's node

    def all_pairs(self) -> Iterator[Pair]:
        """The pairs of this graph and of the bodies in it, each node's body before the node itself."""
        for pair in self.pairs:
            if pair.at in self.below:
                yield from self.below[pair.at].all_pairs()
            yield pair

    def at(self, place: Place) -> Level:
        """The level of a graph inside this one, by its place in the suspect."""
        level = self
        for index in place:
            level = level.below[index]
        return level


def align(suspect: Graph, reference: Graph) -> Level:
    """The main graphs, and all bodies of `Scan` and `Loop` nodes that are pairs."""
    inputs = {name: name for name in suspect.inputs if name in reference.inputs}
    outputs = {name: name for name in suspect.outputs if name in reference.outputs}
    return _align(suspect, reference, inputs, outputs, (), ())


def _align(
    suspect: Graph, reference: Graph, seen: dict[str, str], given: dict[str, str], place: Place, reference_place: Place
) -> Level:
    """One pair of graphs; `seen` are aligned values from around and above, `given` outputs that answer to each other anyway."""
    makers = {name: index for index, node in enumerate(reference.nodes) for name in node.outputs if name}
    names = _aligned_names(suspect, reference, makers, given)
    by_name = not makers or any(name in makers and names.get(name) == name for node in suspect.nodes for name in node.outputs)
    values = {**seen, **_aligned_constants(suspect, reference, by_name=by_name)}
    left = set(range(len(reference.nodes))) - {makers[name] for name in names.values()}
    pairs: list[Pair] = []
    below: dict[int, Level] = {}
    for index, node in enumerate(suspect.nodes):
        other = next((makers[names[name]] for name in node.outputs if name in names), None)
        if other is None:
            likeness = {one: _likeness(node, reference, reference.nodes[one], values) for one in sorted(left)}
            other = max(likeness, key=lambda one: likeness[one], default=None)
            if other is None or likeness[other] < 0:
                continue
            left.discard(other)
        found = reference.nodes[other]
        outputs = _aligned_outputs(node, found, names)
        values |= dict(outputs)
        pair = Pair(place, index, node, reference_place, other, found, outputs)
        pairs.append(pair)
        if node.op == found.op and node.op in graphs.LOOPS:
            below[index] = _align_bodies(pair, values)
    return Level(suspect, reference, values, tuple(pairs), below)


def _align_bodies(pair: Pair, values: dict[str, str]) -> Level:
    bodies = pair.suspect.bodies["body"], pair.reference.bodies["body"]
    inputs = dict(zip(bodies[0].inputs, bodies[1].inputs, strict=False))
    outputs = dict(zip(bodies[0].outputs, bodies[1].outputs, strict=False))
    return _align(*bodies, {**values, **inputs}, outputs, (*pair.place, pair.at), (*pair.reference_place, pair.reference_at))


def _aligned_names(suspect: Graph, reference: Graph, makers: dict[str, int], given: dict[str, str]) -> dict[str, str]:
    """Outputs of the suspect's nodes that answer to some of the reference's by their names."""
    outputs = [(name, node.op) for node in suspect.nodes for name in node.outputs if name]
    sure = {name: given[name] for name, _ in outputs if given.get(name) in makers}
    same = [(name, op == reference.nodes[makers[name]].op) for name, op in outputs if name in makers]
    return sure | ({name: name for name, _ in same} if _trusted(suspect, reference, same, len(outputs)) else {})


def _trusted(suspect: Graph, reference: Graph, same: list[tuple[str, bool]], outputs: int) -> bool:
    """Whether names count: most nodes that share one have the same operator, or nodes were fused and the rest kept their names."""
    alike = sum(one for _, one in same)
    rewritten = len(suspect.nodes) != len(reference.nodes)
    return 3 * alike >= 2 * len(same) or (rewritten and 4 * len(same) >= 3 * outputs)


def _aligned_outputs(node: Node, other: Node, names: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """By name; those whose name says nothing by their place, if the operator is the same and no name claims that place."""
    found = {name: names[name] for name in node.outputs if name in names}
    if node.op == other.op:
        claimed = set(names.values())
        by_place = zip(node.outputs, other.outputs, strict=False)
        found |= {a: b for a, b in by_place if a and b and a not in found and b not in claimed}
    return tuple(found.items())


def _aligned_constants(suspect: Graph, reference: Graph, *, by_name: bool) -> dict[str, str]:
    """Initializers by name, if names count; the others by what they hold."""
    found = {name: name for name in suspect.tensors if name in reference.tensors} if by_name else {}
    by_content = {_content(data): name for name, data in reference.tensors.items() if name not in found}
    answers = ((name, by_content.get(_content(data))) for name, data in suspect.tensors.items() if name not in found)
    return found | {name: answer for name, answer in answers if answer is not None}


def _content(data: memoryview) -> bytes:
    array = graphs.tensor_array(data)
    return bytes(data) if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _likeness(node: Node, reference: Graph, other: Node, values: dict[str, str]) -> int:
    """How many attributes and constants are equal where both nodes have one operator and read the same values; else -1."""
    if (node.op, node.domain, len(node.inputs)) != (other.op, other.domain, len(other.inputs)):
        return -1
    inputs = [(values.get(mine, "") if mine else "", yours) for mine, yours in zip(node.inputs, other.inputs, strict=True)]
    computed = [(mine, yours) for mine, yours in inputs if yours not in reference.tensors]
    if any(mine != yours for mine, yours in computed) or not any(mine for mine, _ in computed):
        return -1
    same = sum(one.plain == other.attributes[name].plain for name, one in node.attributes.items() if name in other.attributes)
    return same + sum(mine == yours for mine, yours in inputs)


def values_of(pairs: Iterator[Pair] | tuple[Pair, ...]) -> list[tuple[Pair, Value, Value]]:
    """Every aligned output of nodes with its pair: in the suspect, and in the reference."""
    return [(pair, Value(pair.place, a), Value(pair.reference_place, b)) for pair in pairs for a, b in pair.outputs]
