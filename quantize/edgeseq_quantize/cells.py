"""LSTM, GRU and RNN nodes as a Scan whose products have 8 or 4-bit weights.

ONNX Runtime has no GRU or RNN of integers. The product with the input is computed for all steps before the Scan; a step has one
product with the state, and the gates. Rows are rounded one by one (`linear`): a member of a batch does not see the others, and
pieces of a sequence give what the whole gives.

Equations: ONNX's, https://onnx.ai/onnx/operators/onnx__GRU.html and its neighbours; gates are in ONNX's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseq_quantize.editing import Editing, Nodes, attributes_of, input_of, output_of
from edgeseq_quantize.linear import multiply
from edgeseq_quantize.lstm import LAYOUT
from edgeseq_runtime.tensors.spec import Array

USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
PEEPHOLES = 7  # position of LSTM's input P
NARROW = 32  # features of an input that is multiplied in float32: integers would gain nothing

Step = Callable[[Nodes, str, Sequence[str]], Sequence[str]]  # (nodes, projected input, states) -> new states, the output first


def refusal(node: onnx.NodeProto, editing: Editing) -> str:
    """Why a recurrent node stays as it is; empty where it need not."""
    attributes = attributes_of(node)
    usual = USUAL[node.op_type]
    given = attributes.get("activations", [])
    if any(editing.constant(name) is None for name in (*node.input[1:3], *filter(None, node.input[3:4]))):
        return "its weights are computed"
    if attributes.get("layout"):
        return LAYOUT
    if attributes.get("clip") or attributes.get("input_forget"):
        return "it clips, or couples its gates"
    allowed = (usual, ("Relu",)) if node.op_type == "RNN" else (usual,)
    if any(tuple(given[at : at + len(usual)]) not in allowed for at in range(0, len(given), len(usual))):
        return f"its activations are {', '.join(given)}"
    return "it has peepholes" if node.op_type == "LSTM" and input_of(node, PEEPHOLES) else ""


def quantised(node: onnx.NodeProto, editing: Editing, bits: int) -> list[onnx.NodeProto]:
    """What takes the place of an LSTM, GRU or RNN that is not refused."""
    nodes = Nodes(editing, next(filter(None, node.output)))
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[attributes_of(node).get("direction", "forward")]
    mask = _mask(nodes, node.input[0], input_of(node, 4)) if input_of(node, 4) else ""
    found = [_direction(nodes, node, way, reverse, mask, bits) for way, reverse in enumerate(ways)]
    for position, values in enumerate(zip(*found, strict=True)):
        output = output_of(node, position)
        if output:
            _join(nodes, values, output, axis=1 if position == 0 else 0)
    return nodes.made


def _join(nodes: Nodes, values: Sequence[str], output: str, axis: int) -> None:
    """The directions side by side; one direction alone is given its name where it is made."""
    if len(values) > 1:
        nodes.add_many("Concat", values, [output], axis=axis)
        return
    for node in nodes.made:
        node.output[:] = [output if name == values[0] else name for name in node.output]


def _direction(nodes: Nodes, node: onnx.NodeProto, way: int, reverse: bool, mask: str, bits: int) -> list[str]:
    """One direction: names of Y (T, 1, B, H), Y_h (1, B, H), and of an LSTM Y_c."""
    W, R, bias = _parameters(node, nodes.editing, way)
    gates, H = R.shape[0] // R.shape[1], R.shape[1]
    states = ("h", "c") if node.op_type == "LSTM" else ("h",)
    projected = _project(nodes, node.input[0], W.T, bias[: gates * H], bits)
    first = [_state(nodes, node, 5 + index, way, H) for index in range(len(states))]
    body = _body(nodes, _step(node, R, bias[gates * H :], bits, way), states, H, gates * H, masked=bool(mask))
    outputs = [nodes.name(f"last_{state}") for state in states] + [nodes.name("Y")]
    scanned = [projected, *([mask] if mask else [])]
    directions: dict[str, Any] = {"scan_input_directions": [int(reverse)] * len(scanned), "scan_output_directions": [int(reverse)]}
    nodes.add_many("Scan", [*first, *scanned], outputs, body=body, num_scan_inputs=len(scanned), **directions)
    return [outputs[-1], *outputs[:-1]]


def _parameters(node: onnx.NodeProto, editing: Editing, way: int) -> tuple[Array, Array, Array]:
    """W (gates*H, K), R (gates*H, H) and both biases (2*gates*H,) of a direction."""
    W, R, bias = (editing.constant(input_of(node, at)) if input_of(node, at) else None for at in (1, 2, 3))
    assert W is not None  # or the node would have been refused
    assert R is not None
    return W[way], R[way], np.zeros(2 * R.shape[1], np.float32) if bias is None else bias[way]


def _project(nodes: Nodes, x: str, W: Array, bias: Array, bits: int) -> str:
    """The input's share of every gate, for all steps: (T, B, gates*H)."""
    if len(W) >= NARROW:
        return multiply(nodes, x, W, bits, nodes.name("projected"), bias=bias)
    product = nodes.add("MatMul", [x, nodes.constant("W", W)], "product")
    return nodes.add("Add", [product, nodes.constant("bias", bias)], "projected")


