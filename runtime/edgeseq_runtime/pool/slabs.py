"""The states of all streams of a pool: one array for each state tensor, one row of its batch axis for each stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.interface import BATCH, Interface, zeros_at
from edgeseq_runtime.tensors import TensorSpec, check_inputs
from edgeseq_runtime.tensors.spec import Array

Slots = npt.NDArray[np.intp]


class Slab:
    """The rows of one state tensor, in the model's own layout: the batch axis, of size `capacity`, where the model has it."""

    __slots__ = ("_prefix", "array", "axis", "spec")

    def __init__(self, spec: TensorSpec, capacity: int) -> None:
        array: npt.NDArray[Any] | None = zeros_at(spec, {BATCH: capacity})
        assert array is not None  # a state has no axis but the batch: `require_poolable`
        self.spec = spec
        self.array = array
        self.axis = spec.shape.index(BATCH)
        self._prefix = (slice(None),) * self.axis

    def gather(self, rows: Slots, buffer: Array) -> None:
        """Copy rows to a buffer that has as many."""
        # Another mode than "raise" writes to the buffer without one in between; the rows are slots, so never out of range.
        np.take(self.array, rows, self.axis, buffer, "clip")

    def scatter(self, rows: Slots, buffer: Array) -> None:
        """Copy a buffer to the rows."""
        self.array[self._prefix + (rows,)] = buffer  # noqa: RUF005

    def row(self, slot: int) -> Array:
        """One stream's state, batch 1: a view."""
        view: Array = self.array[(*self._prefix, slice(slot, slot + 1))]
        return view


class Slabs:
    """All state tensors."""

    def __init__(self, interface: Interface, capacity: int) -> None:
        self._specs = interface.state_inputs
        self.slabs = {spec.name: Slab(spec, capacity) for spec in self._specs}

    def clear(self, slot: int) -> None:
        """Set a stream's state to zeros."""
        for slab in self.slabs.values():
            slab.row(slot).fill(0)

    def read(self, slot: int) -> dict[str, Array]:
        """A copy of a stream's state by input name."""
        return {name: slab.row(slot).copy() for name, slab in self.slabs.items()}

    def write(self, slot: int, state: Mapping[str, Array]) -> None:
        """Set a stream's state to one that `checked` let through."""
        for name, slab in self.slabs.items():
            slab.row(slot)[...] = state[name]

    def checked(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """A state of batch 1.

        Raises:
            InputError: a name is missing or unknown, or a dtype or shape differs.
        """
        specs = tuple(
            TensorSpec(spec.name, spec.dtype, tuple(1 if size == BATCH else size for size in spec.shape)) for spec in self._specs
        )
        return check_inputs(specs, state)[0]
