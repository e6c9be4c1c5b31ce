"""A model as a search sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

State = tuple[Tensor, ...]


class Beginning(NamedTuple):
    """Where writing starts; the batch is the first axis of every tensor."""

    token: Tensor  # (B,) int64: what stands before the first token
    state: State  # (B, ...) each: what a step changes
    memory: State  # (B, ...) each: what every step sees


class TokenWriter(nn.Module, ABC):
    """p(y_1, ..., y_T | inputs) = Π_t p(y_t | y_1, ..., y_{t-1}, inputs), as a beginning and a step.

    The batch is the first axis throughout, so that a search can repeat and reorder sequences without knowing the model.
    """

    vocabulary: int  # V
    end: int | None  # the token that ends a sequence; None where sequences have no end of their own

    @abstractmethod
    def begin(self, **inputs: Tensor) -> Beginning:
        """The beginning that follows from the model's own inputs."""

    @abstractmethod
    def next(self, t: Tensor, token: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
        """Logits (B, V) of token number t, counted from 0, from the token before it (B,); and the state. t has no dimensions."""

    def limit(self, longest: Tensor, memory: State) -> Tensor:
        """How many tokens there can be, of `longest` that are asked for; both without dimensions."""
        return longest
