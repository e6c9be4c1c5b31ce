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

from edgeseq_export.request import BATCH, AxisNames
from edgeseq_runtime.tensors.spec import Array


class InputKind(NamedTuple):
    """One input of the graph: its example, in the graph's dtype, and the names of its axes."""

    example: Array
    axes: AxisNames
    counts: str | None  # the time axis that it holds lengths of

    @property
    def time(self) -> int:
        """Position of the first axis that varies and is not the batch; the last one where there is none."""
        positions = [position for position, axis in enumerate(self.axes) if axis not in (None, BATCH)]
        return positions[0] if positions else len(self.axes) - 1


class Draws:
    """Draws inputs from a seeded generator.

    Args:
        kinds: the graph's inputs by name.
        sorted_lengths: whether lengths must descend, as `pack_padded_sequence(enforce_sorted=True)` asks.
        seed: the same seed draws the same inputs.
        shortest: the smallest length drawn, where the time axis allows it.
    """

    def __init__(self, kinds: Mapping[str, InputKind], *, sorted_lengths: bool, seed: int = 0, shortest: int = 1) -> None:
        self._kinds = kinds
        self._sorted = sorted_lengths
        self._shortest = shortest
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
            return self._mask(example, shape, kind.time)
        if np.issubdtype(example.dtype, np.integer):
            return self._random.integers(int(example.min()), int(example.max()), shape, endpoint=True).astype(example.dtype)
        return self._floats(kind, shape).astype(example.dtype)

    def _floats(self, kind: InputKind, shape: tuple[int, ...]) -> Array:
        example = kind.example
        low, high = float(example.min()), float(example.max())
        if low == high:
            return np.broadcast_to(example, shape).copy() if not shape else 0.5 * self._random.standard_normal(shape)
        if set(np.unique(example).tolist()) <= {0.0, 1.0}:
            return self._mask(example.astype(np.bool_), shape, kind.time).astype(np.float64)
        if low < 0 < high:
            return float(example.mean()) + float(example.std()) * self._random.standard_normal(shape)
        values = self._random.choice(example.reshape(-1), shape)
        return np.clip(values * (1 + 0.1 * self._random.standard_normal(shape)), low, high)

    def _lengths(self, shape: tuple[int, ...], longest: int) -> Array:
        lengths = self._random.integers(min(self._shortest, longest), longest, shape, endpoint=True)
        flat = lengths.reshape(-1)
        flat[self._random.integers(flat.size)] = longest
        return -np.sort(-flat).reshape(shape) if self._sorted else flat.reshape(shape)

    def _mask(self, example: Array, shape: tuple[int, ...], time: int) -> Array:
        """True at random, or, where the example's sequences are, up to a random length along the time axis, one of them whole."""
        if not _is_prefix_mask(example, time):
            return np.asarray(self._random.random(shape) < example.mean())
        lengths = self._lengths((*shape[:time], *shape[time + 1 :]), shape[time])
        return np.moveaxis(np.arange(shape[time]) < lengths.astype(np.int64)[..., None], -1, time)


def _is_prefix_mask(mask: Array, time: int) -> bool:
    """Whether every sequence starts true and, once false, stays false."""
    if mask.ndim == 0:
        return False
    steps = np.moveaxis(mask, time, 0).astype(np.int8)
    return bool(steps[0].all() and (np.diff(steps, axis=0) <= 0).all())
