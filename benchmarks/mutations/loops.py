"""`Scan` nodes whose state or sequences go astray: a body that forgets, two states exchanged, the wrong direction.

A Scan's inputs are its N initial states, then the sequences; its outputs the N final states, then what is collected. The body's
inputs and outputs come in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, helper

from .editing import Edit, Editor, Edits, attribute, label, set_attribute
from .kinds import kind
from .recurrent import edits


def scans(editor: Editor) -> Iterator[tuple[NodeProto, GraphProto, int]]:
    """Each Scan, its body and how many states it has."""
    for node in editor.nodes("Scan"):
        yield node, attribute(node, "body"), len(node.input) - attribute(node, "num_scan_inputs")


def give(body: GraphProto, at: int, source: str) -> None:
    """Make one output of a body an earlier value of it."""
    name = body.output[at].name
    inner = f"mutation_inner_{at}"
    for node in body.node:
        node.output[:] = [inner if value == name else value for value in node.output]
        node.input[:] = [inner if value == name else value for value in node.input]
    body.node.append(helper.make_node("Identity", [inner if source == name else source], [name]))


@kind("body keeps no state")
def _forgets(editor: Editor) -> Edits:
    """A loop's body gives back the state that it was given."""
    for node, body, states in scans(editor):
        for at in range(states):
            yield Edit(f"{label(node)}, state {at}", lambda b=body, at=at: give(b, at, b.input[at].name))  # type: ignore[misc]


@kind("output before the step")
def _before(editor: Editor) -> Edits:
    """What a loop collects is the state before the step instead of after it."""
    for node, body, states in scans(editor):
        for at in range(states):
            for collected in range(states, len(body.output)):
                if _steps_of(editor, node, collected) == _type(editor, node.input[at]):
                    edit = lambda b=body, at=at, c=collected: give(b, c, b.input[at].name)  # noqa: E731
                    yield Edit(f"{label(node)}, output {collected}, state {at}", edit)


def _type(editor: Editor, name: str) -> tuple[int, list[str | int]] | None:
    found = editor.types.get(name)
    return found if found and all(size != "" for size in found[1]) else None


def _steps_of(editor: Editor, node: NodeProto, collected: int) -> tuple[int, list[str | int]] | None:
    found = _type(editor, node.output[collected]) if node.output[collected] else None
    return found and (found[0], found[1][1:])


def pairs(editor: Editor) -> Iterator[tuple[NodeProto, GraphProto, int, int]]:
    """Two states of one size in a loop."""
    for node, body, states in scans(editor):
        for first in range(states):
            for last in range(first + 1, states):
                types = [_type(editor, node.input[at]) for at in (first, last)]
                if types[0] and types[0] == types[1]:
                    yield node, body, first, last


@kind("body swaps two states")
def _swaps(editor: Editor) -> Edits:
    """A loop's body gives back two states exchanged."""
    for node, body, first, last in pairs(editor):

        def swap(body: GraphProto = body, first: int = first, last: int = last) -> None:
            _exchange(body, first, last)

        yield Edit(f"{label(node)}, states {first} and {last}", swap)


def _exchange(body: GraphProto, first: int, last: int) -> None:
    names = [body.output[at].name for at in (first, last)]
    inner = {name: f"mutation_inner_{at}" for at, name in enumerate(names)}
    for node in body.node:
        node.output[:] = [inner.get(value, value) for value in node.output]
        node.input[:] = [inner.get(value, value) for value in node.input]
    body.node.extend(helper.make_node("Identity", [inner[source]], [name]) for name, source in zip(names, names[::-1], strict=True))


@kind("initial states swapped")
def _initial(editor: Editor) -> Edits:
    """A loop's initial states are exchanged."""
    for node, _, first, last in pairs(editor):

        def swap(node: NodeProto = node, first: int = first, last: int = last) -> None:
            node.input[first], node.input[last] = node.input[last], node.input[first]

        yield Edit(f"{label(node)}, states {first} and {last}", swap)


@kind("final states swapped")
def _final(editor: Editor) -> Edits:
    """A loop's final states are exchanged."""
    for node, _, first, last in pairs(editor):
        if node.output[first] and node.output[last]:

            def swap(node: NodeProto = node, first: int = first, last: int = last) -> None:
                node.output[first], node.output[last] = node.output[last], node.output[first]

            yield Edit(f"{label(node)}, states {first} and {last}", swap)


@kind("loop starts from zeros")
def _zeros(editor: Editor) -> Edits:
    """A loop starts from zeros whatever state it is given."""
    for node, _, states in scans(editor):
        for at in range(states):

            def harm(node: NodeProto = node, at: int = at) -> None:
                editor.set_input(node, at, editor.insert(node, "Sub", [node.input[at], node.input[at]]))

            yield Edit(f"{label(node)}, state {at}", harm)


@kind("loop runs backwards")
def _backwards(editor: Editor) -> Edits:
    """A loop reads its sequences from the other end."""

    def harm(node: NodeProto) -> None:
        set_attribute(node, "scan_input_directions", [1 - d for d in attribute(node, "scan_input_directions")])

    yield from edits([node for node, _, _ in scans(editor) if attribute(node, "scan_input_directions")], harm)


@kind("loop output not flipped back")
def _not_flipped(editor: Editor) -> Edits:
    """What a loop collects comes in the reverse order."""

    def harm(node: NodeProto) -> None:
        set_attribute(node, "scan_output_directions", [1 - d for d in attribute(node, "scan_output_directions")])

    yield from edits([node for node, _, _ in scans(editor) if attribute(node, "scan_output_directions")], harm)
