"""Nodes `LSTM`, `GRU` and `RNN` whose weights, attributes or states are not what the layer's are.

Their inputs are X, W, R, B, sequence_lens, initial_h, initial_c and P; their outputs Y (T, D, B, H), Y_h and Y_c (D, B, H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from onnx import NodeProto

from edgeseq_export.gates import ONNX_GATES, ONNX_PEEPHOLES, TORCH_GATES, TORCH_PEEPHOLES

from .editing import Array, Edit, Editor, Edits, attribute, label, set_attribute
from .kinds import kind

W, R, BIAS, LENGTHS, H, C, P = 1, 2, 3, 4, 5, 6, 7
Y, Y_H, Y_C = 0, 1, 2
GATED = ("LSTM", "GRU")
RECURRENT = (*GATED, "RNN")


def given(node: NodeProto, position: int) -> bool:
    """Whether an input is there."""
    return len(node.input) > position and bool(node.input[position])


def made(node: NodeProto, position: int) -> bool:
    """Whether an output is there."""
    return len(node.output) > position and bool(node.output[position])


def edits(nodes: Sequence[NodeProto], harm: Callable[[NodeProto], object]) -> Edits:
    """The same harm to each node."""
    for node in nodes:
        yield Edit(label(node), partial(harm, node))


def change(editor: Editor, node: NodeProto, position: int, function: Callable[[Array], Array]) -> None:
    """Give a node an input of its own, made from the constant that it had."""
    value = editor.constant(node, position)
    if value is not None:
        editor.set_input(node, position, function(value).astype(value.dtype))


def gates_moved(value: Array, order: Sequence[int], axis: int = 1) -> Array:
    """The gates of W, R or P in another order."""
    return np.concatenate([np.split(value, len(order), axis=axis)[at] for at in order], axis=axis)


def biases_moved(value: Array, order: Sequence[int]) -> Array:
    """The gates of both halves of B in another order."""
    return np.concatenate([gates_moved(half, order) for half in np.split(value, 2, axis=1)], axis=1)


def torch_order(node: NodeProto) -> list[int]:
    """Where PyTorch's gates are among ONNX's."""
    return [ONNX_GATES[node.op_type].index(gate) for gate in TORCH_GATES[node.op_type]]


@kind("gate order of PyTorch")
def _gate_order(editor: Editor) -> Edits:
    """All gates are in PyTorch's order instead of ONNX's."""

    def harm(node: NodeProto) -> None:
        for position in (W, R):
            change(editor, node, position, lambda value: gates_moved(value, torch_order(node)))
        change(editor, node, BIAS, lambda value: biases_moved(value, torch_order(node)))

    yield from edits(editor.nodes(*GATED), harm)


@kind("gate order in B")
def _gate_order_in_bias(editor: Editor) -> Edits:
    """The biases alone are in PyTorch's order of gates."""
    nodes = [node for node in editor.nodes(*GATED) if given(node, BIAS)]
    yield from edits(nodes, lambda node: change(editor, node, BIAS, lambda value: biases_moved(value, torch_order(node))))


@kind("two gates of R swapped")
def _gates_of_r(editor: Editor) -> Edits:
    """The first two gates of the recurrent weights are exchanged."""

    def harm(node: NodeProto) -> None:
        change(editor, node, R, lambda value: gates_moved(value, [1, 0, *range(2, len(ONNX_GATES[node.op_type]))]))

    yield from edits(editor.nodes(*GATED), harm)


@kind("recurrence transposed")
def _transposed(editor: Editor) -> Edits:
    """Each gate's recurrent matrix is transposed."""

    def harm(node: NodeProto) -> None:
        def transpose(value: Array) -> Array:
            D, _, size = value.shape
            return value.reshape(D, -1, size, size).swapaxes(2, 3).reshape(value.shape)

        change(editor, node, R, transpose)

    yield from edits(editor.nodes(*RECURRENT), harm)


@kind("W and R swapped")
def _w_and_r(editor: Editor) -> Edits:
    """Input and recurrent weights are exchanged."""

    def harm(node: NodeProto) -> None:
        node.input[W], node.input[R] = node.input[R], node.input[W]

    yield from edits([n for n in editor.nodes(*RECURRENT) if _shape(editor, n, W) == _shape(editor, n, R)], harm)


def _shape(editor: Editor, node: NodeProto, position: int) -> tuple[int, ...]:
    value = editor.constant(node, position)
    return () if value is None else value.shape


def bidirectional(editor: Editor) -> list[NodeProto]:
    """Nodes with both directions."""
    return [node for node in editor.nodes(*RECURRENT) if attribute(node, "direction") == "bidirectional"]


