"""The likeliest token at every step, chosen here."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np

from edgeseq_runtime.generation.written import Scores, Tokens, Written, log_softmax


class Steps(Protocol):
    """A model as a search sees it: `rows` sequences, one token after the other."""

    start: int
    end: int | None

    def next(self, t: int, tokens: Tokens) -> Scores:
        """Logits (rows, V) of token number t from those before it (rows,)."""

    def select(self, rows: Tokens) -> None:
        """Go on with other sequences: number i becomes a copy of what number rows[i] was."""


class Greedy(msgspec.Struct, frozen=True):
    """y_t = argmax p(y_t | y_1, ..., y_{t-1})."""

    kind = "greedy"

    @property
    def width(self) -> int:
        """Candidates that a sequence needs rows for."""
        return 1

    def search(self, steps: Steps, batch: int, longest: int) -> Written:
        """Write at most `longest` tokens for each of `batch` sequences."""
        return write_one_by_one(steps, batch, longest, lambda t, logits: logits.argmax(axis=-1))


class Choose(Protocol):
    """Tokens (B,) of step t from logits (B, V)."""

    def __call__(self, t: int, logits: Scores, /) -> Tokens: ...


def write_one_by_one(steps: Steps, batch: int, longest: int, choose: Choose) -> Written:
    """One candidate a sequence, until all have ended."""
    end = 0 if steps.end is None else steps.end
    tokens = np.full((longest, batch), end, np.int64)
    last, ended = np.full(batch, steps.start, np.int64), np.zeros(batch, bool)
    counts, scores = np.zeros(batch, np.int64), np.zeros(batch, np.float32)
    for t in range(longest):
        if ended.all():
            break
        logits = steps.next(t, last)  # (B, V)
        last = choose(t, logits)
        scores += np.where(ended, np.float32(0), np.take_along_axis(log_softmax(logits), last[:, None], axis=-1)[:, 0])
        counts += ~ended
        if steps.end is not None:
            last = np.where(ended, end, last)
            ended |= last == end
        tokens[t] = last
    return Written(tokens[:, :, None], counts[:, None], scores[:, None])
