"""A graph as boxes and arrows to draw: recurrent nodes each on its own, simple ones gathered so that hundreds stay readable.

Chains of simple nodes become one box. Where that leaves too many boxes, simple nodes that lie between the same recurrent nodes do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from edgeseq_runtime.onnx_wire import Graph, Node, ValueInfo, free_names
from edgeseq_runtime.report.sources import LOOPS, NATIVE, RECURRENT, Value, Values, values_of, weights_of

CROWDED = 32  # boxes of simple nodes; beyond, they are gathered between recurrent nodes
MAX_BODIES = 4  # of bodies within bodies that are drawn

Edges = set[tuple[int, int]]  # (from, to)


class Body(NamedTuple):
    """The graph inside a node; it has a name where there are several."""

    name: str
    diagram: Diagram


class Box(NamedTuple):
    """One box: a tensor of the interface, a recurrent node, or one or more simple nodes."""

    kind: str  # "input", "output", "recurrent", "branch" or "simple"
    title: str
    facts: tuple[str, ...]
    nodes: int  # how many it stands for
    weights: int
    bodies: tuple[Body, ...] = ()


class Diagram(NamedTuple):
    """Boxes by number, arrows between them, and what isn't drawn."""

    boxes: tuple[Box, ...]
    edges: frozenset[tuple[int, int]]
    nodes: int  # of the graph
    hidden: int  # of them, computing constants and sizes alone


class _Item(NamedTuple):
    """A node worth drawing, or an input or output, before anything is gathered."""

    kind: str
    node: Node | None
    spec: ValueInfo | None


def diagram_of(graph: Graph, outer: Mapping[str, Value] | None = None, depth: int = 0) -> Diagram:
    """The drawing of a graph; bodies of its nodes are drawings of their own."""
    values, kept = values_of(graph, outer or {})
    items = [_Item("input", None, spec) for spec in graph.inputs]
    items += [_Item(_kind(graph.nodes[index]), graph.nodes[index], None) for index in kept]
    items += [_Item("output", None, spec) for spec in graph.outputs]
    edges = _edges(items)
    groups = _gathered(items, edges)
    known = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
    boxes = _numbered([_box([items[one] for one in group], values, known, depth) for group in groups])
    place = {one: number for number, group in enumerate(groups) for one in group}
    between = frozenset((place[a], place[b]) for a, b in edges if place[a] != place[b])
    return Diagram(boxes, between, len(graph.nodes), len(graph.nodes) - len(kept))


def _kind(node: Node) -> str:
    if node.op in RECURRENT:
        return "recurrent"
    return "branch" if node.graphs else "simple"


def _edges(items: list[_Item]) -> Edges:
    producer: dict[str, int] = {}
    for number, item in enumerate(items):
        made = item.node.outputs if item.node else (item.spec.name,) if item.spec and item.kind == "input" else ()
        producer.update({name: number for name in made if name})
    edges: Edges = set()
    for number, item in enumerate(items):
        if item.node:
            wanted = [*item.node.inputs, *(name for body in item.node.graphs.values() for name in free_names(body))]
        else:
            wanted = [item.spec.name] if item.spec and item.kind == "output" else []
        edges |= {(producer[name], number) for name in wanted if name in producer and producer[name] != number}
    return edges


def _gathered(items: list[_Item], edges: Edges) -> list[list[int]]:
    """Items by box, both in the order of the graph."""
    chains = _chains(items, edges)
    if sum(items[group[0]].kind == "simple" for group in chains) <= CROWDED:
        return chains
    return _regions(items, edges)


def _chains(items: list[_Item], edges: Edges) -> list[list[int]]:
    after, before = _neighbours(edges)
    groups: list[list[int]] = []
    group_of: dict[int, list[int]] = {}
    for number, item in enumerate(items):
        sources = before[number]
        source = sources[0] if len(sources) == 1 else None
        if item.kind == "simple" and source is not None and items[source].kind == "simple" and len(after[source]) == 1:
            group = group_of[source]
        else:
            group = []
            groups.append(group)
        group.append(number)
        group_of[number] = group
    return groups


def _regions(items: list[_Item], edges: Edges) -> list[list[int]]:
    """Simple items with the same recurrent ones (and inputs) before and after them, as far as they hang together.

    What is before only grows along an arrow, and what is after only shrinks: so the boxes have no cycle.
    """
    after, before = _neighbours(edges)
    marks = {number: frozenset([number]) for number, item in enumerate(items) if item.kind != "simple"}
    upstream: dict[int, frozenset[int]] = {}
    downstream: dict[int, frozenset[int]] = {}
    for number in range(len(items)):
        upstream[number] = _union(upstream[one] | marks.get(one, frozenset()) for one in before[number] if one in upstream)
    for number in reversed(range(len(items))):
        downstream[number] = _union(downstream[one] | marks.get(one, frozenset()) for one in after[number] if one in downstream)
    groups: list[list[int]] = []
    group_of: dict[int, list[int]] = {}
    for number, item in enumerate(items):
        alike = [
            one for one in before[number] if item.kind == items[one].kind == "simple" and one in group_of
            and (upstream[one], downstream[one]) == (upstream[number], downstream[number])
        ]  # fmt: skip
        group = group_of[alike[0]] if alike else []
        if not alike:
            groups.append(group)
        group.append(number)
        group_of[number] = group
        for one in alike[1:]:
            _merge(groups, group_of, group, group_of[one])
    return groups


