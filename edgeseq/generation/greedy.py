"""The likeliest token at every step."""

from __future__ import annotations

from torch import Tensor, nn

from edgeseq.generation.one_by_one import OneByOne
from edgeseq.generation.tokens import empty, filler
from edgeseq.generation.writer import TokenWriter


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
        begun = writer.begin(**inputs)
        limit = writer.limit(longest, begun.memory)
        return self.loop.write(begun, limit, empty(limit, begun.token, filler(writer)))


class GreedyLoop(OneByOne):
    """The loop of a greedy search."""

    def choose(self, t: Tensor, logits: Tensor, *controls: Tensor) -> Tensor:
        return logits.argmax(dim=-1)
