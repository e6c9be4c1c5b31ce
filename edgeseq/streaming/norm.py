"""Normalisation by the frames of a window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseq.cells import State
from edgeseq.streaming.window import CountingWindowLayer, window_index


class WindowNorm(CountingWindowLayer):
    """Each feature normalised by its mean and variance over the last W frames, over fewer at the start.

        m[t] = mean of x[i],  v[t] = mean of (x[i] - m[t])^2  over t - W < i <= t, i >= 0
        y[t] = g (x[t] - m[t]) / sqrt(v[t] + eps) + b

    What a normalisation over the whole sequence (instance norm, per-utterance mean and variance) becomes in a stream. State:
    (B, W - 1, C) and their number (B, 1).

    Deviations are taken before they are squared, in each window by itself: mean(x^2) - m^2 loses all digits of float32 where |m|
    is a few thousand standard deviations, and running sums collect rounding errors as long as a stream lasts. What it costs:
    about 5 T W C operations and memory for 2 to 3 times T W C numbers for each sequence of T steps. A long sequence takes less
    memory in chunks, with the same outputs.

    Args:
        features: features C.
        window: frames W, 2 or more.
        eps: added to the variance.
        affine: whether there are a g and a b; they begin as 1 and 0.

    Raises:
        ValueError: there are no features, or the window is of one frame.
    """

    offsets: Tensor  # 0, ..., W-1

    def __init__(self, features: int, window: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(features, window)
        if window < 2:
            raise ValueError("a window of one frame has no variance; give 2 or more")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("offsets", torch.arange(window), persistent=False)

    def outputs(self, frames: Tensor, state: State, steps: int) -> Tensor:
        """(T, B, C) from frames (B, H + T, C)."""
        index = window_index(steps, self.offsets, 1)  # (T, W)
        windows = frames.index_select(1, index.flatten())  # (B, T * W, C)
        windows = windows.reshape(frames.shape[0], -1, self.window, self.features)  # (B, T, W, C)
        live = (index >= (self.history - state[1]).unsqueeze(2)).unsqueeze(3).to(frames.dtype)  # (B, T, W, 1)
        count = live.sum(dim=2)  # (B, T, 1)
        mean = windows.sum(dim=2) / count  # (B, T, C)
        deviations = (windows - mean.unsqueeze(2)) * live
        variance = (deviations * deviations).sum(dim=2) / count
        y: Tensor = deviations[:, :, -1] / (variance + self.eps).sqrt()  # (B, T, C)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight + self.bias
        return y.transpose(0, 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}" + ("" if self.weight is not None else ", affine=False")
