"""Which cells of `edgeseq` ONNX has a node for, and their weights in that node's terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgeseq import Cell, CoupledLSTMCell, GRUCell, IndRNNCell, LSTMCell, MinimalGatedCell, Recurrent, RNNCell
from edgeseq.fused import equations_of
from edgeseq_export.gates import onnx_biases, onnx_peepholes, onnx_weights


class NativeCell(NamedTuple):
    """A cell as one direction of an ONNX LSTM, GRU or RNN; gates stacked in PyTorch's order."""

    operator: str
    weight_ih: Tensor  # (G*H, I)
    weight_hh: Tensor  # (G*H, H)
    bias_ih: Tensor  # (G*H,)
    bias_hh: Tensor  # (G*H,)
    activations: tuple[str, ...]
    peephole: Tensor | None = None  # (3, H), LSTM alone
    reset_after: bool = True  # GRU alone: ONNX's linear_before_reset


class NativeNode(NamedTuple):
    """One ONNX node's weights, for one or two directions."""

    operator: str
    W: Tensor  # (D, G*H, I)
    R: Tensor  # (D, G*H, H)
    b: Tensor  # (D, 2*G*H)
    P: Tensor | None  # (D, 3*H)
    activations: list[str]  # of every direction
    direction: str
    reset_after: bool


def native_cell(cell: Cell) -> NativeCell | None:
    """The cell in a node's terms; None where ONNX has no node for its equations, or a subclass or the instance changes them."""
    for owner, form in _FORMS.items():
        if isinstance(cell, owner) and equations_of(cell) == (owner.project, owner.step):
            return form(cell)
    return None


def native_directions(layer: Recurrent) -> list[list[NativeCell] | None]:
    """The layer's nodes: the cells of each, in order; None for a Scan.

    Two directions share a node where the node allows it: the same operator with the same activations, sizes and options.
    """
    cells = [native_cell(cell) for cell, _ in layer.directions]
    if len(cells) == 2 and cells[0] is not None and cells[1] is not None and _fit_together(cells[0], cells[1]):
        return [[cells[0], cells[1]]]
    return [None if cell is None else [cell] for cell in cells]


def native_node(cells: list[NativeCell], *, reverse: bool) -> NativeNode:
    """One node of one cell, or of a forward and a backward one."""
    first = cells[0]
    peepholes = [cell.peephole for cell in cells if cell.peephole is not None]
    return NativeNode(
        operator=first.operator,
        W=onnx_weights(first.operator, [cell.weight_ih for cell in cells]),
        R=onnx_weights(first.operator, [cell.weight_hh for cell in cells]),
        b=onnx_biases(first.operator, [cell.bias_ih for cell in cells], [cell.bias_hh for cell in cells]),
        P=torch.cat([onnx_peepholes(peephole) for peephole in peepholes]) if peepholes else None,
        activations=[activation for cell in cells for activation in cell.activations],
        direction="bidirectional" if len(cells) == 2 else "reverse" if reverse else "forward",
        reset_after=first.reset_after,
    )


def _fit_together(a: NativeCell, b: NativeCell) -> bool:
    same_kind = (a.operator, a.activations, a.reset_after) == (b.operator, b.activations, b.reset_after)
    return same_kind and a.weight_hh.shape == b.weight_hh.shape and (a.peephole is None) == (b.peephole is None)


def _rnn(cell: RNNCell) -> NativeCell:
    bias = cell.bias.detach()
    activation = cell.nonlinearity.capitalize()
    return NativeCell(
        "RNN", cell.weight_ih.detach(), cell.weight_hh.detach(), bias, torch.zeros_like(bias), activations=(activation,)
    )


def _gru(cell: GRUCell) -> NativeCell:
    bias, H = cell.bias.detach(), cell.hidden_size
    hidden = torch.zeros_like(bias)
    if cell.bias_hn is not None:
        hidden[2 * H :] = cell.bias_hn.detach()
    weights = cell.weight_ih.detach(), cell.weight_hh.detach(), bias, hidden
    return NativeCell("GRU", *weights, activations=("Sigmoid", "Tanh"), reset_after=cell.reset_after)


def _lstm(cell: LSTMCell) -> NativeCell:
    bias = cell.bias.detach()
    peephole = None if cell.peephole is None else cell.peephole.detach()
    weights = cell.weight_ih.detach(), cell.weight_hh.detach(), bias, torch.zeros_like(bias)
    return NativeCell("LSTM", *weights, activations=("Sigmoid", cell.squash.capitalize(), "Tanh"), peephole=peephole)


def _coupled(cell: CoupledLSTMCell) -> NativeCell:
    # The input gate is 1 - σ(a) = σ(-a) of the forget gate's a. ONNX's `input_forget` says the same, and TensorRT can't read it.
    def gates(stacked: Tensor) -> Tensor:
        f, z, o = stacked.detach().chunk(3)
        return torch.cat([-f, f, z, o])

    bias = gates(cell.bias)
    weights = gates(cell.weight_ih), gates(cell.weight_hh), bias, torch.zeros_like(bias)
    return NativeCell("LSTM", *weights, activations=("Sigmoid", "Tanh", "Tanh"))


def _minimal(cell: MinimalGatedCell) -> NativeCell:
    # A GRU with reset gate f and update gate 1 - f = σ(-a), which keeps the old state where f is 0.
    def gates(stacked: Tensor) -> Tensor:
        f, n = stacked.detach().chunk(2)
        return torch.cat([f, -f, n])

    bias = gates(cell.bias)
    weights = gates(cell.weight_ih), gates(cell.weight_hh), bias, torch.zeros_like(bias)
    return NativeCell("GRU", *weights, activations=("Sigmoid", "Tanh"), reset_after=False)


def _independent(cell: IndRNNCell) -> NativeCell:
    bias = cell.bias.detach()
    weights = cell.weight_ih.detach(), torch.diag(cell.weight_hh.detach()), bias, torch.zeros_like(bias)
    return NativeCell("RNN", *weights, activations=("Relu",))


_FORMS: dict[type[Cell], Callable[[Any], NativeCell | None]] = {
    RNNCell: _rnn,
    GRUCell: _gru,
    LSTMCell: _lstm,
    CoupledLSTMCell: _coupled,
    MinimalGatedCell: _minimal,
    IndRNNCell: _independent,
}
