"""Cells run over time: the one place that knows about direction, lengths and initial state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeseq.cells import Cell, State


class Recurrent(nn.Module):
    """A cell run over time.

    Args:
        cell: the step.
        reverse: run from the last step of each sequence to its first.
    """

    def __init__(self, cell: Cell, *, reverse: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.reverse = reverse

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run the cell over every time step.

        Args:
            x: (T, B, I).
            state: initial state, each (B, n); zeros where omitted.
            lengths: (B,) integers in 1..T. At and past a sequence's length the output is zero and the state stays; a reversed
                layer begins at each sequence's own last step.

        Returns:
            y (T, B, O) and the state after the last step (the first, when reversed), each (B, n).
        """
        T = x.shape[0]
        projected = self.cell.project(x)  # (T, B, G)
        current = self.cell.initial_state(x) if state is None else tuple(state)
        outputs: list[Tensor] = [x] * T
        for t in reversed(range(T)) if self.reverse else range(T):
            following, y = self.cell.step(current, projected[t])
            if lengths is not None:
                live = (t < lengths).unsqueeze(-1)  # (B, 1)
                following = tuple(torch.where(live, new, old) for new, old in zip(following, current, strict=True))
                y = torch.where(live, y, torch.zeros_like(y))
            current, outputs[t] = following, y
        return torch.stack(outputs), current

    def extra_repr(self) -> str:
        return "reverse=True" if self.reverse else ""
