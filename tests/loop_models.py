"""Modules that have no faithful recurrent graph and must be refused. Data for `recurrent_cases`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class CellLoop(nn.Module):
    """`for t in range(T)` over a cell."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(1), self.cell.hidden_size)
        c = torch.zeros_like(h)
        steps = []
        for t in range(x.size(0)):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(x[t], (h, c))
            else:
                h = self.cell(x[t], h)
            steps.append(h)
        return torch.stack(steps)


class LinearLoop(nn.Module):
    """A recurrent network written by hand with linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.ih = nn.Linear(6, 8)
        self.hh = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(1), 8)
        for t in range(x.size(0)):
            h = torch.tanh(self.ih(x[t]) + self.hh(h))
        return h


class IterationLoop(nn.Module):
    """`for x_t in x`."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(1), 8)
        for x_t in x:
            h = self.cell(x_t, h)
        return h


class FixedSteps(nn.Module):
    """Ten steps of a cell that feeds on its own output: the count is fixed, the graph still unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 8)

    def forward(self, h: Tensor) -> Tensor:
        steps = []
        x = torch.zeros_like(h)
        for _ in range(10):
            x = h = self.cell(x, h)
            steps.append(h)
        return torch.stack(steps)


class LayerLoopOverTime(nn.Module):
    """An nn.GRU called once a step in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(1, x.size(1), 8)
        for t in range(x.size(0)):
            _, h = self.gru(x[t : t + 1], h)
        return h


class LengthsToList(nn.Module):
    """A loop over `lengths.tolist()`."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.gru(x)
        return torch.stack([y[n - 1, b] for b, n in enumerate(lengths.tolist())])


class ListOfLengths(nn.Module):
    """`pack_padded_sequence` with a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.tolist(), enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0])[0]


class BatchSizes(nn.Module):
    """Arithmetic on `packed.batch_sizes`, which exists only in the packed layout."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed, _ = self.gru(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return packed.data.sum(0) / packed.batch_sizes.sum()


class ReturnsPacked(nn.Module):
    """A PackedSequence as the module's output."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x: Tensor, lengths: Tensor) -> PackedSequence:
        return self.gru(pack_padded_sequence(x, lengths, enforce_sorted=False))[0]


class DataDependentIf(nn.Module):
    """A branch on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        if x.sum() > 0:
            return y
        return -y
