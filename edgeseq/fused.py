"""Layers over PyTorch's fused kernels (cuDNN, oneDNN, ATen), for the cells that are PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from edgeseq.cells import Cell, GRUCell, LSTMCell, ProjectedLSTMCell, RNNCell, State


class FusedCell(NamedTuple):
    """A cell as PyTorch's fused layers take it."""

    layer: Callable[..., tuple[Tensor, ...]]  # torch.lstm, torch.gru, torch.rnn_tanh or torch.rnn_relu
    weights: tuple[Tensor, ...]  # W_ih, W_hh, b_ih, b_hh, gates in PyTorch's order; W_hr where the output is projected


def fused_cell(cell: Cell) -> FusedCell | None:
    """The fused form of a cell that computes what PyTorch's own does; None for every other."""
    equations = equations_of(cell)
    if isinstance(cell, RNNCell) and equations == (RNNCell.project, RNNCell.step):
        layer = torch.rnn_tanh if cell.nonlinearity == "tanh" else torch.rnn_relu
        return FusedCell(layer, (cell.weight_ih, cell.weight_hh, cell.bias, torch.zeros_like(cell.bias)))
    if isinstance(cell, LSTMCell) and equations == (LSTMCell.project, LSTMCell.step):
        if cell.squash != "tanh" or cell.peephole is not None:
            return None
        return FusedCell(torch.lstm, (cell.weight_ih, cell.weight_hh, cell.bias, torch.zeros_like(cell.bias)))
    if isinstance(cell, ProjectedLSTMCell) and equations == (ProjectedLSTMCell.project, ProjectedLSTMCell.step):
        return FusedCell(torch.lstm, (cell.weight_ih, cell.weight_hh, cell.bias, torch.zeros_like(cell.bias), cell.weight_hr))
    if isinstance(cell, GRUCell) and equations == (GRUCell.project, GRUCell.step) and cell.bias_hn is not None:
        hidden_bias = torch.cat([torch.zeros_like(cell.bias[: 2 * cell.hidden_size]), cell.bias_hn])
        return FusedCell(torch.gru, (cell.weight_ih, cell.weight_hh, cell.bias, hidden_bias))
    return None


def equations_of(cell: Cell) -> tuple[Any, Any]:
    """The functions behind `cell.project` and `cell.step`: a class' own, unless a subclass or the instance has others."""
    project, step = (getattr(getattr(cell, name), "__func__", None) for name in ("project", "step"))
    return project, step


def run_fused(cell: FusedCell, x: Tensor, state: State, lengths: Tensor | None, *, reverse: bool) -> tuple[Tensor, State]:
    """Outputs (T, B, H) and last state, each (B, H), of a fused layer over x (T, B, I); as `edgeseq.Recurrent.forward`."""
    _require_sizes(cell, x, state)
    if reverse:
        x = reversed_in_time(x, lengths)
    y, ends = _run_whole(cell, x, state) if lengths is None else _run_packed(cell, x, state, lengths)
    return (reversed_in_time(y, lengths) if reverse else y), ends


def _require_sizes(cell: FusedCell, x: Tensor, state: State) -> None:
    """The kernels trust these sizes: of other tensors they read what is not theirs."""
    weight_ih, weight_hh = cell.weights[:2]
    if x.dim() != 3 or x.shape[2] != weight_ih.shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}; it has to be (T, B, {weight_ih.shape[1]})")
    sizes = [(x.shape[1], weight_hh.shape[1]), (x.shape[1], weight_hh.shape[0] // 4)][: len(state)]  # an LSTM's s after h
    found = [tuple(s.shape) for s in state]
    if found != sizes:
        raise ValueError(f"state tensors have shapes {found}; for this x they have to be {sizes}")


def _run_whole(cell: FusedCell, x: Tensor, state: State) -> tuple[Tensor, State]:
    # has_biases, num_layers, dropout, train, bidirectional, batch_first
    y, *ends = cell.layer(x, _hidden(state), cell.weights, True, 1, 0.0, False, False, False)
    return y, tuple(end.squeeze(0) for end in ends)


def _run_packed(cell: FusedCell, x: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, State]:
    T = x.shape[0]
    data, batch_sizes, order, back = pack_padded_sequence(x, lengths.to("cpu", torch.int64), enforce_sorted=False)
    assert order is not None
    assert back is not None
    hidden = _hidden(tuple(s.index_select(0, order) for s in state))
    y, *ends = cell.layer(data, batch_sizes, hidden, cell.weights, True, 1, 0.0, False, False)
    padded, _ = pad_packed_sequence(PackedSequence(y, batch_sizes, order, back), total_length=T)
    return padded, tuple(end.squeeze(0).index_select(0, back) for end in ends)


def _hidden(state: State) -> Any:
    """State tensors (B, H) as the fused layers take them: (1, B, H), in a tuple where there are two."""
    layered = tuple(s.unsqueeze(0).contiguous() for s in state)
    return layered if len(layered) > 1 else layered[0]


def reversed_in_time(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence of x (T, B, ...) from its own last step to its first; the steps past its length stay where they are."""
    if lengths is None:
        return x.flip(0)
    T, B = x.shape[:2]
    steps = torch.arange(T, device=x.device)[:, None]  # (T, 1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
    return x.gather(0, source.reshape(T, B, *[1] * (x.dim() - 2)).expand_as(x))
