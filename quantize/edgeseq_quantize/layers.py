"""The layers of a graph that have weights, which of them can be quantised, and a graph with some of them quantised."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import onnx

from edgeseq_quantize import cells, linear, lstm
from edgeseq_quantize.editing import Editing

RECURRENT = ("LSTM", "GRU", "RNN")
PRODUCTS = ("MatMul", "Gemm")
# Weights of a matrix below which integers gain no time: the product is then less work than what stands around it. docs/quantize.md.
SMALLEST = 1 << 16


class Method(NamedTuple):
    """How layers are quantised."""

    bits: int  # of weights that MatMulNBits multiplies by
    lstm_operator: bool  # LSTMs by ONNX Runtime's own operator, of 7 bits, rather than by a Scan


class Layer(NamedTuple):
    """A node with weights."""

    name: str  # its first output, which tells it from all others
    operator: str
    weights: int  # of the matrix that counts: the recurrent one, of one direction, of a recurrent node
    refusal: str  # why it can't be quantised; empty where it can

    def __str__(self) -> str:
        return f"{self.operator} '{self.name}'"


def find_layers(model: bytes, method: Method) -> tuple[Layer, ...]:
    """Every LSTM, GRU, RNN, MatMul and Gemm with constant weights, in the order of the graph."""
    editing = Editing(model)
    found = (_layer(node, editing, method) for node in editing.nodes() if node.op_type in (*RECURRENT, *PRODUCTS))
    return tuple(layer for layer in found if layer.weights)


def quantise_layers(model: bytes, names: Collection[str], method: Method) -> bytes:
    """A serialised model with these layers quantised; all else, inputs and outputs too, is as it was."""
    editing = Editing(model)

    def rule(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.op_type not in (*RECURRENT, *PRODUCTS) or _name(node) not in names:
            return None
        if node.op_type in PRODUCTS:
            return linear.quantised(node, editing, method.bits)
        by_operator = node.op_type == "LSTM" and method.lstm_operator
        return lstm.quantised(node, editing) if by_operator else cells.quantised(node, editing, method.bits)

    editing.rewrite(rule)
    return editing.finish()


def _layer(node: onnx.NodeProto, editing: Editing, method: Method) -> Layer:
    if node.op_type in PRODUCTS:
        weights, refusal = linear.weights(node, editing), linear.refusal(node, editing)
    elif node.op_type == "LSTM" and method.lstm_operator:
        weights, refusal = lstm.weights(node, editing), lstm.refusal(node, editing)
    else:
        weights, refusal = lstm.weights(node, editing), cells.refusal(node, editing)
    return Layer(_name(node), node.op_type, weights, refusal or _shared(node, editing))


def _shared(node: onnx.NodeProto, editing: Editing) -> str:
    """ONNX Runtime packs a matrix for the one node that reads it; a second copy would cost what quantising saves."""
    matrices = node.input[1:3] if node.op_type in RECURRENT else node.input[1:2]
    return "its weights are another node's too" if any(editing.uses(name) > 1 for name in matrices) else ""


def _name(node: onnx.NodeProto) -> str:
    return str(next(filter(None, node.output)))
