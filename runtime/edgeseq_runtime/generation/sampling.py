"""Tokens drawn at random from the model's distribution, chosen here."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.generation.greedy import Steps, write_one_by_one
from edgeseq_runtime.generation.written import Scores, Tokens, Written


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """y_t drawn from p(y_t | y_1, ..., y_{t-1}), tempered and cut as `edgeseq.generation.Sampling` says.

    The same seed gives the same text: sequence number n of a seed has random numbers of its own, whatever the batch it is in.
    """

    temperature: float = 1.0
    top_k: int | None = None  # None cuts nothing
    top_p: float = 1.0  # 1 cuts nothing
    seed: int = 0
    first: int = 0  # number of the first sequence

    kind = "sampling"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}; give more than 0 (near 0 is greedy)")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}; give 1 or more, or None for all")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; give more than 0, to 1")
        if self.seed < 0 or self.first < 0:
            raise UsageError(f"seed is {self.seed}, first {self.first}; give 0 or more")

    @property
    def width(self) -> int:
        """Candidates that a sequence needs rows for."""
        return 1

    def uniforms(self, longest: int, batch: int) -> Scores:
        """Random numbers (longest, batch) in [0, 1): a column a sequence, of which a longer one is a continuation."""
        columns = [
            np.random.Generator(np.random.Philox(key=[self.seed, self.first + b])).random(longest, np.float32) for b in range(batch)
        ]
        return np.stack(columns, axis=1)

    def search(self, steps: Steps, batch: int, longest: int) -> Written:
        """Write at most `longest` tokens for each of `batch` sequences."""
        uniforms = self.uniforms(longest, batch)
        return write_one_by_one(steps, batch, longest, lambda t, logits: self.draw(logits, uniforms[t]))

    def draw(self, logits: Scores, u: Scores) -> Tokens:
        """Tokens (B,) from logits (B, V) and numbers u (B,) in [0, 1)."""
        V = logits.shape[-1]
        tokens = np.argsort(-logits, axis=-1, kind="stable")
        ordered = np.take_along_axis(logits, tokens, axis=-1) / np.float32(self.temperature)  # the likeliest first
        p = np.exp(ordered - ordered[:, :1])
        p = p / p.sum(axis=-1, keepdims=True) * (np.arange(V) < (self.top_k or V))
        p = p / p.sum(axis=-1, keepdims=True)
        if self.top_p < 1:
            p = p * (p.cumsum(axis=-1) - p < np.float32(self.top_p))
        running = p.cumsum(axis=-1)
        # u is less than 1 by at least half a unit in the last place, so the product is less than the total, rounded or not.
        chosen = (running <= u[:, None] * running[:, -1:]).sum(axis=-1, keepdims=True)  # (B, 1)
        return np.take_along_axis(tokens, chosen, axis=-1)[:, 0]
