"""The LSTM with a projected output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class ProjectedLSTMCell(Cell):
    r"""The LSTM with recurrent projection (Sak, Senior and Beaufays, 2014), which is `nn.LSTM(proj_size=...)`.

        i, f, o = σ(b + U x + W h)     each gate with its own b, U, W
        z = tanh(b^z + U^z x + W^z h)
        s' = f ⊙ s + i ⊙ z
        h' = V (o ⊙ tanh(s'))

    The recurrence is cheaper than the state is wide: h has P features, s has H > P.
    Parameters stack the gates in PyTorch's order i, f, z, o: `weight_ih` (4H, I), `weight_hh` (4H, P), `bias` (4H), and
    `weight_hr` V (P, H).

    Args:
        input_size: features I of the input.
        hidden_size: features H of the internal state s.
        output_size: features P of h and of the output.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        if not 0 < output_size < hidden_size:
            raise ValueError(f"output_size is {output_size}; a projection has 1 to hidden_size - 1 = {hidden_size - 1} features")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size
        self.state_shapes = ((output_size,), (hidden_size,))
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, output_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.weight_hr = nn.Parameter(torch.empty(output_size, hidden_size))
        uniform_by_hidden_size(self, hidden_size)
        with torch.no_grad():
            self.bias[hidden_size : 2 * hidden_size] = 1.0

    def project(self, x: Tensor) -> Tensor:
        """U x + b for all four gates: (..., I) -> (..., 4H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State h (B, P) and s (B, H), and U x + b (B, 4H) -> state (h', s') and output h' (B, P)."""
        h, s = state
        i, f, z, o = (projected + F.linear(h, self.weight_hh)).chunk(4, dim=-1)  # (B, H) each
        s = torch.sigmoid(f) * s + torch.sigmoid(i) * torch.tanh(z)
        h = F.linear(torch.sigmoid(o) * torch.tanh(s), self.weight_hr)
        return (h, s), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, {self.output_size}"
