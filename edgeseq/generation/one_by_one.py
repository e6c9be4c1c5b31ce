"""What greedy search and sampling share: one candidate a sequence, one token after the other."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseq.generation.tokens import put
from edgeseq.generation.writer import Beginning, State, TokenWriter
from edgeseq.loops import Loop


class OneByOne(Loop):
    """Writes until every sequence has ended; a subclass says which token comes next.

    State: t, the last token (B,), whether each has ended (B,), counts (B,), scores (B,), tokens (L, B), the writer's.
    Given: how many tokens there can be, what `choose` takes, the writer's memory.
    """

    controls = 0  # tensors that `choose` takes

    def __init__(self, writer: TokenWriter) -> None:
        super().__init__()
        self.writer = writer

    @abstractmethod
    def choose(self, t: Tensor, logits: Tensor, *controls: Tensor) -> Tensor:
        """Token number t (B,) from logits (B, V)."""

    def write(self, begun: Beginning, limit: Tensor, tokens: Tensor, *controls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The buffer (L, B) filled, how many tokens of each sequence count, the end included (B,), and their log p (B,)."""
        token, state, memory = begun
        none = torch.zeros_like(token)
        scores = torch.zeros(none.shape, dtype=state[0].dtype, device=none.device)
        begin = (none.new_zeros(()), token, none.bool(), none, scores, tokens, *state)
        _, _, _, counts, scores, tokens, *_ = self(begin, (limit, *controls, *memory))
        return tokens, counts, scores

    def unfinished(self, state: State, given: State) -> Tensor:
        t, _, ended = state[:3]
        return (t < given[0]) & ~ended.all()

    def step(self, state: State, given: State) -> State:
        t, token, ended, counts, scores, tokens, *own = state
        controls, memory = given[1 : 1 + self.controls], given[1 + self.controls :]
        logits, following = self.writer.next(t, token, tuple(own), memory)
        chosen = self.choose(t, logits, *controls)
        log_p = F.log_softmax(logits, dim=-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)  # (B,)
        scores = scores + torch.where(ended, torch.zeros_like(log_p), log_p)
        counts = counts + (~ended).to(counts.dtype)
        if self.writer.end is not None:
            chosen = torch.where(ended, self.writer.end, chosen)
            ended = ended | (chosen == self.writer.end)
        return t + 1, chosen, ended, counts, scores, put(tokens, t, chosen), *following
