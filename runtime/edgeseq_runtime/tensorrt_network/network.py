"""TensorRT's network definition as plain data."""

from __future__ import annotations

from typing import Any

import msgspec

from edgeseq_runtime.tensors import TensorSpec


class Tensor(msgspec.Struct, frozen=True):
    """A tensor between layers, as TensorRT declares it."""

    name: str
    dtype: str  # NumPy's name
    shape: tuple[int, ...]  # -1 where the size is known only at run time


class Layer(msgspec.Struct, frozen=True):
    """One layer.

    `kind` is TensorRT's name of its type, `"MATRIX_MULTIPLY"`. `settings` holds its attributes by TensorRT's Python names:
    enumerations as the name of their value, dimensions as a tuple, weights as an array, None where an input tensor takes the
    attribute's place. `group` names the loop or the conditional whose boundary it is.
    """

    name: str
    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    settings: dict[str, Any] = {}
    group: str = ""

    def __str__(self) -> str:
        return f"layer '{self.name}' ({self.kind})"


class Network(msgspec.Struct, frozen=True):
    """Everything TensorRT knows of a graph, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[Layer, ...]
