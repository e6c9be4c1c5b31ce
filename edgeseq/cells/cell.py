"""What every recurrent cell is: a pure step, state in, state out.

A cell knows one time step. How it is run over time (direction, lengths, initial state, stacking, dropout) is `edgeseq.layers`'
business.

The step is split where the recurrence begins: `project` computes everything that does not depend on the state, for all time
steps at once, and `step` computes the rest, one time step after the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

State = tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """One time step of a recurrence over a state of one or more tensors."""

    state_shapes: tuple[tuple[int, ...], ...]  # shape of each state tensor of one sequence, without the batch

    def initial_state(self, x: Tensor) -> State:
        """Zeros (B, ...) for each of `state_shapes`; x is the whole input (T, B, ...), which says B, dtype and device."""
        like = x if x.is_floating_point() else next(self.parameters())
        return tuple(like.new_zeros(x.shape[1], *shape) for shape in self.state_shapes)

    @abstractmethod
    def project(self, x: Tensor) -> Any:
        """What the step needs of the input alone, for any leading axes: (..., I) -> (..., G), or a tuple or list of such."""

    @abstractmethod
    def step(self, state: State, projected: Any) -> tuple[State, Tensor]:
        """Next state and output (B, ...) from the state and one time step (B, G) of what `project` gave."""

    def forward(self, state: State, x: Tensor) -> tuple[State, Tensor]:
        """Next state and output (B, ...) from the state and one input (B, I)."""
        return self.step(state, self.project(x))


def uniform_by_hidden_size(cell: nn.Module, hidden_size: int) -> None:
    """Every parameter uniform in ±1/sqrt(H), as PyTorch's recurrent layers begin."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -bound, bound)