def directions(order: Sequence[int], editor: Editor) -> Callable[[NodeProto], None]:
    """Takes the weights of these directions."""

    def harm(node: NodeProto) -> None:
        for position in (W, R, BIAS, P):
            change(editor, node, position, lambda value: value[list(order)])

    return harm


@kind("directions' weights swapped")
def _directions_swapped(editor: Editor) -> Edits:
    """The two directions have each other's weights."""
    yield from edits(bidirectional(editor), directions((1, 0), editor))


@kind("one direction's weights twice")
def _direction_twice(editor: Editor) -> Edits:
    """The backward direction has the forward direction's weights."""
    yield from edits(bidirectional(editor), directions((0, 0), editor))


@kind("direction")
def _direction(editor: Editor) -> Edits:
    """A layer runs the other way."""

    def harm(node: NodeProto) -> None:
        set_attribute(node, "direction", "forward" if attribute(node, "direction") == "reverse" else "reverse")

    yield from edits([node for node in editor.nodes(*RECURRENT) if attribute(node, "direction") != "bidirectional"], harm)


@kind("directions' outputs swapped")
def _outputs_swapped(editor: Editor) -> Edits:
    """The backward direction's outputs come first."""
    swap = np.array([1, 0])
    yield from edits(
        [node for node in bidirectional(editor) if made(node, Y)],
        lambda node: editor.replace(node, Y, lambda y: editor.insert(node, "Gather", [y, swap], after=True, axis=1)),
    )


@kind("output not flipped back")
def _not_flipped(editor: Editor) -> Edits:
    """What the backward direction gives stays in the order in which it was computed."""

    def harm(node: NodeProto) -> None:
        def flipped(y: str) -> str:
            insert = editor.after(node)
            forward = insert("Gather", [y, np.array([0])], axis=1)
            backward = insert("Gather", [y, np.array([1])], axis=1)
            one, end = np.array([-1]), np.array([np.iinfo(np.int64).min])
            turned = insert("Slice", [backward, one, end, np.array([0]), one])
            return insert("Concat", [forward, turned], axis=1)

        editor.replace(node, Y, flipped)

    yield from edits([node for node in bidirectional(editor) if made(node, Y)], harm)


@kind("linear_before_reset")
def _linear_before_reset(editor: Editor) -> Edits:
    """A GRU is of the other form: reset before or after the matrix product."""
    yield from edits(
        editor.nodes("GRU"),
        lambda node: set_attribute(node, "linear_before_reset", 1 - attribute(node, "linear_before_reset", 0)),
    )


ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def activations(at: int, function: str, **parameters: list[float]) -> Callable[[NodeProto], None]:
    """Takes another function in one place, in each direction."""

    def harm(node: NodeProto) -> None:
        D = 2 if attribute(node, "direction") == "bidirectional" else 1
        found = attribute(node, "activations") or ACTIVATIONS[node.op_type] * D
        size = len(found) // D
        set_attribute(node, "activations", [function if i % size == at % size else name for i, name in enumerate(found)])
        for name, value in parameters.items():
            set_attribute(node, name, value * D)

    return harm


@kind("hard sigmoid gates")
def _hard_sigmoid(editor: Editor) -> Edits:
    """Gates are hard sigmoids, as in older Keras."""
    yield from edits(editor.nodes(*GATED), activations(0, "HardSigmoid", activation_alpha=[0.2], activation_beta=[0.5]))


@kind("another last activation")
def _last_activation(editor: Editor) -> Edits:
    """The last activation of a recurrent node is a softsign."""
    yield from edits(editor.nodes(*RECURRENT), activations(-1, "Softsign"))


@kind("clip")
def _clip(editor: Editor) -> Edits:
    """Gates are clipped at 1 before their activations."""
    yield from edits(editor.nodes(*RECURRENT), lambda node: set_attribute(node, "clip", 1.0))


@kind("input_forget")
def _input_forget(editor: Editor) -> Edits:
    """An LSTM's input and forget gates are coupled."""
    yield from edits(editor.nodes("LSTM"), lambda node: set_attribute(node, "input_forget", 1))


def with_bias(editor: Editor) -> list[NodeProto]:
    """Recurrent nodes with biases."""
    return [node for node in editor.nodes(*RECURRENT) if given(node, BIAS)]


@kind("biases dropped")
def _no_bias(editor: Editor) -> Edits:
    """A recurrent node has no biases."""
    yield from edits(with_bias(editor), lambda node: editor.set_input(node, BIAS, ""))


@kind("halves of B swapped")
def _halves_swapped(editor: Editor) -> Edits:
    """Biases of the input and of the recurrence are exchanged; it matters to a GRU alone."""
    harm = lambda node: change(editor, node, BIAS, lambda value: gates_moved(value, (1, 0)))  # noqa: E731
    yield from edits(with_bias(editor), harm)


