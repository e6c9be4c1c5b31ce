"""Random inputs at any sizes, of the kind that the user's example shows.

A draw keeps what a model may rely on: the sign and the set of values of the example, whole numbers in its range, masks that
are true up to some length, lengths within 1..T. Float inputs of both signs are normal with the example's mean and deviation;
constant ones (a zero state) are normal with deviation 0.5, so that no state input goes unexercised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgeseq_export.request import AxisNames
from edgeseq_runtime.tensors.spec import Array


class InputKind(NamedTuple):
    """One input of the graph: its example, in the graph's dtype, and the names of its axes."""

    example: Array
    axes: AxisNames
    counts: str | None  # the time axis that it holds lengths of


class Draws:
    """Draws inputs from a seeded generator.

    Args:
        kinds: the graph's inputs by name.
        sorted_lengths: whether lengths must descend, as `pack_padded_sequence(enforce_sorted=True)` asks.
        seed: the same seed draws the same inputs.
    """

    def __init__(self, kinds: Mapping[str, InputKind], *, sorted_lengths: bool, seed: int = 0) -> None:
        self._kinds = kinds
        self._sorted = sorted_lengths
        self._random = np.random.default_rng(seed)

    def __call__(self, sizes: Mapping[str, int], longest: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """One draw. `longest` gives the largest length by time axis; by default a sequence fills its axis."""
        longest = {**sizes, **(longest or {})}
        return {name: torch.from_numpy(self._draw(kind, sizes, longest)) for name, kind in self._kinds.items()}

    def _draw(self, kind: InputKind, sizes: Mapping[str, int], longest: Mapping[str, int]) -> Array:
        example = kind.example
        shape = tuple(sizes[axis] if axis else size for axis, size in zip(kind.axes, example.shape, strict=True))
        if kind.counts is not None:
            return self._lengths(shape, longest[kind.counts]).astype(example.dtype)
        if example.dtype == np.bool_:
            return self._prefix_mask(shape) if _is_prefix_mask(example) else self._random.random(shape) < example.mean()
        if np.issubdtype(example.dtype, np.integer):
            return self._random.integers(int(example.min()), int(example.max()), shape, endpoint=True).astype(example.dtype)
        return self._floats(example, shape).astype(example.dtype)

    def _floats(self, example: Array, shape: tuple[int, ...]) -> Array:
        low, high = float(example.min()), float(example.max())
        if low == high:
            return np.broadcast_to(example, shape).copy() if not shape else 0.5 * self._random.standard_normal(shape)
        if set(np.unique(example).tolist()) <= {0.0, 1.0}:
            mask = (
                self._prefix_mask(shape)
                if _is_prefix_mask(example.astype(np.bool_))
                else self._random.random(shape) < example.mean()
            )
            return mask.astype(np.float64)
        if low < 0 < high:
            return float(example.mean()) + float(example.std()) * self._random.standard_normal(shape)
        values = self._random.choice(example.reshape(-1), shape)
        return np.clip(values * (1 + 0.1 * self._random.standard_normal(shape)), low, high)

    def _lengths(self, shape: tuple[int, ...], longest: int) -> Array:
        lengths = self._random.integers(1, longest, shape, endpoint=True)
        flat = lengths.reshape(-1)
        flat[self._random.integers(flat.size)] = longest
        return -np.sort(-flat).reshape(shape) if self._sorted else flat.reshape(shape)

    def _prefix_mask(self, shape: tuple[int, ...]) -> Array:
        """True up to a random length of at least one along the last axis."""
        lengths = self._random.integers(1, shape[-1], shape[:-1], endpoint=True)
        return np.arange(shape[-1]) < lengths[..., None]


def _is_prefix_mask(mask: Array) -> bool:
    """Whether every row starts true and, once false, stays false."""
    if mask.ndim == 0:
        return False
    rows = mask.reshape(-1, mask.shape[-1]).astype(np.int8)
    return bool(rows[:, 0].all() and (np.diff(rows, axis=1) <= 0).all())
