"""Bidirectional recurrent networks (Schuster and Paliwal, 1997; *Deep Learning*, section 10.3, figure 10.11)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from edgeseq.cells import Cell
from edgeseq.layers import Recurrent, RecurrentStack


class BidirectionalRNN(nn.Module):
    """Every output sees the whole sequence: the past in h, the future in g.

        h[t] = step(h[t-1], x[t]),    g[t] = step'(g[t+1], x[t]),    o[t] = c + V h[t] + V' g[t]

    With several layers, each reads both directions of the one below.

    Args:
        cell: makes a cell of (input size, hidden size): RNNCell, LSTMCell, GRUCell or another whose output has the hidden size.
        input_size: features I of the input.
        hidden_size: features H of each direction.
        output_size: features O of the output.
        layers: layers on top of each other.
    """

    def __init__(
        self, cell: Callable[[int, int], Cell], input_size: int, hidden_size: int, output_size: int, *, layers: int = 1
    ) -> None:
        super().__init__()
        sizes = [input_size] + [2 * hidden_size] * (layers - 1)
        self.stack = RecurrentStack(*(Recurrent(cell(size, hidden_size), backward=cell(size, hidden_size)) for size in sizes))
        self.readout = nn.Linear(2 * hidden_size, output_size)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """From x (T, B, I) and lengths (B,) to o (T, B, O); past a sequence's length it is the readout's bias."""
        y, _ = self.stack(x, None, lengths)  # (T, B, 2H)
        o: Tensor = self.readout(y)  # (T, B, O)
        return o