def _state(nodes: Nodes, node: onnx.NodeProto, position: int, way: int, H: int) -> str:
    """The first state of a direction: (1, B, H)."""
    given = input_of(node, position)
    if given and attributes_of(node).get("direction") != "bidirectional":
        return given
    if given:
        bounds = [nodes.constant(name, np.array([at], np.int64)) for name, at in (("start", way), ("stop", way + 1), ("axis", 0))]
        return nodes.add("Slice", [given, *bounds], "first")
    batch = nodes.add("Shape", [node.input[0]], "batch", start=1, end=2)
    ones, units = (nodes.constant(name, np.array([size], np.int64)) for name, size in (("one", 1), ("units", H)))
    shape = nodes.add("Concat", [ones, batch, units], "shape", axis=0)
    return nodes.add("ConstantOfShape", [shape], "zeros")


def _mask(nodes: Nodes, x: str, lengths: str) -> str:
    """Whether a step is before the end of its sequence: (T, B, 1)."""
    steps = nodes.add("Squeeze", [nodes.add("Shape", [x], "steps", start=0, end=1)], "T")
    zero, one = nodes.constant("zero", np.array(0, np.int64)), nodes.constant("one", np.array(1, np.int64))
    times = nodes.add("Unsqueeze", [nodes.add("Range", [zero, steps, one], "times"), nodes.constant("ones", np.array([1, 2]))], "t")
    ends = nodes.add("Cast", [lengths], "ends", to=TensorProto.INT64)
    ends = nodes.add("Unsqueeze", [ends, nodes.constant("around", np.array([0, 2]))], "ends")
    return nodes.add("Less", [times, ends], "before_end")


def _body(nodes: Nodes, step: Step, states: Sequence[str], H: int, width: int, *, masked: bool) -> onnx.GraphProto:
    """A step as the body of a Scan."""
    inner = Nodes(nodes.editing, nodes.name("step"))
    before, projected = [inner.name(state) for state in states], inner.name("projected")
    mask = inner.name("before_end") if masked else ""
    after = list(step(inner, projected, before))
    if masked:
        nothing = inner.constant("nothing", np.array(0, np.float32))
        shown = inner.add("Where", [mask, after[0], nothing], "y")
        after = [inner.add("Where", [mask, new, old], "kept") for new, old in zip(after, before, strict=True)]
    else:
        shown = inner.add("Identity", [after[0]], "y")
    inputs = [_value(name, [1, None, H]) for name in before] + [_value(projected, [None, width])]
    if masked:
        inputs.append(helper.make_tensor_value_info(mask, TensorProto.BOOL, [None, 1]))
    outputs = [_value(name, [1, None, H]) for name in (*after, shown)]
    return helper.make_graph(inner.made, nodes.name("body"), inputs, outputs)


