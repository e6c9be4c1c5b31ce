"""The LSTM with layer normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class LayerNormLSTMCell(Cell):
    r"""The LSTM with layer normalisation (Ba, Kiros and Hinton, 2016, equations 20 to 22).

        (f, i, o, z) = LN(W h) + LN(U x) + b
        s' = σ(f) ⊙ s + σ(i) ⊙ tanh(z)
        h' = σ(o) ⊙ tanh(LN(s'))

    Each LN has a gain and a shift of its own and normalises over all 4H features at once (over H for s'). What is normalised of
    the input does not depend on the state: it is part of `project`.

    Parameters stack the gates in PyTorch's order i, f, z, o: `weight_ih` (4H, I), `weight_hh` (4H, H); the bias b is the shift
    of `norm_x`.

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,), (hidden_size,))
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        uniform_by_hidden_size(self, hidden_size)
        self.norm_x = nn.LayerNorm(4 * hidden_size)
        self.norm_h = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_s = nn.LayerNorm(hidden_size)
        with torch.no_grad():
            self.norm_x.bias[hidden_size : 2 * hidden_size] = 1.0  # the forget gate's

    def project(self, x: Tensor) -> Tensor:
        """LN(U x) + b for all four gates: (..., I) -> (..., 4H)."""
        projected: Tensor = self.norm_x(F.linear(x, self.weight_ih))
        return projected

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State (h, s), both (B, H), and LN(U x) + b (B, 4H) -> state (h', s') and output h' (B, H)."""
        h, s = state
        i, f, z, o = (projected + self.norm_h(F.linear(h, self.weight_hh))).chunk(4, dim=-1)  # (B, H) each
        s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(self.norm_s(s))
        return (h, s), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"
