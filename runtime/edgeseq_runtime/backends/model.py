"""What a session needs of a loaded model, whichever backend loaded it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

Rows = npt.NDArray[np.intp]


class Buffer(Protocol):
    """Where a state is kept between calls: memory of the device that computes."""

    @property
    def bound(self) -> Any:
        """What `bind` takes for it."""

    def read(self) -> Array:
        """A copy, as an array of the caller's own."""

    def write(self, array: Array) -> None:
        """Set the values, which must have the buffer's shape and dtype."""

    def clear(self) -> None:
        """Set every value to zero."""

    def take(self, other: Any, rows: Rows, axis: int) -> None:
        """Set row i along an axis to row `rows[i]` of another buffer of the same model."""


class HostBuffer:
    """A state kept in an array, for models that the CPU computes."""

    def __init__(self, array: Array) -> None:
        self.bound = array

    def read(self) -> Array:
        """A copy, as an array of the caller's own."""
        return self.bound.copy()

    def write(self, array: Array) -> None:
        """Set the values."""
        np.copyto(self.bound, array)

    def clear(self) -> None:
        """Set every value to zero."""
        self.bound.fill(0)

    def take(self, other: HostBuffer, rows: Rows, axis: int) -> None:
        """Set row i along an axis to row `rows[i]` of another buffer."""
        np.take(other.bound, rows, axis=axis, out=self.bound, mode="clip")


class BoundCall(Protocol):
    """A call whose arrays are fixed: it reads and writes the same memory each time."""

    def __call__(self) -> None:
        """Compute the outputs from what the bound inputs hold now.

        Raises:
            InputError: the backend could not compute the model on them.
        """

    def computed(self) -> dict[str, Array]:
        """The outputs of the last call that were bound to None, as arrays of the caller's own."""


class Model(Protocol):
    """A model that a backend has loaded. Calls from several threads are safe."""

    @property
    def version(self) -> str:
        """The backend's own."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What the model really runs on."""

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the model itself declares them."""

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """The axes of each output, as far as the backend knows them."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; the inputs must have been checked.

        Raises:
            InputError: the backend could not compute the model on them.
        """

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> BoundCall:
        """A call that reads and writes these arrays, which must be C-contiguous; outputs bound to None it makes itself.

        In place of an array, `bound` of one of the model's own buffers.
        """

    def buffer(self, name: str, array: Array) -> Buffer:
        """A buffer for the input `name`, and for the output that continues it; it begins as this array, which it may keep."""
