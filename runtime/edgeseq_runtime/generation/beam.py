"""Beam search, its candidates chosen here."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.generation.greedy import Steps
from edgeseq_runtime.generation.written import Scores, Tokens, Written, log_softmax


class BeamSearch(msgspec.Struct, frozen=True):
    """The K candidates with the highest log p / n^α stay at every step, as `edgeseq.generation.BeamSearch` says."""

    width: int = 4  # K, up to the vocabulary's size
    length_penalty: float = 1.0  # α

    kind = "beam"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"the beam's width is {self.width}; give 1 or more")

    def search(self, steps: Steps, batch: int, longest: int) -> Written:
        """Write at most `longest` tokens; the steps' rows are the candidates of each of `batch` sequences in turn."""
        K, end = self.width, 0 if steps.end is None else steps.end
        last, ended = np.full((batch, K), steps.start, np.int64), np.zeros((batch, K), bool)
        counts, tokens = np.zeros((batch, K), np.int64), np.full((longest, batch, K), end, np.int64)
        # All candidates begin alike: only the first may be continued.
        log_p = np.tile(np.where(np.arange(K) == 0, 0, -np.inf).astype(np.float32), (batch, 1))
        for t in range(longest):
            if ended.all():
                break
            log_next = self._continued(log_softmax(steps.next(t, last.reshape(-1))), ended, steps.end)  # (B, K, V)
            V = log_next.shape[-1]
            counts = counts + ~ended
            total = (log_p[:, :, None] + log_next).reshape(batch, K * V)
            best = _highest(self._score(total, np.repeat(counts, V, axis=1)), K)  # (B, K)
            parent, last = best // V, best % V
            ended = np.take_along_axis(ended, parent, axis=1) | (steps.end is not None and last == end)
            counts = np.take_along_axis(counts, parent, axis=1)
            log_p = np.take_along_axis(total, best, axis=1)
            tokens[:t] = np.take_along_axis(tokens[:t], parent[None], axis=2)
            tokens[t] = last
            steps.select((parent + K * np.arange(batch)[:, None]).reshape(-1))
        return Written(tokens, counts, self._score(log_p, counts))

    def _score(self, log_p: Scores, counts: Tokens) -> Scores:
        if self.length_penalty == 0:
            return log_p
        return np.asarray(log_p / np.maximum(counts, 1).astype(np.float32) ** np.float32(self.length_penalty), np.float32)

    def _continued(self, log_next: Scores, ended: Tokens, end: int | None) -> Scores:
        """Log p (B, K, V) of the next token from (B*K, V): an ended candidate is followed by its end alone, at no cost."""
        log_next = log_next.reshape(*ended.shape, -1)
        if self.width > log_next.shape[-1]:
            raise UsageError(f"the beam's width is {self.width} and the vocabulary has {log_next.shape[-1]} tokens; give fewer")
        if end is not None:
            log_next[ended] = -np.inf
            log_next[ended, end] = 0
        return log_next


def _highest(scores: Scores, K: int) -> Tokens:
    """Positions (B, K) of the K highest of each row, the highest first and of equal ones the first."""
    some = np.sort(np.argpartition(-scores, K - 1, axis=1)[:, :K], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)
