"""LSTM, GRU and RNN nodes as a Scan whose products have 8 or 4-bit weights.

ONNX Runtime has no GRU or RNN of integers. The product with the input is computed for all steps before the Scan; a step has one
product with the state, and the gates. Rows are rounded one by one (`linear`): a member of a batch does not see the others, and
pieces of a sequence give what the whole gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeseq_quantize.editing import Editing, Nodes, attributes_of, input_of, output_of
from edgeseq_quantize.linear import multiply
from edgeseq_quantize.lstm import LAYOUT
from edgeseq_quantize.steps import USUAL, Step, split, step_of
from edgeseq_runtime.tensors.spec import Array

PEEPHOLES = 7  # position of LSTM's input P
NARROW = 128  # features of an input up to which a product in float32 takes no longer: 64 by 768, one step, 3.7 us against 3.8


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
    step = step_of(node, R, bias[gates * H :], bits, way)
    projected = _project(nodes, node.input[0], W.T, bias[: gates * H], bits)
    parts = split(nodes, projected, step.parts, "x") if len(step.parts) > 1 else [projected]
    first = [_state(nodes, node, 5 + index, way, H) for index in range(len(states))]
    body = _body(nodes, step, states, H, masked=bool(mask))
    outputs = [nodes.name(f"last_{state}") for state in states] + [nodes.name("Y")]
    scanned = [*parts, *([mask] if mask else [])]
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
    if len(W) > NARROW:
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


def _body(nodes: Nodes, step: Step, states: Sequence[str], H: int, *, masked: bool) -> onnx.GraphProto:
    """A step as the body of a Scan."""
    inner = Nodes(nodes.editing, nodes.name("step"))
    before, parts = [inner.name(state) for state in states], [inner.name("x") for _ in step.parts]
    mask = inner.name("before_end") if masked else ""
    after = list(step.make(inner, parts, before))
    if masked:
        nothing = inner.constant("nothing", np.array(0, np.float32))
        shown = inner.add("Where", [mask, after[0], nothing], "y")
        after = [inner.add("Where", [mask, new, old], "kept") for new, old in zip(after, before, strict=True)]
    else:
        shown = inner.add("Identity", [after[0]], "y")
    inputs = [_value(name, [1, None, H]) for name in before]
    inputs += [_value(name, [None, width]) for name, width in zip(parts, step.parts, strict=True)]
    if masked:
        inputs.append(helper.make_tensor_value_info(mask, TensorProto.BOOL, [None, 1]))
    outputs = [_value(name, [1, None, H]) for name in (*after, shown)]
    return helper.make_graph(inner.made, nodes.name("body"), inputs, outputs)


def _value(name: str, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
