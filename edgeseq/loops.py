"""A step repeated for as long as its own outcome says so: what has no length known beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

State = tuple[Tensor, ...]


class Loop(nn.Module, ABC):
    """A step repeated while something is left to do; in an exported graph it is one ONNX Loop.

    Where a recurrence runs along a sequence that is there, `edgeseq.Recurrent` is the layer; this one is for what decides by
    itself when it ends, such as a sequence that is being written. `step` and `unfinished` are what goes into the graph: tensor
    operations and cells called as `cell(state, x)`, without an `if` on values and without recurrent layers.
    """

    @abstractmethod
    def step(self, state: State, given: State) -> State:
        """The next state, each tensor of the shape and dtype that it had."""

    @abstractmethod
    def unfinished(self, state: State, given: State) -> Tensor:
        """Whether there is another step: a Boolean tensor without dimensions."""

    def forward(self, state: State, given: State = ()) -> State:
        """The state in which nothing is left to do.

        Args:
            state: what changes from step to step.
            given: what stays the same.
        """
        while bool(self.unfinished(state, given)):
            state = self.step(state, given)
        return state
