"""Beam search: the likeliest whole sequences, as far as a beam of a few candidates finds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.generation.tokens import empty, filler, put
from edgeseq.generation.writer import State, TokenWriter
from edgeseq.loops import Loop


class BeamSearch(nn.Module):
    """Of all continuations of K candidates, the K with the highest score stay, until all K of every sequence have ended.

        score(y_1, ..., y_n) = log p(y_1, ..., y_n) / n^α         n counts the end token

    α = 0 ranks by probability, which favours short sequences (Graves, 2012, "Sequence transduction with recurrent neural
    networks", section 2.5); α = 1 ranks by the mean over tokens. An ended candidate competes with its score as it is.

    Args:
        writer: the model.
        width: K, up to the vocabulary's size.
        length_penalty: α.
    """

    def __init__(self, writer: TokenWriter, width: int, *, length_penalty: float = 1.0) -> None:
        super().__init__()
        if not 1 <= width <= writer.vocabulary:
            raise ValueError(f"width is {width}; it has to be in 1..{writer.vocabulary}, the size of the vocabulary")
        self.width = width
        self.loop = BeamLoop(writer, width, length_penalty)

    def forward(self, longest: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write at most `longest` tokens, an integer tensor without dimensions, from the writer's own inputs.

        Returns:
            Tokens (longest, B, K), the best candidate first, after a candidate's end the end token; how many of them count, the
            end included (B, K); and scores (B, K), in nats or nats a token.
        """
        writer, K = self.loop.writer, self.width
        token, state, memory = writer.begin(**inputs)
        limit = writer.limit(longest, memory)
        state, memory = (tuple(part.repeat_interleave(K, dim=0) for part in parts) for parts in (state, memory))  # (B*K, ...)
        last = token.unsqueeze(1).expand(-1, K).contiguous()  # (B, K)
        none = torch.zeros_like(last)
        first = torch.arange(K, device=token.device) == 0
        # All candidates begin alike: only the first may be continued.
        log_p = torch.where(first, 0.0, -torch.inf).to(state[0].dtype).expand(last.shape).contiguous()
        begun = (none.new_zeros(()), last, none.bool(), none, log_p, empty(limit, last, filler(writer)))
        _, _, _, counts, log_p, tokens, *_ = self.loop((*begun, *state), (limit, *memory))
        return tokens, counts, self.loop.score(log_p, counts)


class BeamLoop(Loop):
    """State: t; last tokens, whether each has ended, counts, log p, all (B, K); tokens (L, B, K); the writer's (B*K, ...)."""

    def __init__(self, writer: TokenWriter, width: int, length_penalty: float) -> None:
        super().__init__()
        self.writer = writer
        self.width = width
        self.length_penalty = length_penalty

    def score(self, log_p: Tensor, counts: Tensor) -> Tensor:
        """Log p (B, K) of candidates of so many tokens (B, K), normalised by their length."""
        return log_p if self.length_penalty == 0 else log_p / counts.clamp(min=1).to(log_p.dtype) ** self.length_penalty

    def unfinished(self, state: State, given: State) -> Tensor:
        t, _, ended = state[:3]
        return (t < given[0]) & ~ended.all()

    def step(self, state: State, given: State) -> State:
        t, last, ended, counts, log_p, tokens, *own = state
        K, V = self.width, self.writer.vocabulary
        logits, following = self.writer.next(t, last.reshape(-1), tuple(own), given[1:])
        log_next = self._continued(F.log_softmax(logits, dim=-1).reshape(-1, K, V), ended)
        counts = counts + (~ended).to(counts.dtype)
        total = log_p.unsqueeze(-1) + log_next  # (B, K, V)
        ranked = self.score(total, counts.unsqueeze(-1)).flatten(start_dim=1)  # (B, K*V)
        best = ranked.topk(K).indices  # (B, K)
        # An integer division is nine nodes in a graph; counting the candidates before it is three.
        parent = (best.unsqueeze(-1) >= V * torch.arange(1, K, device=best.device)).sum(dim=-1)
        chosen = best - V * parent
        ended = ended.gather(1, parent)
        if self.writer.end is not None:
            ended = ended | (chosen == self.writer.end)
        rows = (parent + K * torch.arange(parent.shape[0], device=parent.device).unsqueeze(1)).reshape(-1)  # (B*K,)
        return (
            t + 1,
            chosen,
            ended,
            counts.gather(1, parent),
            total.flatten(start_dim=1).gather(1, best),
            put(tokens.gather(2, parent.expand(tokens.shape[0], -1, -1)), t, chosen),
            *(part.index_select(0, rows) for part in following),
        )

    def _continued(self, log_next: Tensor, ended: Tensor) -> Tensor:
        """Log p (B, K, V) of the next token: an ended candidate is followed by its end alone, at no cost."""
        if self.writer.end is None:
            return log_next
        at_end = torch.arange(self.writer.vocabulary, device=log_next.device) == self.writer.end
        alone = torch.where(at_end, 0.0, -torch.inf).to(log_next.dtype)  # (V,)
        return torch.where(ended.unsqueeze(-1), alone, log_next)
