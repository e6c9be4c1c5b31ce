"""Neighbouring frames as one."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeseq.cells import State
from edgeseq.streaming.window import WindowLayer, window_index


class FrameStack(WindowLayer):
    """The last n frames side by side, the oldest first, one output every s frames.

        y[j] = [x[(j+1)s - n]; ...; x[(j+1)s - 1]],  zeros before the start

    With a stride it is the low-frame-rate front end of speech recognisers (Sak et al., 2015, "Fast and accurate recurrent neural
    network acoustic models for speech recognition", section 2.2). State: (B, max(n - s, 0), C).

    Args:
        features: features C of a frame; the output has n * C.
        frames: frames n of an output.
        stride: frames s from one output to the next.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(self, features: int, frames: int, *, stride: int = 1) -> None:
        super().__init__(features, frames, stride)

    def outputs(self, frames: Tensor, state: State, steps: int) -> Tensor:
        """(T // s, B, n * C) from frames (B, H + T, C)."""
        index = window_index(steps // self.stride, torch.arange(self.window, device=frames.device), self.stride)  # (T // s, n)
        stacked = frames.index_select(1, index.flatten())  # (B, T // s * n, C)
        return stacked.reshape(frames.shape[0], -1, self.window * self.features).transpose(0, 1)
