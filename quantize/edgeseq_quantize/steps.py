"""One step of each recurrent cell, the input's share of it given: a product with 8 or 4-bit weights, and the gates.

Equations: ONNX's, https://onnx.ai/onnx/operators/onnx__GRU.html and its neighbours; gates are in ONNX's order. A step has as few
nodes as it can: at 256 units each takes a tenth of the time of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from edgeseq_quantize.editing import Nodes, attributes_of
from edgeseq_quantize.linear import multiply
from edgeseq_runtime.tensors.spec import Array

USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

Make = Callable[[Nodes, Sequence[str], Sequence[str]], Sequence[str]]  # (nodes, parts of x, states) -> new states, the output first


class Step(NamedTuple):
    """How to make a step, and the widths of the parts that it takes the input's share in."""

    parts: tuple[int, ...]
    make: Make


def step_of(node: onnx.NodeProto, R: Array, bias: Array, bits: int, way: int) -> Step:
    """The step of an LSTM, GRU or RNN in one direction.

    Args:
        node: the recurrent node.
        R: its recurrent weights (gates*H, H).
        bias: its recurrent biases (gates*H,).
        bits: of the weights, 8 or 4.
        way: 0 forward or the only direction, 1 the other.
    """
    H = R.shape[1]
    if node.op_type == "LSTM":
        return Step((4 * H,), lambda nodes, x, states: _lstm_step(nodes, x[0], states, R, bias, bits))
    if node.op_type == "RNN":
        activations = attributes_of(node).get("activations", USUAL["RNN"])
        activation = activations[min(way, len(activations) - 1)]
        return Step((H,), lambda nodes, x, states: _rnn_step(nodes, x[0], states, R, bias, bits, activation))
    if attributes_of(node).get("linear_before_reset"):
        return Step((2 * H, H), lambda nodes, x, states: _gru_step(nodes, x, states, R, bias, bits))
    R_gates, R_new = R[: 2 * H], R[2 * H :]
    return Step((2 * H, H), lambda nodes, x, states: _gru_step_reset_first(nodes, x, states, (R_gates, R_new), bias, bits))


def split(nodes: Nodes, value: str, sizes: Sequence[int], name: str) -> Sequence[str]:
    """Parts of the last axis."""
    outputs = [nodes.name(f"{name}{index}") for index in range(len(sizes))]
    return nodes.add_many("Split", [value, nodes.constant("sizes", np.array(sizes, np.int64))], outputs, axis=-1)


def _lstm_step(nodes: Nodes, x: str, states: Sequence[str], R: Array, bias: Array, bits: int) -> tuple[str, str]:
    h, c = states
    total = nodes.add("Add", [x, multiply(nodes, h, R.T, bits, nodes.name("recurrent"), bias=bias)], "gates")
    gates, candidate = split(nodes, total, (3 * R.shape[1], R.shape[1]), "gates")
    i, o, f = split(nodes, nodes.add("Sigmoid", [gates], "open"), (R.shape[1],) * 3, "gate")
    kept = nodes.add("Mul", [f, c], "kept")
    added = nodes.add("Mul", [i, nodes.add("Tanh", [candidate], "candidate")], "added")
    cell = nodes.add("Add", [kept, added], "cell")
    return nodes.add("Mul", [o, nodes.add("Tanh", [cell], "seen")], "h"), cell


def _gru_step(nodes: Nodes, x: Sequence[str], states: Sequence[str], R: Array, bias: Array, bits: int) -> tuple[str]:
    H = R.shape[1]
    recurrent = multiply(nodes, states[0], R.T, bits, nodes.name("recurrent"), bias=bias)
    h_gates, h_new = split(nodes, recurrent, (2 * H, H), "h")
    z, r = _gru_gates(nodes, x[0], h_gates, H)
    return (_gru_output(nodes, states[0], z, x[1], nodes.add("Mul", [r, h_new], "reset")),)


def _gru_step_reset_first(
    nodes: Nodes, x: Sequence[str], states: Sequence[str], R: tuple[Array, Array], bias: Array, bits: int
) -> tuple[str]:
    """The form that resets the state before the product, `linear_before_reset=0`."""
    H = R[0].shape[1]
    h_gates = multiply(nodes, states[0], R[0].T, bits, nodes.name("recurrent"), bias=bias[: 2 * H])
    z, r = _gru_gates(nodes, x[0], h_gates, H)
    reset = nodes.add("Mul", [r, states[0]], "reset")
    return (_gru_output(nodes, states[0], z, x[1], multiply(nodes, reset, R[1].T, bits, nodes.name("new"), bias=bias[2 * H :])),)


def _gru_gates(nodes: Nodes, x: str, h: str, H: int) -> Sequence[str]:
    return split(nodes, nodes.add("Sigmoid", [nodes.add("Add", [x, h], "gates")], "open"), (H, H), "gate")


def _gru_output(nodes: Nodes, h: str, z: str, x_new: str, h_new: str) -> str:
    """(1 - z) * n + z * h, as n + z * (h - n)."""
    n = nodes.add("Tanh", [nodes.add("Add", [x_new, h_new], "sum")], "n")
    return nodes.add("Add", [n, nodes.add("Mul", [z, nodes.add("Sub", [h, n], "away")], "back")], "h")


def _rnn_step(nodes: Nodes, x: str, states: Sequence[str], R: Array, bias: Array, bits: int, activation: str) -> tuple[str]:
    recurrent = multiply(nodes, states[0], R.T, bits, nodes.name("recurrent"), bias=bias)
    return (nodes.add(activation, [nodes.add("Add", [x, recurrent], "sum")], "h"),)
