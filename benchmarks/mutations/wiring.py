"""Values that go to the wrong place, or the wrong part of a value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto

from .editing import Array, Edit, Editor, Edits, attribute, label, set_attribute
from .kinds import kind
from .recurrent import edits

SMALLEST, LARGEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def sums(editor: Editor) -> list[NodeProto]:
    """Additions of two computed values."""
    constants = editor.constants()
    return [node for node in editor.nodes("Add") if not any(name in constants for name in node.input)]


@kind("first summand dropped")
def _first_dropped(editor: Editor) -> Edits:
    """Of two values that are added, such as a skip and what it skips, the first is left out."""
    yield from edits(sums(editor), lambda node: editor.remove(node, node.input[1]))


@kind("second summand dropped")
def _second_dropped(editor: Editor) -> Edits:
    """Of two values that are added, the second is left out."""
    yield from edits(sums(editor), lambda node: editor.remove(node, node.input[0]))


@kind("summand doubled")
def _doubled(editor: Editor) -> Edits:
    """Of two values that are added, one is added twice."""

    def harm(node: NodeProto) -> None:
        twice = editor.insert(node, "Add", [node.input[0], node.input[0]])
        editor.set_input(node, 0, twice)

    yield from edits(sums(editor), harm)


@kind("sign of a sum")
def _sign(editor: Editor) -> Edits:
    """Two values are subtracted instead of added."""

    def harm(node: NodeProto) -> None:
        node.op_type = "Sub"

    yield from edits(sums(editor), harm)


@kind("factor dropped")
def _factor(editor: Editor) -> Edits:
    """Of two computed values that are multiplied, such as a gate and what it lets through, the first is left out."""
    constants = editor.constants()
    nodes = [n for n in editor.nodes("Mul") if not any(name in constants for name in n.input) and n.input[0] != n.input[1]]
    yield from edits(nodes, lambda node: editor.remove(node, node.input[1]))


@kind("concatenation order")
def _concatenation(editor: Editor) -> Edits:
    """Values are put together in the reverse order."""

    def harm(node: NodeProto) -> None:
        names = list(node.input)[::-1]
        del node.input[:]
        node.input.extend(names)

    yield from edits(editor.nodes("Concat"), harm)


@kind("permutation")
def _permutation(editor: Editor) -> Edits:
    """A transposition exchanges two more axes."""

    def harm(node: NodeProto) -> None:
        first, second, *rest = attribute(node, "perm")
        set_attribute(node, "perm", [second, first, *rest])

    yield from edits([node for node in editor.nodes("Transpose") if attribute(node, "perm")], harm)


@kind("reshape for transposition")
def _reshape(editor: Editor) -> Edits:
    """Two axes are exchanged by a reshape, which gives the right shape and the wrong order."""

    def harm(node: NodeProto) -> None:
        shape = editor.insert(node, "Shape", [node.input[0]])
        permuted = editor.insert(node, "Gather", [shape, np.array(attribute(node, "perm"))], axis=0)
        editor.remove(node, editor.insert(node, "Reshape", [node.input[0], permuted]))

    yield from edits([node for node in editor.nodes("Transpose") if attribute(node, "perm")], harm)


def number(editor: Editor, operators: tuple[str, ...], position: int, change: Callable[[Array], Array]) -> Edits:
    """Changes a constant whole number that a node is given."""
    for node in editor.nodes(*operators):
        value = editor.constant(node, position)
        if value is not None and value.dtype == np.int64:
            yield Edit(label(node), lambda n=node, v=value: editor.set_input(n, position, change(v)))  # type: ignore[misc]


@kind("index off by one")
def _index(editor: Editor) -> Edits:
    """A part of a value is taken one place further on, or one before where it was the last."""
    yield from number(editor, ("Gather",), 1, lambda value: np.where(value == -1, -2, value + 1))


@kind("index clamped")
def _clamped(editor: Editor) -> Edits:
    """Places that are computed, such as a sequence's last step, are one too small."""
    for node in editor.nodes("GatherElements"):

        def harm(node: NodeProto = node) -> None:
            less = editor.insert(node, "Sub", [node.input[1], np.array(1)])
            editor.set_input(node, 1, editor.insert(node, "Max", [less, np.array(0)]))

        yield Edit(label(node), harm)


@kind("last step at T")
def _last_step(editor: Editor) -> Edits:
    """A step that is taken at each sequence's length is taken at the end of the batch."""
    nodes = [node for node in editor.nodes("GatherElements") if attribute(node, "axis", 0) == 0]
    yield from edits(
        nodes, lambda node: editor.remove(node, editor.insert(node, "Gather", [node.input[0], np.array([-1])], axis=0))
    )


@kind("slice starts late")
def _starts(editor: Editor) -> Edits:
    """A slice starts one place later."""
    yield from number(editor, ("Slice",), 1, lambda value: np.where(value == -1, value, value + 1))


@kind("slice ends early")
def _ends(editor: Editor) -> Edits:
    """A slice ends one place earlier."""
    yield from number(editor, ("Slice",), 2, lambda value: np.where(value == LARGEST, -1, value - 1))


