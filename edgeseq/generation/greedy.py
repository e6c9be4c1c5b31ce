"""The likeliest token at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseq.generation.tokens import empty, filler, put
from edgeseq.generation.writer import State, TokenWriter
from edgeseq.loops import Loop


class Greedy(nn.Module):
    """y_t = argmax p(y_t | y_1, ..., y_{t-1}), until every sequence has ended.

    Args:
        writer: the model.
    """

    def __init__(self, writer: TokenWriter) -> None:
        super().__init__()
        self.loop = GreedyLoop(writer)

    def forward(self, longest: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write at most `longest` tokens, an integer tensor without dimensions, from the writer's own inputs.

        Returns:
            Tokens (longest, B), after a sequence's end the end token; how many of them count, the end included (B,); and
            log p of those (B,), in nats.
        """
        writer = self.loop.writer
        token, state, memory = writer.begin(**inputs)
        limit = writer.limit(longest, memory)
        none = torch.zeros_like(token)
        begun = (none.new_zeros(()), token, none.bool(), none, _scores(none, state), empty(limit, token, filler(writer)))
        _, _, _, counts, scores, tokens, *_ = self.loop((*begun, *state), (limit, *memory))
        return tokens, counts, scores


class GreedyLoop(Loop):
    """State: t, the last token (B,), whether each has ended (B,), counts (B,), scores (B,), tokens (L, B), the writer's."""

    def __init__(self, writer: TokenWriter) -> None:
        super().__init__()
        self.writer = writer

    def unfinished(self, state: State, given: State) -> Tensor:
        t, _, ended = state[:3]
        return (t < given[0]) & ~ended.all()

    def step(self, state: State, given: State) -> State:
        t, token, ended, counts, scores, tokens, *own = state
        logits, following = self.writer.next(t, token, tuple(own), given[1:])
        return (t + 1, *choose(self.writer, t, logits.argmax(dim=-1), logits, ended, counts, scores, tokens), *following)


def choose(
    writer: TokenWriter, t: Tensor, chosen: Tensor, logits: Tensor, ended: Tensor, counts: Tensor, scores: Tensor, tokens: Tensor
) -> State:
    """The state after the tokens `chosen` (B,): those, ended, counts, scores and tokens. What has ended stays as it is."""
    log_p = F.log_softmax(logits, dim=-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)  # (B,)
    scores = scores + torch.where(ended, torch.zeros_like(log_p), log_p)
    counts = counts + (~ended).to(counts.dtype)
    if writer.end is not None:
        chosen = torch.where(ended, writer.end, chosen)
        ended = ended | (chosen == writer.end)
    else:
        ended = ended.clone()
    return chosen, ended, counts, scores, put(tokens, t, chosen)


def _scores(none: Tensor, state: State) -> Tensor:
    """Zeros (B,) of the model's own precision."""
    return torch.zeros(none.shape, dtype=state[0].dtype, device=none.device)
