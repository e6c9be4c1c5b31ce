"""The simple recurrent cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class RNNCell(Cell):
    """The simple RNN of *Deep Learning* (Goodfellow, Bengio and Courville, 2016), equations 10.8 and 10.9.

        h' = φ(b + W h + U x),    φ = tanh or the rectifier

    With φ = tanh or relu it is `nn.RNN`'s cell. Parameters: `weight_ih` U (H, I), `weight_hh` W (H, H), `bias` (H).

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
        nonlinearity: "tanh" or "relu".
    """

    def __init__(self, input_size: int, hidden_size: int, *, nonlinearity: str = "tanh") -> None:
        super().__init__()
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is {nonlinearity!r}; choose 'tanh' or 'relu'")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,),)
        self.nonlinearity = nonlinearity
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        uniform_by_hidden_size(self, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """U x + b: (..., I) -> (..., H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State h (B, H) and U x + b (B, H) -> h' (B, H), which is the output too."""
        (h,) = state
        a = projected + F.linear(h, self.weight_hh)
        h = torch.tanh(a) if self.nonlinearity == "tanh" else torch.relu(a)
        return (h,), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, nonlinearity={self.nonlinearity!r}"
