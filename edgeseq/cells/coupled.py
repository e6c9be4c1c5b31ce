"""The LSTM whose input gate is what its forget gate leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class CoupledLSTMCell(Cell):
    r"""The LSTM with coupled input and forget gates (Gers et al., 2000; "CIFG" in Greff et al., 2017).

        f = σ(b^f + U^f x + W^f h)                    forget gate
        z = tanh(b^z + U^z x + W^z h)                 input
        o = σ(b^o + U^o x + W^o h)                    output gate
        s' = f ⊙ s + (1 - f) ⊙ z
        h' = o ⊙ tanh(s')

    Parameters stack f, z, o: `weight_ih` (3H, I), `weight_hh` (3H, H), `bias` (3H).

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,), (hidden_size,))
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(3 * hidden_size))
        uniform_by_hidden_size(self, hidden_size)
        with torch.no_grad():
            self.bias[:hidden_size] = 1.0

    def project(self, x: Tensor) -> Tensor:
        """U x + b for f, z and o: (..., I) -> (..., 3H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State (h, s), both (B, H), and U x + b (B, 3H) -> state (h', s') and output h' (B, H)."""
        h, s = state
        f, z, o = (projected + F.linear(h, self.weight_hh)).chunk(3, dim=-1)  # (B, H) each
        f = torch.sigmoid(f)
        s = f * s + (1 - f) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(s)
        return (h, s), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"
