"""What the layers over a window of frames share: the frames before a chunk as state, stride, and lengths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from edgeseq.cells import State
from edgeseq.layers import SequenceLayer, require_sequences, require_states


class WindowLayer(SequenceLayer):
    """A layer whose output is a function of the last R frames, one output every s frames.

    Output j is that of step (j+1)s - 1: it comes as soon as the s-th frame of its stride does. State: the `history` frames before
    the next one, max(R - s, 0) of them, zeros before the start.

    Args:
        features: features C of the input.
        window: frames R that an output sees.
        stride: frames s from one output to the next; the layer runs on multiples of s frames.

    Raises:
        ValueError: a size is below 1.
    """

    time: ClassVar[int] = 1  # the axis of time in the state: (B, H, C); 2 for (B, C, H)

    def __init__(self, features: int, window: int, stride: int = 1) -> None:
        super().__init__()
        if min(features, window, stride) < 1:
            raise ValueError(f"features {features}, window {window} and stride {stride} have to be 1 or more each")
        self.features = features
        self.window = window
        self.stride = stride

    @property
    def history(self) -> int:
        """Frames H that the state holds."""
        return max(self.window - self.stride, 0)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The frames (H, C), or (C, H); nothing where no output sees a frame of an earlier stride."""
        H, C = self.history, self.features
        return (((H, C) if self.time == 1 else (C, H)),) if H else ()

    @abstractmethod
    def outputs(self, frames: Tensor, state: State, steps: int) -> Tensor:
        """From the history and the input behind it, (B, H + T, C) or (B, C, H + T), the outputs (T // s, B, O).

        The state is as it was before the input's T `steps`.
        """

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over every time step.

        Args:
            x: (T, B, C), T a multiple of the stride.
            state: as `state_shapes`; `initial_state` where omitted.
            lengths: (B,) integers in 1..T, for stride 1. At and past a sequence's length y is zero; the state is that after its
                own last step.

        Returns:
            y (T // s, B, O), and the state after the last step.

        Raises:
            ValueError: x, a state or lengths has another shape, or lengths other values.
        """
        self._require_input(x, lengths)
        own = self.initial_state(x) if state is None else tuple(state)
        require_states(own, self.state_shapes, x.shape[1])
        T = x.shape[0]
        frames = self._joined(x.transpose(0, 1) if self.time == 1 else x.permute(1, 2, 0), own)  # (B, H + T, C) or (B, C, H + T)
        y = self.outputs(frames, own, T)  # (T // s, B, O)
        end = self._end(frames, own, T if lengths is None else lengths)
        return (y if lengths is None else zero_past(y, lengths)), end

    def _joined(self, frames: Tensor, state: State) -> Tensor:
        """The frames with the history before them, without those that no output sees."""
        unseen = self.stride - self.window
        if unseen > 0:
            return frames[:, unseen:] if self.time == 1 else frames[..., unseen:]
        return torch.cat([state[0], frames], dim=self.time) if self.history else frames

    def _end(self, frames: Tensor, state: State, steps: int | Tensor) -> State:
        """The state after `steps` of T, one number or one a sequence (B,)."""
        H = self.history
        if not H:
            return ()
        if isinstance(steps, Tensor):
            index = steps.unsqueeze(1) + torch.arange(H, device=steps.device)  # (B, H)
            index = index.unsqueeze(3 - self.time).expand(-1, *self.state_shapes[0])
            return (frames.gather(self.time, index),)
        return (frames[:, -H:] if self.time == 1 else frames[..., -H:],)

    def _require_input(self, x: Tensor, lengths: Tensor | None) -> None:
        require_sequences(x, lengths)
        if x.dim() != 3 or x.shape[2] != self.features:
            raise ValueError(f"x has shape {tuple(x.shape)}; {type(self).__name__} takes (T, B, {self.features})")
        if lengths is not None and self.stride > 1:
            raise ValueError(
                f"lengths are given to {type(self).__name__} with stride {self.stride}, whose outputs need not end where a "
                "sequence does; run it without lengths on frames that are zero past each sequence's end, and give the layers above "
                f"lengths // {self.stride}"
            )
        # While a graph is captured the size is a symbol.
        if not torch.compiler.is_compiling() and x.shape[0] % self.stride:
            raise ValueError(f"x has {x.shape[0]} steps; {type(self).__name__} runs on multiples of its stride {self.stride}")

    def extra_repr(self) -> str:
        return f"{self.features}, window={self.window}" + (f", stride={self.stride}" if self.stride > 1 else "")


class CountingWindowLayer(WindowLayer):
    """A window layer that leaves out the frames from before the start.

    State: the frames as in `WindowLayer`, then how many of them there have been so far, (B, 1) int64, H at most.
    """

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The frames and their number, (1,)."""
        return (*super().state_shapes, (1,)) if self.history else ()

    def initial_state(self, x: Tensor) -> State:
        """No frame so far."""
        return (*super().initial_state(x)[:1], x.new_zeros(x.shape[1], 1, dtype=torch.int64)) if self.history else ()

    def _end(self, frames: Tensor, state: State, steps: int | Tensor) -> State:
        if not self.history:
            return ()
        further = steps.unsqueeze(1) if isinstance(steps, Tensor) else steps
        return (*super()._end(frames, state, steps), (state[1] + further).clamp(max=self.history))


def zero_past(y: Tensor, lengths: Tensor) -> Tensor:
    """The outputs y (T, B, ...), zero at and past each sequence's length (B,)."""
    live = torch.arange(y.shape[0], device=y.device).unsqueeze(1) < lengths  # (T, B)
    return torch.where(live[(..., *[None] * (y.dim() - 2))], y, torch.zeros((), dtype=y.dtype, device=y.device))


def window_index(outputs: int, offsets: Tensor, stride: int) -> Tensor:
    """Positions (T', R) of the frames that each output sees; offsets are 0, ..., R-1."""
    return torch.arange(outputs, device=offsets.device).unsqueeze(1) * stride + offsets
