"""Recurrent cells as pure steps: state in, state out, one equation a line.

A cell knows one time step. How it is run over time (direction, lengths, initial state) is `edgeseq.layers`' business.

The step is split where the recurrence begins: `project` computes everything that does not depend on the state, for all time
steps at once, and `step` computes the rest, one time step after the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """One time step of a recurrence over a state of one or more tensors."""

    input_size: int
    state_sizes: tuple[int, ...]  # features of each state tensor

    def initial_state(self, x: Tensor) -> State:
        """Zeros of shape (B, n) for each of `state_sizes`, of the dtype and device of `x` (T, B, I)."""
        _, B, _ = x.shape
        return tuple(x.new_zeros(B, size) for size in self.state_sizes)

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """What the step needs of the input alone: (..., I) -> (..., G)."""

    @abstractmethod
    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """Next state and output (B, O) from the state and one projected time step (B, G)."""

    def forward(self, state: State, x: Tensor) -> tuple[State, Tensor]:
        """Next state and output (B, O) from the state and one input (B, I)."""
        return self.step(state, self.project(x))


class LSTMCell(Cell):
    r"""The LSTM of *Deep Learning* (Goodfellow, Bengio and Courville, 2016), section 10.10.1, equations 10.40 to 10.44.

    With h the output, s the internal state and σ the logistic sigmoid:

        g = σ(b^g + U^g x + W^g h + p^g ⊙ s)        external input gate     (10.42)
        f = σ(b^f + U^f x + W^f h + p^f ⊙ s)        forget gate             (10.40)
        z = φ(b   + U   x + W   h)                  squashed input; φ = σ in the book
        s' = f ⊙ s + g ⊙ z                          internal state          (10.41)
        q = σ(b^o + U^o x + W^o h + p^o ⊙ s')       output gate             (10.44)
        h' = tanh(s') ⊙ q                           output                  (10.43)

    The peephole weights p (Gers and Schmidhuber, 2000; the book: "use the cell state as an extra input into the three gates")
    are one per unit; the output gate sees the new internal state. With `squash="tanh"` and no peepholes it is `nn.LSTM`'s cell.

    Parameters stack the gates in PyTorch's order i, f, g, o, which in the book's letters is g, f, z, q:
    `weight_ih` (4H, I), `weight_hh` (4H, H), `bias` (4H), `peephole` (3, H) for i, f, o.

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
        squash: "sigmoid" (the book's) or "tanh" on the input.
        peepholes: whether the gates see the internal state.
    """

    def __init__(self, input_size: int, hidden_size: int, *, squash: str = "sigmoid", peepholes: bool = True) -> None:
        super().__init__()
        if squash not in ("sigmoid", "tanh"):
            raise ValueError(f"squash is {squash!r}; choose 'sigmoid' or 'tanh'")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_sizes = (hidden_size, hidden_size)
        self.squash = squash
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.peephole = nn.Parameter(torch.empty(3, hidden_size)) if peepholes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/sqrt(H), as PyTorch's recurrent layers; forget bias 1 (Jozefowicz et al., 2015)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.bias[self.hidden_size : 2 * self.hidden_size] = 1.0

    def project(self, x: Tensor) -> Tensor:
        """U x + b for all four gates: (..., I) -> (..., 4H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State (h, s), both (B, H), and U x + b (B, 4H) -> state (h', s') and output h' (B, H)."""
        h, s = state
        i, f, z, o = (projected + F.linear(h, self.weight_hh)).chunk(4, dim=-1)  # (B, H) each
        if self.peephole is not None:
            i = i + self.peephole[0] * s
            f = f + self.peephole[1] * s
        z = torch.sigmoid(z) if self.squash == "sigmoid" else torch.tanh(z)
        s = torch.sigmoid(f) * s + torch.sigmoid(i) * z
        if self.peephole is not None:
            o = o + self.peephole[2] * s
        h = torch.tanh(s) * torch.sigmoid(o)
        return (h, s), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, squash={self.squash!r}, peepholes={self.peephole is not None}"