@kind("slice shifted")
def _shifted(editor: Editor) -> Edits:
    """A slice from the front or to the end is taken at the other side, as long as it was."""

    def other_side(start: Array, end: Array) -> tuple[Array, Array] | None:
        if (start > 0).all() and (end == LARGEST).all():
            return 0 * start, -start
        if (start == 0).all() and (end < 0).all() and (end > SMALLEST // 2).all():
            return -end, np.full_like(end, LARGEST)
        return None

    for node in editor.nodes("Slice"):
        start, end = editor.constant(node, 1), editor.constant(node, 2)
        moved = None if start is None or end is None else other_side(start, end)
        if moved is not None:

            def harm(node: NodeProto = node, moved: tuple[Array, Array] = moved) -> None:
                editor.set_input(node, 1, moved[0])
                editor.set_input(node, 2, moved[1])

            yield Edit(label(node), harm)


@kind("parts of a split swapped")
def _split(editor: Editor) -> Edits:
    """Two parts of an even split, such as two gates, are exchanged."""

    def harm(node: NodeProto) -> None:
        node.output[0], node.output[1] = node.output[1], node.output[0]

    yield from edits([n for n in editor.nodes("Split") if attribute(n, "num_outputs") and len(n.output) > 1], harm)


@kind("frozen size")
def _frozen(editor: Editor) -> Edits:
    """A size that follows from the input is the one it had when the model was traced."""
    traced = np.array([7])
    for node in editor.nodes("Shape"):
        if attribute(node, "end", 0) - attribute(node, "start", 0) == 1:
            yield Edit(label(node), lambda n=node: editor.remove(n, editor.add_constant(traced)))  # type: ignore[misc]
    for node in editor.nodes("Reshape"):
        shape = editor.constant(node, 1)
        if shape is not None and (shape == -1).any():
            yield Edit(label(node), lambda n=node, s=shape: editor.set_input(n, 1, np.where(s == -1, 7, s)))  # type: ignore[misc]


@kind("frozen input axis")
def _frozen_input(editor: Editor) -> Edits:
    """An input is declared to have the size of the example."""
    for value in editor.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and dim.dim_param != "B":
                yield Edit(f"{value.name}, axis {axis}", lambda d=dim: setattr(d, "dim_value", 7))  # type: ignore[misc]


@kind("long sequences cut")
def _long(editor: Editor) -> Edits:
    """After 16 steps an output repeats step 16, as where a fixed number of steps was unrolled."""
    for node in editor.graph.node:
        for at, name in enumerate(node.output):
            output = next((o for o in editor.graph.output if o.name == name), None)
            dims = output.type.tensor_type.shape.dim if output is not None else ()
            if output is None or not dims or dims[0].dim_param != "T" or output.type.tensor_type.elem_type != TensorProto.FLOAT:
                continue

            def harm(node: NodeProto = node, at: int = at) -> None:
                def cut(inner: str) -> str:
                    insert = editor.after(node)
                    steps = insert("Squeeze", [insert("Shape", [inner], start=0, end=1)])
                    time = insert("Range", [np.array(0), steps, np.array(1)])
                    return insert("Gather", [inner, insert("Min", [time, np.array(15)])], axis=0)

                editor.replace(node, at, cut)

            yield Edit(name, harm)


@kind("outputs swapped")
def _outputs(editor: Editor) -> Edits:
    """Two outputs of one shape have each other's values."""
    outputs = [(o, [(d.dim_param or d.dim_value) for d in o.type.tensor_type.shape.dim]) for o in editor.graph.output]
    for at, (first, shape) in enumerate(outputs):
        for last, other in outputs[at + 1 :]:
            if shape == other and first.type.tensor_type.elem_type == last.type.tensor_type.elem_type:
                yield Edit(f"{first.name}, {last.name}", lambda a=first.name, b=last.name: _swap(editor, a, b))  # type: ignore[misc]


def _swap(editor: Editor, first: str, last: str) -> None:
    makers = [(node, list(node.output).index(name)) for name in (first, last) for node in editor.graph.node if name in node.output]
    (one, at), (other, also) = makers
    inner = editor.fresh()
    for node in editor.nodes():
        for position, name in enumerate(node.input):
            if name in (first, last):
                node.input[position] = inner + name
    one.output[at], other.output[also] = inner + first, inner + last
    for name, source in ((first, last), (last, first)):
        editor.graph.node.add(op_type="Identity", input=[inner + source], output=[name])


@kind("output state not continued")
def _state(editor: Editor) -> Edits:
    """A state is given back as it came in."""
    inputs = {value.name: value.type for value in editor.graph.input}
    for output in editor.graph.output:
        source = output.name.removesuffix("_out")
        node = next((n for n in editor.graph.node if output.name in n.output), None)
        if inputs.get(source) == output.type and source != output.name and node is not None:

            def harm(node: NodeProto = node, name: str = output.name, source: str = source) -> None:
                at = list(node.output).index(name)
                editor.replace(node, at, lambda _: editor.insert(node, "Identity", [source], after=True))

            yield Edit(output.name, harm)