def _value(name: str, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _step(node: onnx.NodeProto, R: Array, bias: Array, bits: int, way: int) -> Step:
    H = R.shape[1]
    if node.op_type == "LSTM":
        return lambda nodes, x, states: _lstm_step(nodes, x, states, R, bias, bits)
    if node.op_type == "RNN":
        activations = attributes_of(node).get("activations", USUAL["RNN"])
        activation = activations[min(way, len(activations) - 1)]
        return lambda nodes, x, states: _rnn_step(nodes, x, states, R, bias, bits, activation)
    if attributes_of(node).get("linear_before_reset"):
        return lambda nodes, x, states: _gru_step(nodes, x, states, R, bias, bits)
    return lambda nodes, x, states: _gru_step_reset_first(nodes, x, states, (R[: 2 * H], R[2 * H :]), bias, bits)


def _lstm_step(nodes: Nodes, x: str, states: Sequence[str], R: Array, bias: Array, bits: int) -> tuple[str, str]:
    h, c = states
    total = nodes.add("Add", [x, multiply(nodes, h, R.T, bits, nodes.name("recurrent"), bias=bias)], "gates")
    gates, candidate = _split(nodes, total, (3 * R.shape[1], R.shape[1]), "gates")
    i, o, f = _split(nodes, nodes.add("Sigmoid", [gates], "open"), (R.shape[1],) * 3, "gate")
    kept = nodes.add("Mul", [f, c], "kept")
    added = nodes.add("Mul", [i, nodes.add("Tanh", [candidate], "candidate")], "added")
    cell = nodes.add("Add", [kept, added], "cell")
    return nodes.add("Mul", [o, nodes.add("Tanh", [cell], "seen")], "h"), cell


def _gru_step(nodes: Nodes, x: str, states: Sequence[str], R: Array, bias: Array, bits: int) -> tuple[str]:
    H = R.shape[1]
    recurrent = multiply(nodes, states[0], R.T, bits, nodes.name("recurrent"), bias=bias)
    (x_gates, x_new), (h_gates, h_new) = _split(nodes, x, (2 * H, H), "x"), _split(nodes, recurrent, (2 * H, H), "h")
    z, r = _gru_gates(nodes, x_gates, h_gates, H)
    return (_gru_output(nodes, states[0], z, x_new, nodes.add("Mul", [r, h_new], "reset")),)


def _gru_step_reset_first(
    nodes: Nodes, x: str, states: Sequence[str], R: tuple[Array, Array], bias: Array, bits: int
) -> tuple[str]:
    """The form that resets the state before the product, `linear_before_reset=0`."""
    H = R[0].shape[1]
    h_gates = multiply(nodes, states[0], R[0].T, bits, nodes.name("recurrent"), bias=bias[: 2 * H])
    x_gates, x_new = _split(nodes, x, (2 * H, H), "x")
    z, r = _gru_gates(nodes, x_gates, h_gates, H)
    reset = nodes.add("Mul", [r, states[0]], "reset")
    return (_gru_output(nodes, states[0], z, x_new, multiply(nodes, reset, R[1].T, bits, nodes.name("new"), bias=bias[2 * H :])),)


def _gru_gates(nodes: Nodes, x: str, h: str, H: int) -> Sequence[str]:
    return _split(nodes, nodes.add("Sigmoid", [nodes.add("Add", [x, h], "gates")], "open"), (H, H), "gate")


def _gru_output(nodes: Nodes, h: str, z: str, x_new: str, h_new: str) -> str:
    """(1 - z) * n + z * h, as n + z * (h - n)."""
    n = nodes.add("Tanh", [nodes.add("Add", [x_new, h_new], "sum")], "n")
    return nodes.add("Add", [n, nodes.add("Mul", [z, nodes.add("Sub", [h, n], "away")], "back")], "h")


def _rnn_step(nodes: Nodes, x: str, states: Sequence[str], R: Array, bias: Array, bits: int, activation: str) -> tuple[str]:
    recurrent = multiply(nodes, states[0], R.T, bits, nodes.name("recurrent"), bias=bias)
    return (nodes.add(activation, [nodes.add("Add", [x, recurrent], "sum")], "h"),)


def _split(nodes: Nodes, value: str, sizes: Sequence[int], name: str) -> Sequence[str]:
    outputs = [nodes.name(f"{name}{index}") for index in range(len(sizes))]
    return nodes.add_many("Split", [value, nodes.constant("sizes", np.array(sizes, np.int64))], outputs, axis=-1)
