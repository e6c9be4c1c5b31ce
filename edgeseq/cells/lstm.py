"""The long short-term memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size

SQUASHING: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "relu": torch.relu,
}


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
        squash: φ on the input: "sigmoid" (the book's), "tanh", "softsign" or "relu".
        peepholes: whether the gates see the internal state.
    """

    def __init__(self, input_size: int, hidden_size: int, *, squash: str = "sigmoid", peepholes: bool = True) -> None:
        super().__init__()
        if squash not in SQUASHING:
            raise ValueError(f"squash is {squash!r}; choose one of {', '.join(map(repr, SQUASHING))}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,), (hidden_size,))
        self.squash = squash
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.peephole = nn.Parameter(torch.empty(3, hidden_size)) if peepholes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/sqrt(H), as PyTorch's recurrent layers; forget bias 1 (Jozefowicz et al., 2015)."""
        uniform_by_hidden_size(self, self.hidden_size)
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
        s = torch.sigmoid(f) * s + torch.sigmoid(i) * SQUASHING[self.squash](z)
        if self.peephole is not None:
            o = o + self.peephole[2] * s
        h = torch.tanh(s) * torch.sigmoid(o)
        return (h, s), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, squash={self.squash!r}, peepholes={self.peephole is not None}"
