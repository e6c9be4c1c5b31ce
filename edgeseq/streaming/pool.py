"""Pooling over the last frames."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseq.cells import State
from edgeseq.streaming.window import CountingWindowLayer


class CausalPool1d(CountingWindowLayer):
    """Maximum or mean of each feature over the last K frames, over fewer at the start.

        y[j] = max or mean of x[i] over (j+1)s - K <= i < (j+1)s, i >= 0

    State: (B, C, K - s) and their number (B, 1); none where K <= s.

    Args:
        features: features C.
        kernel_size: frames K.
        mode: "max" or "mean".
        stride: frames s from one output to the next.

    Raises:
        ValueError: a size is below 1, or the mode another.
    """

    time: ClassVar[int] = 2

    def __init__(self, features: int, kernel_size: int, mode: Literal["max", "mean"], *, stride: int = 1) -> None:
        super().__init__(features, kernel_size, stride)
        if mode not in ("max", "mean"):
            raise ValueError(f"mode is {mode!r}; it has to be 'max' or 'mean'")
        self.mode = mode

    def outputs(self, frames: Tensor, state: State, steps: int) -> Tensor:
        """(T // s, B, C) from frames (B, C, H + T)."""
        if self.mode == "max":
            # PyTorch's max_pool1d fixes the length where a graph is captured.
            return F.max_pool2d(frames.unsqueeze(2), (1, self.window), (1, self.stride)).squeeze(2).permute(2, 0, 1)
        mean = F.avg_pool1d(frames, self.window, self.stride).permute(2, 0, 1)
        return mean / self._share(state[1], steps, mean.dtype) if self.history else mean

    def _share(self, seen: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
        """Share of each output's window that is not from before the start, (T // s, B, 1)."""
        ends = torch.arange(steps // self.stride, device=seen.device) * self.stride + self.stride  # (T // s,)
        return ((ends[:, None, None] + seen).to(dtype) / self.window).clamp(max=1)

    def _joined(self, frames: Tensor, state: State) -> Tensor:
        if self.mode == "max" and self.history:
            # A window that reaches back before the start holds the first frame, so copies of that leave its maximum as it is.
            state = (torch.where(state[1].unsqueeze(2) == 0, frames[..., :1], state[0]), *state[1:])
        return super()._joined(frames, state)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode='{self.mode}'"
