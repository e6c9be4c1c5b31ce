"""What a session needs of a loaded model, whichever backend loaded it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array


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

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundCall:
        """A call that reads and writes these arrays, which must be C-contiguous; outputs bound to None it makes itself."""
