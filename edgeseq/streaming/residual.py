"""A skip connection around layers that may look ahead."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgeseq.cells import State
from edgeseq.layers import RecurrentStack, SequenceLayer, require_states
from edgeseq.streaming.delay import Delay


class Residual(SequenceLayer):
    """The layers' outputs plus their input, as late as they are: y[t] = x[t - look_ahead] + layers(x)[t].

    State: that of the layers, then that of the `Delay`.

    Args:
        layers: of stride 1, whose output has the input's features.
        features: features C of the input.
        look_ahead: steps that the layers' outputs come later.
    """

    def __init__(self, *layers: SequenceLayer, features: int, look_ahead: int = 0) -> None:
        super().__init__()
        self.stack = RecurrentStack(*layers)
        self.delay = Delay(features, look_ahead)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of the layers and of the delay."""
        return self.stack.state_shapes + self.delay.state_shapes

    def initial_state(self, x: Tensor) -> State:
        """Those of the layers and of the delay."""
        return self.stack.initial_state(x) + self.delay.initial_state(x)

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """From x (T, B, C), the state and lengths (B,) to y (T, B, C) and the state.

        Raises:
            ValueError: x, a state or lengths has another shape, or lengths other values.
        """
        own = self.initial_state(x) if state is None else tuple(state)
        require_states(own, self.state_shapes, x.shape[1])
        n = len(self.stack.state_shapes)
        y, end = self.stack(x, own[:n], lengths)
        late, held = self.delay(x, own[n:], lengths)
        return y + late, end + held