def _merge(groups: list[list[int]], group_of: dict[int, list[int]], into: list[int], other: list[int]) -> None:
    if other is into:
        return
    groups[:] = [group for group in groups if group is not other]
    into.extend(other)
    into.sort()
    group_of.update(dict.fromkeys(other, into))


def _union(sets: Iterable[frozenset[int]]) -> frozenset[int]:
    return frozenset().union(*sets)


def _neighbours(edges: Edges) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    after: dict[int, list[int]] = defaultdict(list)
    before: dict[int, list[int]] = defaultdict(list)
    for source, target in sorted(edges):
        after[source].append(target)
        before[target].append(source)
    return after, before


def _box(items: list[_Item], values: Values, known: Mapping[str, ValueInfo], depth: int) -> Box:
    first = items[0]
    if first.spec:
        return Box(first.kind, first.spec.name, (_tensor_text(first.spec),), 0, 0)
    nodes = [item.node for item in items if item.node]
    weights: dict[str, int] = {}
    for node in nodes:
        weights |= weights_of(node, values)
    if first.kind == "simple":
        return Box("simple", _operators(nodes), (), len(nodes), sum(weights.values()))
    return Box(first.kind, nodes[0].op, _facts(nodes[0], known), 1, sum(weights.values()), _bodies(nodes[0], values, depth))


def _bodies(node: Node, values: Values, depth: int) -> tuple[Body, ...]:
    if depth == MAX_BODIES:
        return ()
    many = len(node.graphs) > 1
    return tuple(Body(name if many else "", diagram_of(graph, values, depth + 1)) for name, graph in node.graphs.items())


def _numbered(boxes: list[Box]) -> tuple[Box, ...]:
    """Boxes whose insides are drawn apart are told from each other by a number, where several have the same title."""
    alike = Counter(box.title for box in boxes if box.bodies)
    seen: Counter[str] = Counter()
    numbered = []
    for box in boxes:
        seen[box.title] += bool(box.bodies)
        several = box.bodies and alike[box.title] > 1
        numbered.append(box._replace(title=f"{box.title} {seen[box.title]}") if several else box)
    return tuple(numbered)


def _operators(nodes: list[Node]) -> str:
    """A chain in its order; more than a few by their number."""
    runs = [(op, len(list(same))) for op, same in groupby(node.op for node in nodes)]
    if len(runs) <= 6:
        return " → ".join(op if count == 1 else f"{count} × {op}" for op, count in runs)
    common = Counter(node.op for node in nodes).most_common()
    rest = sum(count for _, count in common[4:])
    named = [f"{count} {op}" for op, count in common[:4]] + ([f"{rest} more"] if rest else [])
    return f"{len(nodes)} nodes: {', '.join(named)}"


def _facts(node: Node, known: Mapping[str, ValueInfo]) -> tuple[str, ...]:
    if node.op in NATIVE:
        hidden = node.integers.get("hidden_size", ())
        direction = node.texts.get("direction", "forward")
        return (*(f"{size} hidden units" for size in hidden[:1]), direction)
    if node.op in LOOPS and "body" in node.graphs:
        states = [_tensor_text(spec) for spec in _states(node, known)]
        alike = Counter(text for text in states if text)
        shown = [text if count == 1 else f"{count} × {text}" for text, count in alike.most_common(3)]
        return (f"{len(states)} state{'s' * (len(states) != 1)}", *shown, *_reverse(node))
    inside = Counter(_recurrent_inside(node))
    return tuple(f"{count} {op} inside" for op, count in inside.items())


def _recurrent_inside(node: Node) -> Iterator[str]:
    for body in node.graphs.values():
        for inner in body.nodes:
            yield from (inner.op,) if inner.op in RECURRENT else ()
            yield from _recurrent_inside(inner)


def _states(node: Node, known: Mapping[str, ValueInfo]) -> list[ValueInfo]:
    """What the body hands from one step to the next, as the body declares it, or as what it starts from or ends as is."""
    inputs, first = list(node.graphs["body"].inputs), 0
    if node.op == "Scan":
        inputs = inputs[: max(len(inputs) - next(iter(node.integers.get("num_scan_inputs", ())), 0), 0)]
    else:
        first = 2  # after the count of iterations and the condition
        inputs = inputs[first:]
    found = []
    for number, spec in enumerate(inputs):
        outside = (*node.inputs[first + number : first + number + 1], *node.outputs[number : number + 1])
        found.append(
            next((one for one in (spec, *(known[name] for name in outside if name in known)) if one.shape is not None), spec)
        )
    return found


def _reverse(node: Node) -> tuple[str, ...]:
    return ("backward in time",) if 1 in node.integers.get("scan_input_directions", ()) else ()


def _tensor_text(spec: ValueInfo) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]" if spec.shape is not None else spec.dtype