@kind("recurrent bias dropped")
def _recurrent_bias(editor: Editor) -> Edits:
    """The biases of the recurrence are zeros."""

    def harm(node: NodeProto) -> None:
        change(editor, node, BIAS, lambda value: np.concatenate([np.split(value, 2, 1)[0], 0 * np.split(value, 2, 1)[1]], axis=1))

    yield from edits(with_bias(editor), harm)


def with_peepholes(editor: Editor) -> list[NodeProto]:
    """LSTMs with input P."""
    return [node for node in editor.nodes("LSTM") if given(node, P)]


@kind("peepholes dropped")
def _no_peepholes(editor: Editor) -> Edits:
    """An LSTM has no peepholes."""
    yield from edits(with_peepholes(editor), lambda node: editor.set_input(node, P, ""))


@kind("peephole order of PyTorch")
def _peephole_order(editor: Editor) -> Edits:
    """Peepholes are in the order of the module instead of ONNX's."""
    order = [ONNX_PEEPHOLES.index(gate) for gate in TORCH_PEEPHOLES]
    yield from edits(with_peepholes(editor), lambda node: change(editor, node, P, lambda value: gates_moved(value, order)))


@kind("initial state ignored")
def _initial_state(editor: Editor) -> Edits:
    """A recurrence starts from zeros whatever state it is given."""

    def harm(node: NodeProto) -> None:
        for position in (H, C):
            if given(node, position):
                editor.set_input(node, position, "")

    yield from edits([node for node in editor.nodes(*RECURRENT) if given(node, H)], harm)


@kind("h and c swapped on entry")
def _states_in(editor: Editor) -> Edits:
    """An LSTM's two initial states are exchanged."""

    def harm(node: NodeProto) -> None:
        node.input[H], node.input[C] = node.input[C], node.input[H]

    yield from edits([node for node in editor.nodes("LSTM") if given(node, C)], harm)


@kind("h and c swapped on exit")
def _states_out(editor: Editor) -> Edits:
    """An LSTM's two final states are exchanged."""

    def harm(node: NodeProto) -> None:
        node.output[Y_H], node.output[Y_C] = node.output[Y_C], node.output[Y_H]

    yield from edits([node for node in editor.nodes("LSTM") if made(node, Y_H) and made(node, Y_C)], harm)


@kind("state not carried")
def _not_carried(editor: Editor) -> Edits:
    """The final state is the initial state."""

    def harm(node: NodeProto) -> None:
        editor.replace(node, Y_H, lambda _: editor.insert(node, "Identity", [node.input[H]], after=True))

    yield from edits([node for node in editor.nodes(*RECURRENT) if given(node, H) and made(node, Y_H)], harm)


@kind("state one step early")
def _early(editor: Editor) -> Edits:
    """The final state is that of the last step but one."""

    def harm(node: NodeProto) -> None:
        _require_y(editor, node)

        def earlier(_: str) -> str:
            insert = editor.after(node)
            steps = insert("Shape", [node.output[Y]], start=0, end=1)
            at = insert("Max", [insert("Sub", [steps, np.array([2])]), np.array([0])])
            return insert("Squeeze", [insert("Gather", [node.output[Y], at], axis=0), np.array([0])])

        editor.replace(node, Y_H, earlier)

    yield from edits([n for n in editor.nodes(*RECURRENT) if made(n, Y_H) and attribute(n, "direction") != "bidirectional"], harm)


def _require_y(editor: Editor, node: NodeProto) -> None:
    """Name the first output where the graph does not use it."""
    if not made(node, Y):
        node.output[Y] = editor.fresh()


@kind("last state at T")
def _last_at_t(editor: Editor) -> Edits:
    """The final state is taken from the last step of the batch instead of each sequence's own."""

    def harm(node: NodeProto) -> None:
        _require_y(editor, node)

        def last(_: str) -> str:
            return editor.insert(node, "Gather", [node.output[Y], np.array(-1)], after=True, axis=0)

        editor.replace(node, Y_H, last)

    yield from edits([node for node in editor.nodes(*RECURRENT) if given(node, LENGTHS) and made(node, Y_H)], harm)


@kind("two recurrent layers swapped")
def _layers(editor: Editor) -> Edits:
    """Two recurrent nodes of one shape have each other's weights."""
    nodes = editor.nodes(*RECURRENT)
    for at, node in enumerate(nodes):
        for other in nodes[at + 1 :]:
            if all(_shape(editor, node, p) == _shape(editor, other, p) for p in (W, R, BIAS)) and node.op_type == other.op_type:

                def swap(first: NodeProto = node, last: NodeProto = other) -> None:
                    for position in (W, R, BIAS):
                        if given(first, position):
                            first.input[position], last.input[position] = last.input[position], first.input[position]

                yield Edit(f"{label(node)}, {label(other)}", swap)
