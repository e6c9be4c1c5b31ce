"""What was written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


class Written(NamedTuple):
    """N candidates for each of B sequences, the best first; N is 1 but for beam search.

    A score is log p of the tokens that count, in nats; of beam search it is divided by their number to the power of the length
    penalty.
    """

    tokens: Tokens  # (T, B, N); after a candidate's end the end token
    counts: Tokens  # (B, N): how many tokens count, the end included
    scores: Scores  # (B, N)

    def best(self, candidates: int) -> Written:
        """The first candidates of each sequence."""
        return Written(self.tokens[:, :, :candidates], self.counts[:, :candidates], self.scores[:, :candidates])


def log_softmax(logits: npt.NDArray[np.float32]) -> Scores:
    """Log p (..., V) of logits (..., V)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)
