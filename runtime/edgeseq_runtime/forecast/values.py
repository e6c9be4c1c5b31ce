"""What is known of a graph's values before it is run: shape, element type, and of small integers the content."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeseq_runtime.onnx_wire import Tensor

MAX_NUMBERS = 4096  # elements whose content is followed; more are data, not sizes
WIDTHS = {  # bytes an element
    "float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2, "int16": 2,
    "uint16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
WEIGHT_TYPES = frozenset(("float16", "bfloat16", "float32", "float64", "int8", "uint8"))  # integers are axes and shapes

Shape = tuple[int, ...]
Numbers = npt.NDArray[Any]


class Weight(NamedTuple):
    """A constant that is computed with."""

    name: str  # with the nodes it is inside of
    elements: int
    dtype: str

    @property
    def bytes(self) -> int:
        return self.elements * WIDTHS.get(self.dtype, 4)


class Value(NamedTuple):
    """One value of a graph."""

    shape: Shape | None  # None: not known before the graph is run
    dtype: str = "float32"
    numbers: Numbers | None = None  # its content, where that follows from sizes and constants
    weights: frozenset[Weight] | None = None  # None: data; else the constants that it was computed from, and nothing else

    @property
    def elements(self) -> int:
        """How many; 0 where the shape is not known."""
        return 0 if self.shape is None else int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        return self.elements * WIDTHS.get(self.dtype, 4)


Values = dict[str, Value]
UNKNOWN = Value(None)


def numbers_value(numbers: Numbers, weights: frozenset[Weight] | None = frozenset()) -> Value:
    """A value whose content is known."""
    return Value(numbers.shape, numbers.dtype.name, numbers if numbers.size <= MAX_NUMBERS else None, weights)


def constant_value(tensor: Tensor, where: str) -> Value:
    """A constant of the graph."""
    weights = frozenset((Weight(where + tensor.name, tensor.size, tensor.dtype),)) if tensor.dtype in WEIGHT_TYPES else frozenset()
    numbers = None if tensor.integers is None else np.array(tensor.integers, tensor.dtype).reshape(tensor.dims)
    return Value(tensor.dims, tensor.dtype, numbers, weights)
