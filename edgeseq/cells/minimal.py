"""The minimal gated unit: one gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class MinimalGatedCell(Cell):
    r"""The minimal gated unit (Zhou et al., 2016): a GRU whose reset and update gates are one.

        f = σ(b^f + U^f x + W^f h)
        n = tanh(b^n + U^n x + W^n (f ⊙ h))
        h' = (1 - f) ⊙ h + f ⊙ n

    Parameters stack f, n: `weight_ih` (2H, I), `weight_hh` (2H, H), `bias` (2H).

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,),)
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(2 * hidden_size))
        uniform_by_hidden_size(self, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """U x + b for the gate and the candidate: (..., I) -> (..., 2H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State h (B, H) and U x + b (B, 2H) -> h' (B, H), which is the output too."""
        (h,) = state
        H = self.hidden_size
        f = torch.sigmoid(projected[:, :H] + F.linear(h, self.weight_hh[:H]))
        n = torch.tanh(projected[:, H:] + F.linear(f * h, self.weight_hh[H:]))
        h = (1 - f) * h + f * n
        return (h,), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"
