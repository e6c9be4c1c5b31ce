"""Modules that treat each frame by itself, as layers of a stack."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeseq.cells import State
from edgeseq.layers import SequenceLayer, require_sequences, require_states
from edgeseq.streaming.window import zero_past


class Framewise(SequenceLayer):
    """A module over (..., C) that treats each frame by itself, such as a Linear, a LayerNorm, a ReLU or a Sequential of them.

    `nn.BatchNorm1d`, whose features are its input's second axis, is given the frames of all steps and sequences as (T * B, C).
    No state.

    Args:
        module: what to run on every frame.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._flat = any(isinstance(part, nn.BatchNorm1d) for part in module.modules())

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """None."""
        return ()

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """From x (T, B, ...) to y (T, B, ...), zero at and past the lengths (B,) where they are given.

        Raises:
            ValueError: a state is given, or lengths has another shape or other values.
        """
        require_sequences(x, lengths)
        require_states(tuple(state or ()), (), x.shape[1])
        y: Tensor = self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2]) if self._flat else self.module(x)
        return (y if lengths is None else zero_past(y, lengths)), ()
