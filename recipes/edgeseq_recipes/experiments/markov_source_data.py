"""A Markov source whose entropies are known exactly, and a source whose last token repeats its first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class MarkovSource:
    """A stationary source of order m over V tokens: p(y_t | y_{t-1}, ..., y_{t-m}) is a row of a table.

    Each row is a Dirichlet draw with concentration 0.3, mixed with 2 % of the uniform distribution, so that every token is
    possible everywhere and the chain of contexts has one stationary distribution.

    Args:
        vocabulary: V.
        order: m, 1 or more.
        seed: of the table.
    """

    def __init__(self, vocabulary: int, order: int, seed: int) -> None:
        contexts = vocabulary**order
        rows = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(vocabulary, 0.3), size=contexts))
        self.vocabulary = vocabulary
        self.order = order
        self.table = 0.98 * rows + 0.02 / vocabulary  # (V^m, V); a context is a number in base V, its latest token last
        self.stationary = self._stationary()  # (V^m,)

    def _stationary(self) -> Tensor:
        """The left eigenvector of the chain of contexts with eigenvalue 1: the solution of π P = π, Σ π = 1."""
        V, contexts = self.vocabulary, len(self.table)
        transition = torch.zeros(contexts, contexts, dtype=torch.float64)
        before = torch.arange(contexts)[:, None].expand(-1, V)
        after = self.following(before, torch.arange(V))
        transition[before, after] = self.table
        equations = torch.cat([transition.T - torch.eye(contexts), torch.ones(1, contexts)]).double()
        wanted = torch.zeros(contexts + 1, 1, dtype=torch.float64)
        wanted[-1] = 1
        stationary: Tensor = torch.linalg.lstsq(equations, wanted).solution.squeeze(1)
        return stationary

    def following(self, context: Tensor, token: Tensor) -> Tensor:
        """The context after a token."""
        return torch.remainder(context * self.vocabulary + token, self.vocabulary**self.order)

    def entropy(self, known: int) -> float:
        """H(y_t | y_{t-1}, ..., y_{t-k}) in nats of the last k = `known` tokens, 0 <= k <= m; with k = m the entropy rate.

        It is the least expected loss of any model that sees k tokens: the table averaged over what it can't see.
        """
        V = self.vocabulary
        joint = (self.stationary[:, None] * self.table).reshape(-1, V**known, V).sum(0)  # (V^k, V)
        seen = joint.sum(1, keepdim=True)
        return -(joint * (joint / seen).log()).sum().item()

    @property
    def entropy_rate(self) -> float:
        """Nats a token: no model's expected loss can be lower."""
        return self.entropy(self.order)

    def sample(self, T: int, B: int, generator: torch.Generator) -> Tensor:
        """Tokens (T, B) from the stationary source."""
        context = torch.multinomial(self.stationary, B, replacement=True, generator=generator)
        thresholds = self.table.cumsum(1)[:, :-1]  # (V^m, V - 1)
        uniform = torch.rand(T, B, 1, generator=generator, dtype=torch.float64)
        tokens = []
        for u in uniform:
            tokens.append((u > thresholds[context]).sum(1))  # (B,)
            context = self.following(context, tokens[-1])
        return torch.stack(tokens)

    def loss(self, y: Tensor) -> float:
        """Mean of -log p(y_t | the m tokens before) in nats a token of y (T, B), from the token m + 1 on."""
        context = torch.zeros_like(y[0])
        total = torch.zeros((), dtype=torch.float64)
        for t, token in enumerate(y):
            if t >= self.order:
                total -= self.table[context, token].log().mean()
            context = self.following(context, token)
        return total.item() / (len(y) - self.order)


def echo(vocabulary: int, distance: int, B: int, generator: torch.Generator) -> Tensor:
    """Tokens (distance + 1, B), independent and uniform but for the last, which is the first again."""
    y = torch.randint(vocabulary, (distance, B), generator=generator)
    return torch.cat([y, y[:1]])
