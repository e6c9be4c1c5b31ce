"""A recurrence that is a multilayer perceptron from one time step to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class DeepTransitionCell(Cell):
    r"""Deep transition (Pascanu et al., 2014; *Deep Learning*, section 10.5, figure 10.13 b and c).

        u    = tanh(p + P x)                  input-to-hidden
        a_1  = tanh(b_1 + U u + W_1 h)        hidden-to-hidden, layer 1
        a_l  = tanh(b_l + W_l a_{l-1})        layers 2 to D - 1
        h'   = tanh(b_D + W_D a_{D-1})        layer D, without skip connection     (figure 10.13 b)
        h'   = tanh(b_D + W_D a_{D-1} + S h)  with skip connection                 (figure 10.13 c)

    From h to h' the shortest path leads through D weight matrices, with the skip connection through S alone. With D = 1 it is the
    simple recurrent cell over u.

    Parameters: `weight_in` P (H, I), `bias_in` p (H), `weight_ih` U (H, H), `weight_hh` W (D, H, H), `bias` b (D, H) and
    `weight_skip` S (H, H).

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state, of the output and of every layer between.
        depth: layers D of the perceptron from h to h'.
        skip: whether h reaches the last layer directly too; asks for a depth of 2 or more.
    """

    def __init__(self, input_size: int, hidden_size: int, *, depth: int = 2, skip: bool = False) -> None:
        super().__init__()
        if depth < (2 if skip else 1):
            raise ValueError(f"depth is {depth} with skip={skip}; it has to be 1 or more, with a skip connection 2 or more")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.depth = depth
        self.state_shapes = ((hidden_size,),)
        self.weight_in = nn.Parameter(torch.empty(hidden_size, input_size))
        self.bias_in = nn.Parameter(torch.empty(hidden_size))
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.weight_hh = nn.Parameter(torch.empty(depth, hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(depth, hidden_size))
        self.weight_skip = nn.Parameter(torch.empty(hidden_size, hidden_size)) if skip else None
        uniform_by_hidden_size(self, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """b_1 + U tanh(p + P x): (..., I) -> (..., H)."""
        return F.linear(torch.tanh(F.linear(x, self.weight_in, self.bias_in)), self.weight_ih, self.bias[0])

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State h (B, H) and b_1 + U u (B, H) -> h' (B, H), which is the output too."""
        (h,) = state
        a = projected + F.linear(h, self.weight_hh[0])
        for layer in range(1, self.depth):
            a = F.linear(torch.tanh(a), self.weight_hh[layer], self.bias[layer])
        if self.weight_skip is not None:
            a = a + F.linear(h, self.weight_skip)
        h = torch.tanh(a)
        return (h,), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, depth={self.depth}, skip={self.weight_skip is not None}"
