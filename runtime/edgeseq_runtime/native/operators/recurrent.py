"""Recurrent layers: one instruction a direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.nodes import given, integer, known, required, unsupported
from edgeseq_runtime.native.values import Value
from edgeseq_runtime.native.writer import Operator, Word, Writer
from edgeseq_runtime.onnx_wire import Node
from edgeseq_runtime.tensors.spec import Array

Inputs = Sequence[Value | None]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}

# In the order of the library's numbers, with ONNX's defaults of their parameters.
ACTIVATIONS: dict[str, tuple[float, float]] = {
    "Sigmoid": (0.0, 0.0),
    "Tanh": (0.0, 0.0),
    "Relu": (0.0, 0.0),
    "HardSigmoid": (0.2, 0.5),
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, 0.0),
    "Elu": (1.0, 0.0),
    "Softsign": (0.0, 0.0),
    "Softplus": (0.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "ThresholdedRelu": (1.0, 0.0),
}
_NUMBERS = {name.lower(): number for number, name in enumerate(ACTIVATIONS)}
_WITH_ALPHA = ("hardsigmoid", "affine", "leakyrelu", "elu", "scaledtanh", "thresholdedrelu")
_WITH_BETA = ("hardsigmoid", "affine", "scaledtanh")


class Weights(NamedTuple):
    """Of one direction, as the library takes them; None where a layer has no such part."""

    w: Value | None  # (I, G H)
    bias: Value  # (G H)
    r: Value | None  # (H, G H); of a GRU whose reset gate comes before the product (H, 2 H)
    r_hidden: Value | None = None  # (H, H): the rest of that
    recurrent_bias: Value | None = None  # (G H): of a GRU whose reset gate comes after the product
    peepholes: Value | None = None  # (3 H)


def layer(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    w, r = (known(required(inputs, index, node), node, "the weights") for index in (1, 2))
    weights = _weights_of(writer, node, w, r, given(inputs, 3), given(inputs, 7))
    return directions_of(writer, node, inputs, node.op, r.shape[2], weights)


def directions_of(
    writer: Writer,
    node: Node,
    inputs: Inputs,
    cell: str,
    H: int,
    weights: Sequence[Weights],
    operation: str | None = None,
    further: Sequence[Sequence[Word]] = (),
) -> Sequence[Value]:
    """Write the directions of a layer: Y, and the last states.

    Args:
        writer: of the program.
        node: the layer.
        inputs: its own; of those, x, the lengths and the first states are read here.
        cell: LSTM, GRU or RNN.
        H: units.
        weights: of each direction.
        operation: the library's, unless it is called as the cell.
        further: for each direction, what the operation takes after what they all take.
    """
    x, lengths, h0, c0 = required(inputs, 0, node), *(given(inputs, index) for index in range(4, 7))
    if integer(node, "layout", 0) or integer(node, "input_forget", 0) or node.floats.get("clip"):
        raise UsageError(unsupported(node, "have no layout=1, clip or input_forget"))
    T, B, I = x.array.shape  # noqa: E741  ONNX's names
    directions = len(weights)
    source = writer.contiguous(x)
    own_lengths = None if lengths is None else writer.contiguous(lengths)
    y = writer.new((T, directions, B, H), np.float32)
    ends = [writer.new((directions, B, H), np.float32) for _ in range(2 if cell == "LSTM" else 1)]
    starts = [None if value is None else writer.contiguous(value) for value in (h0, c0)]
    backwards = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[node.texts.get("direction", "forward")]
    activations = _activations(node, cell, directions)
    for index, (own, way) in enumerate(zip(weights, backwards, strict=True)):
        scratch = writer.new((writer.kernels.scratch(GATES[cell], T, B, I, H),), np.float32)
        begin = [None if value is None else value.viewed(value.array[index]) for value in starts]
        end = [value.viewed(value.array[index]) for value in ends]
        words: list[Word] = [T, B, I, H, way, integer(node, "linear_before_reset", 0), source, own.w, own.bias, own.r]
        words += [own.r_hidden, own.recurrent_bias, own.peepholes, own_lengths, *begin]
        words += [y.viewed(y.array[:, index]), directions * B * H, H, end[0], end[1] if len(end) == 2 else None, scratch]
        writer.emit(operation or cell, *words, *activations[index], *(further[index] if further else ()))
    return [y, *ends]


def _weights_of(writer: Writer, node: Node, w: Array, r: Array, bias: Value | None, peepholes: Value | None) -> list[Weights]:
    offsets = np.zeros((w.shape[0], 2 * w.shape[1]), np.float32) if bias is None else known(bias, node, "the biases")
    looks = None if peepholes is None else known(peepholes, node, "the peepholes")
    return [
        _direction(writer, node, w[d], r[d], offsets[d], None if looks is None else writer.once("peepholes", looks[d], np.array))
        for d in range(w.shape[0])
    ]


def _direction(writer: Writer, node: Node, w: Array, r: Array, bias: Array, peepholes: Value | None) -> Weights:
    GH, H = r.shape

    def made(kind: str, make: Callable[[Any], Array]) -> Value:
        return writer.once(kind, bias, lambda one: writer.kernels.padded(make(one)))

    if node.op == "GRU" and integer(node, "linear_before_reset", 0):
        inner = made("bias inside", lambda b: np.concatenate([b[: 2 * H] + b[GH : GH + 2 * H], b[2 * H : GH]]))
        outer = made("bias of the state", lambda b: np.concatenate([np.zeros(2 * H, np.float32), b[GH + 2 * H :]]))
        return Weights(writer.packed(w.T), inner, writer.packed(r.T), recurrent_bias=outer)
    both = made("biases", lambda b: b[:GH] + b[GH:])
    if node.op == "GRU":
        return Weights(writer.packed(w.T), both, writer.packed(r[: 2 * H].T), r_hidden=writer.packed(r[2 * H :].T))
    return Weights(writer.packed(w.T), both, writer.packed(r.T), peepholes=peepholes)


def _activations(node: Node, cell: str, directions: int) -> list[list[Word]]:
    """For each direction the three that the library takes: kind, alpha and beta of each."""
    names = [name.lower() for name in node.lists.get("activations", USUAL[cell] * directions)]
    alphas, betas = (list(node.floats.get(f"activation_{one}", ())) for one in ("alpha", "beta"))
    found: list[list[int | float]] = []
    defaults = {name.lower(): values for name, values in ACTIVATIONS.items()}
    for name in names:
        if name not in _NUMBERS:
            raise UsageError(unsupported(node, f"have no activation {name}"))
        alpha, beta = defaults[name]
        if name in _WITH_ALPHA and alphas:
            alpha = alphas.pop(0)
        if name in _WITH_BETA and betas:
            beta = betas.pop(0)
        found.append([_NUMBERS[name], float(alpha), float(beta)])
    each = len(USUAL[cell])
    unused: list[list[int | float]] = [[0, 0.0, 0.0]] * (3 - each)
    return [[word for one in (*found[d * each : (d + 1) * each], *unused) for word in one] for d in range(directions)]


RECURRENT: dict[str, Operator] = dict.fromkeys(GATES, layer)
