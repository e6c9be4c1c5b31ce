"""A fixed delay."""

from __future__ import annotations

from torch import Tensor

from edgeseq.cells import State
from edgeseq.streaming.window import WindowLayer


class Delay(WindowLayer):
    """Each frame some steps later: y[t] = x[t - steps], zeros before the start.

    Aligns a branch that takes the frames as they come with one whose outputs come later because it looks ahead
    (`CausalConv1d.from_conv1d`). State: (B, steps, C).

    Args:
        features: features C.
        steps: steps of delay, 0 or more.

    Raises:
        ValueError: steps is negative, or features below 1.
    """

    def __init__(self, features: int, steps: int) -> None:
        if steps < 0:
            raise ValueError(f"steps is {steps}; a stream can't give a frame before it came")
        super().__init__(features, steps + 1)

    def outputs(self, frames: Tensor, state: State, steps: int) -> Tensor:
        """(T, B, C) from frames (B, H + T, C)."""
        delayed = frames[:, : -self.history] if self.history else frames
        return delayed.transpose(0, 1)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.history}"
