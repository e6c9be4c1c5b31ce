"""Modules that treat each frame by itself, as layers of a stack."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgeseq.cells import State
from edgeseq.layers import SequenceLayer, require_sequences, require_states
from edgeseq.streaming.window import zero_past

_SEE_MORE = (
    nn.modules.conv._ConvNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.InstanceNorm1d,
    SequenceLayer,
)


class Framewise(SequenceLayer):
    """A module over (..., C) that treats each frame by itself, such as a Linear, a LayerNorm, a ReLU or a Sequential of them.

    `nn.BatchNorm1d`, whose features are its input's second axis, is given the frames of all steps and sequences as (T * B, C).
    No state.

    Args:
        module: what to run on every frame.

    Raises:
        ValueError: it holds a convolution, a recurrence, pooling or attention, which see more than one frame.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, part in module.named_modules():
            if isinstance(part, _SEE_MORE):
                raise ValueError(
                    f"{type(part).__name__} '{name}' does not treat each frame by itself; give the stack the layer of edgeseq or "
                    "edgeseq.streaming that does the same, in a place of its own"
                )
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
