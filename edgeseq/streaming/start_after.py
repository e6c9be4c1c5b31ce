"""Layers that begin some steps into a stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgeseq.cells import State
from edgeseq.layers import RecurrentStack, SequenceLayer, require_sequences, require_states
from edgeseq.streaming.window import zero_past


class StartAfter(SequenceLayer):
    """Layers over the steps from `steps` on; before that y is zero and their state is the initial one.

    A layer that looks ahead gives its first outputs before the sequence's own first (`CausalConv1d.from_conv1d`). What reads
    them would see them as a past that the trained layers had no part of: a convolution as other than zeros, a recurrence as steps
    to remember. State: that of the layers, then the steps so far (B, 1) int64, `steps` at most.

    Args:
        steps: steps to leave out, 0 or more.
        layers: of stride 1, from the input upwards.

    Raises:
        ValueError: steps is negative.
    """

    def __init__(self, steps: int, *layers: SequenceLayer) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"steps is {steps}; it has to be 0 or more")
        self.steps = steps
        self.stack = RecurrentStack(*layers)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """That of the layers, and the steps so far, (1,)."""
        return (*self.stack.state_shapes, (1,))

    def initial_state(self, x: Tensor) -> State:
        """That of the layers, and no step so far."""
        return (*self.stack.initial_state(x), x.new_zeros(x.shape[1], 1, dtype=torch.int64))

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """From x (T, B, I), the state and lengths (B,) in 1..T to y (T, B, O) and the state.

        Raises:
            ValueError: x, a state or lengths has another shape, or lengths other values.
        """
        require_sequences(x, lengths)
        *inner, seen = self.initial_state(x) if state is None else state
        require_states((*inner, seen), self.state_shapes, x.shape[1])
        T = x.shape[0]
        t = torch.arange(T, device=x.device).unsqueeze(1)  # (T, 1)
        ends = torch.full_like(seen[:, 0], T) if lengths is None else lengths.to(torch.int64)  # (B,)
        left_out = (self.steps - seen[:, 0]).clamp(min=0)  # (B,)
        live = ends - left_out  # (B,), not above 0 where the start is still to come
        y, following = self.stack(_frames_at(x, t + left_out), inner, live.clamp(min=1))
        y = _chosen(t >= left_out, _frames_at(y, t - left_out), torch.zeros((), dtype=y.dtype, device=y.device))
        end = (_chosen(live > 0, new, old) for new, old in zip(following, inner, strict=True))
        following = (*end, (seen + ends.unsqueeze(1)).clamp(max=self.steps))
        return (y if lengths is None else zero_past(y, lengths)), following

    def extra_repr(self) -> str:
        return f"{self.steps}"


def _chosen(where: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Values of a, or of b where the condition over their first axes does not hold."""
    return torch.where(where[(..., *[None] * (a.dim() - where.dim()))], a, b)


def _frames_at(x: Tensor, steps: Tensor) -> Tensor:
    """The frames of x (T, B, C) at steps (T, B), the first or last where there is none."""
    T, _, C = x.shape
    return x.gather(0, steps.clamp(0, T - 1).unsqueeze(2).expand(-1, -1, C))
