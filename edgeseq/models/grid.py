"""Recurrent networks over grids (*Deep Learning*, section 10.3; ReNet: Visin et al., 2015)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from edgeseq.cells import Cell
from edgeseq.layers import Recurrent


class GridRNN(nn.Module):
    """Four directions over a grid, so that every output sees all of it: right and left along the rows, then down and up.

        r[i,j] = step(r[i,j-1], x[i,j]),    l[i,j] = step(l[i,j+1], x[i,j])
        d[i,j] = step(d[i-1,j], (r, l)[i,j]),    u[i,j] = step(u[i+1,j], (r, l)[i,j]),    O[i,j] = (d, u)[i,j]

    r and l carry all of row i to (i, j), and d and u carry that of every row to (i, j).

    Args:
        cell: makes a cell of (input size, hidden size): RNNCell, LSTMCell, GRUCell or another whose output has the hidden size.
        input_size: features C of a grid point.
        hidden_size: features F of each direction.
        both_ways: without it r and d alone: O[i,j] sees what is above and to the left of it.
    """

    def __init__(self, cell: Callable[[int, int], Cell], input_size: int, hidden_size: int, *, both_ways: bool = True) -> None:
        super().__init__()
        ways = 2 if both_ways else 1

        def layer(size: int) -> Recurrent:
            return Recurrent(cell(size, hidden_size), backward=cell(size, hidden_size) if both_ways else None)

        self.output_size = ways * hidden_size
        self.along_rows = layer(input_size)
        self.along_columns = layer(self.output_size)

    def forward(self, x: Tensor) -> Tensor:
        """From x (H, W, B, C) to O (H, W, B, 2F), without `both_ways` (H, W, B, F)."""
        H, W, B, C = x.shape
        rows = x.transpose(0, 1).reshape(W, H * B, C)  # a row is a sequence of W steps
        across, _ = self.along_rows(rows)  # (W, H*B, 2F)
        columns = across.reshape(W, H, B, self.output_size).transpose(0, 1).reshape(H, W * B, self.output_size)
        down: Tensor = self.along_columns(columns)[0]  # (H, W*B, 2F)
        return down.reshape(H, W, B, self.output_size)


class GridClassifier(nn.Module):
    """Classes of images: every O[i,j] of a `GridRNN` gives logits of its own; their mean is the image's.

    Args:
        grid: the network over the grid.
        classes: classes K.
    """

    def __init__(self, grid: GridRNN, classes: int) -> None:
        super().__init__()
        self.grid = grid
        self.readout = nn.Linear(grid.output_size, classes)

    def everywhere(self, x: Tensor) -> Tensor:
        """Images x (H, W, B, C) -> logits of each grid point by itself (H, W, B, K)."""
        logits: Tensor = self.readout(self.grid(x))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images x (H, W, B, C) -> logits (B, K)."""
        return self.everywhere(x).mean(0).mean(0)  # one axis at a time: a runtime may add up thousands of terms one by one
