"""Axes of several operands that are gone over together, as few as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.values import Value

MAX_AXES = 8  # as in library.c


class Axes(NamedTuple):
    """Sizes, and for each operand its strides; axes along which all go on as if they were one are one."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


def merged(sizes: Sequence[int], *strides: Sequence[int]) -> Axes:
    """The fewest axes that go over the same elements in the same order; at least one.

    Raises:
        UsageError: they are more than the library counts.
    """
    kept: list[list[int]] = []  # size, then a stride for each operand
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if kept and all(before == step * size for before, step in zip(kept[-1][1:], steps, strict=True)):
            kept[-1] = [kept[-1][0] * size, *steps]
        else:
            kept.append([size, *steps])
    kept = kept or [[1, *(1 for _ in strides)]]
    if len(kept) > MAX_AXES:
        raise UsageError(
            f"the native kernels go over at most {MAX_AXES} axes at once, and here are {len(kept)}; choose device 'cpu'"
        )
    return Axes(tuple(one[0] for one in kept), tuple(tuple(one[1 + i] for one in kept) for i in range(len(strides))))


def broadcast(value: Value, shape: Sequence[int]) -> Value:
    """The value as of this shape, its elements repeated where they are one."""
    return value.viewed(np.broadcast_to(value.array, shape))
