"""The adding problem (Hochreiter and Schmidhuber, 1997, section 5.4; in this form Le, Jaitly and Hinton, 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

# The sum of two numbers uniform in 0..1 has variance 2/12: the error of answering 1, always.
CONSTANT_ERROR = 1 / 6


def adding_problem(generator: torch.Generator, T: int, B: int) -> tuple[Tensor, Tensor]:
    """Numbers and markers x (T, B, 2), and the answers (B,).

    The first feature is uniform in 0..1. The second is 1 at one step of the first half and at one of the second, and 0 elsewhere;
    the answer is the sum of the two numbers so marked.
    """
    numbers = torch.rand(T, B, generator=generator)
    half = T // 2
    first = torch.randint(half, (1, B), generator=generator)
    second = torch.randint(half, T, (1, B), generator=generator)
    markers = torch.zeros(T, B).scatter(0, torch.cat([first, second]), 1.0)
    return torch.stack([numbers, markers], dim=-1), (numbers * markers).sum(dim=0)
