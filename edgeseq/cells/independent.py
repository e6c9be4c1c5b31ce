"""The independently recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class IndRNNCell(Cell):
    r"""The independently recurrent neural network (Li et al., 2018, equation 2): every unit sees only its own past.

        h' = relu(U x + u ⊙ h + b)

    Over T steps a unit's gradient grows by u^T, so u says how long it remembers. It begins as Li et al. advise, with |u| up to
    2^(1/T): here uniform in 0..1, some units remembering long and others short.

    Parameters: `weight_ih` U (H, I), `weight_hh` u (H), `bias` (H).

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,),)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        uniform_by_hidden_size(self, hidden_size)
        nn.init.uniform_(self.weight_hh, 0.0, 1.0)

    def project(self, x: Tensor) -> Tensor:
        """U x + b: (..., I) -> (..., H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State h (B, H) and U x + b (B, H) -> h' (B, H), which is the output too."""
        (h,) = state
        h = torch.relu(projected + self.weight_hh * h)
        return (h,), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"
