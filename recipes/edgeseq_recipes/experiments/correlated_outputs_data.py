"""Outputs that depend on the input and on the output before, with the entropies of both factorisations computed exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Bounds(NamedTuple):
    """The least expected losses given the inputs, in nats a sequence."""

    joint: float  # of any model of p(y | x)
    marginals: float  # of any model under which the outputs are independent given x


class CorrelatedSource:
    """x_t uniform and independent over X symbols, p(y_t | x_t, y_{t-1}) a row of a table over V tokens; y_0 = 0.

    Each row is a Dirichlet draw with concentration 0.25, mixed with 4 % of the uniform distribution.

    Args:
        inputs: X.
        vocabulary: V.
        seed: of the table.
    """

    def __init__(self, inputs: int, vocabulary: int, seed: int) -> None:
        rows = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(vocabulary, 0.25), size=(inputs, vocabulary)))
        self.inputs = inputs
        self.vocabulary = vocabulary
        self.table = 0.96 * rows + 0.04 / vocabulary  # (X, V before, V)

    def sample(self, T: int, B: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and outputs, both (T, B)."""
        x = torch.randint(self.inputs, (T, B), generator=generator)
        uniform = torch.rand(T, B, 1, generator=generator, dtype=torch.float64)
        thresholds = self.table.cumsum(2)[:, :, :-1]  # (X, V, V - 1)
        before, y = torch.zeros_like(x[0]), []
        for symbol, u in zip(x, uniform, strict=True):
            before = (u > thresholds[symbol, before]).sum(1)  # (B,)
            y.append(before)
        return x, torch.stack(y)

    def one_hot(self, x: Tensor) -> Tensor:
        """Inputs (T, B) as features (T, B, X)."""
        return F.one_hot(x, self.inputs).float()

    def bounds(self, x: Tensor) -> Bounds:
        """Both entropies given x (T, B), in the mean over its sequences.

        With a_t(i) = p(y_t = i | x_1, ..., x_t), which a later x does not change, the forward recursion is exact:

            a_t(j) = Σ_i a_{t-1}(i) P(j | x_t, i),    a_0 = the certain token 0
            joint = Σ_t Σ_i a_{t-1}(i) H(P(. | x_t, i)),    marginals = Σ_t H(a_t)

        The first is the chain rule H(y | x) = Σ_t H(y_t | y_{t-1}, x_t); the second is the least of Σ_t -log q_t(y_t) in the mean
        over y, reached by q_t = a_t.
        """
        _, B = x.shape
        a = F.one_hot(torch.zeros(B, dtype=torch.int64), self.vocabulary).double()  # (B, V)
        joint, marginals = torch.zeros(B, dtype=torch.float64), torch.zeros(B, dtype=torch.float64)
        for symbol in x:
            P = self.table[symbol]  # (B, V, V)
            joint += (a * entropy(P)).sum(1)
            a = (a.unsqueeze(1) @ P).squeeze(1)
            marginals += entropy(a)
        return Bounds(joint.mean().item(), marginals.mean().item())


def entropy(p: Tensor) -> Tensor:
    """Entropies (...) in nats of distributions (..., V)."""
    return -(p * p.log()).sum(-1)
