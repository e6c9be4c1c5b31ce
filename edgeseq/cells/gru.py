"""The gated recurrent unit in both its forms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.cells.cell import Cell, State, uniform_by_hidden_size


class GRUCell(Cell):
    r"""The gated recurrent unit (Cho et al., 2014; *Deep Learning*, equations 10.45 to 10.47).

        r = σ(b^r + U^r x + W^r h)                   reset gate
        z = σ(b^z + U^z x + W^z h)                   update gate
        n = tanh(b^n + U^n x + W^n (r ⊙ h))          candidate, reset before the product (the papers' form)
        n = tanh(b^n + U^n x + r ⊙ (W^n h + c^n))    candidate, reset after it (cuDNN's and PyTorch's form)
        h' = z ⊙ h + (1 - z) ⊙ n

    The book writes u for z and σ for the candidate's tanh. With `reset_after=True` it is `nn.GRU`'s cell. Parameters stack the
    gates in PyTorch's order r, z, n: `weight_ih` (3H, I), `weight_hh` (3H, H), `bias` (3H), and `bias_hn` (H), the c^n, where the
    reset comes after.

    Args:
        input_size: features I of the input.
        hidden_size: features H of the state and of the output.
        reset_after: the second form of the candidate.
    """

    def __init__(self, input_size: int, hidden_size: int, *, reset_after: bool = True) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_shapes = ((hidden_size,),)
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hn = nn.Parameter(torch.empty(hidden_size)) if reset_after else None
        uniform_by_hidden_size(self, hidden_size)

    @property
    def reset_after(self) -> bool:
        """Whether the reset gate is applied after the recurrent product."""
        return self.bias_hn is not None

    def project(self, x: Tensor) -> Tensor:
        """U x + b for both gates and the candidate: (..., I) -> (..., 3H)."""
        return F.linear(x, self.weight_ih, self.bias)

    def step(self, state: State, projected: Tensor) -> tuple[State, Tensor]:
        """State h (B, H) and U x + b (B, 3H) -> h' (B, H), which is the output too."""
        (h,) = state
        H = self.hidden_size
        x_rz, x_n = projected[:, : 2 * H], projected[:, 2 * H :]
        if self.bias_hn is None:
            r, z = torch.sigmoid(x_rz + F.linear(h, self.weight_hh[: 2 * H])).chunk(2, dim=-1)  # (B, H) each
            n = torch.tanh(x_n + F.linear(r * h, self.weight_hh[2 * H :]))
        else:
            recurrent = F.linear(h, self.weight_hh)  # (B, 3H)
            r, z = torch.sigmoid(x_rz + recurrent[:, : 2 * H]).chunk(2, dim=-1)  # (B, H) each
            n = torch.tanh(x_n + r * (recurrent[:, 2 * H :] + self.bias_hn))
        h = z * h + (1 - z) * n
        return (h,), h

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, reset_after={self.reset_after}"
