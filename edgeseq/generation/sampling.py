"""Tokens drawn at random from the model's distribution, tempered and cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseq.generation.one_by_one import OneByOne
from edgeseq.generation.tokens import filler
from edgeseq.generation.writer import TokenWriter


class Sampling(nn.Module):
    """y_t drawn from p(y_t | y_1, ..., y_{t-1}), until every sequence has ended.

    Logits are divided by the temperature; of the tokens by falling probability the first `top_k` stay; of those the fewest whose
    share reaches `top_p` (Holtzman et al., 2020, "The curious case of neural text degeneration", section 3.1); and the one drawn
    is the first at which the running sum of probabilities exceeds u times its total.

    The random numbers u are an input, so the same numbers give the same text, here as on any device.

    Args:
        writer: the model.
    """

    def __init__(self, writer: TokenWriter) -> None:
        super().__init__()
        self.loop = SamplingLoop(writer)

    def forward(
        self, uniforms: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write at most T tokens a sequence.

        Args:
            uniforms: (T, B) numbers u in [0, 1), independent and uniform.
            temperature: above 0; without dimensions, as the next two.
            top_k: integer from 1 to V; V cuts nothing.
            top_p: above 0, to 1; 1 cuts nothing.
            inputs: the writer's own.

        Returns:
            As `Greedy.forward`; log p is that of the model, neither tempered nor cut.
        """
        writer = self.loop.writer
        begun = writer.begin(**inputs)
        limit = writer.limit(torch.full_like(top_k, uniforms.shape[0], dtype=torch.int64), begun.memory)
        tokens = torch.full_like(uniforms, filler(writer), dtype=torch.int64)  # (T, B)
        return self.loop.write(begun, limit, tokens, uniforms, temperature, top_k, top_p)


class SamplingLoop(OneByOne):
    """The loop of a sampling."""

    controls = 4

    def choose(self, t: Tensor, logits: Tensor, *controls: Tensor) -> Tensor:
        uniforms, temperature, top_k, top_p = controls
        u = uniforms.index_select(0, t.reshape(1)).squeeze(0)  # (B,)
        return drawn(logits, u, temperature, top_k, top_p)


def drawn(logits: Tensor, u: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Tokens (B,) from logits (B, V) and numbers u (B,) in [0, 1), as `Sampling` says."""
    V = logits.shape[-1]
    ordered, tokens = (logits / temperature).topk(V)  # (B, V) both, the likeliest first
    rank = torch.arange(V, device=logits.device)
    p = torch.softmax(ordered, dim=-1) * (rank < top_k)
    p = p / p.sum(dim=-1, keepdim=True)
    before = p.cumsum(dim=-1) - p
    p = p * ((before < top_p) | (top_p >= 1))
    running = p.cumsum(dim=-1)
    # u is less than 1 by at least half a unit in the last place, so the product is less than the total, rounded or not.
    chosen = (running <= u.unsqueeze(-1) * running[:, -1:]).sum(dim=-1, keepdim=True)  # (B, 1)
    return tokens.gather(-1, chosen).squeeze(-1)
