"""The tokens written so far: a buffer as long as a sequence may become, filled row by row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeseq.generation.writer import TokenWriter

MOST = 2**20  # tokens of one sequence


def empty(limit: Tensor, like: Tensor, fill: int) -> Tensor:
    """A buffer (L, ...) of `fill` for L tokens of the shape of `like` (...), L the value of `limit`."""
    L: Any = limit.item()  # symbolic while a graph is captured
    torch._check(L >= 0)  # type: ignore[no-untyped-call]
    torch._check(L <= MOST)  # type: ignore[no-untyped-call]
    return torch.full((L, *like.shape), fill, dtype=torch.int64, device=like.device)


def filler(writer: TokenWriter) -> int:
    """What stands after a sequence's end."""
    return 0 if writer.end is None else writer.end


def put(tokens: Tensor, t: Tensor, row: Tensor) -> Tensor:
    """The buffer (L, ...) with row number t replaced."""
    # A comparison, not an index: the buffer's size never depends on t, which engines that can't grow a loop's state ask for.
    numbers = torch.arange(tokens.shape[0], device=tokens.device).reshape(-1, *[1] * row.dim())
    return torch.where(numbers == t, row, tokens)
