"""The constants of a model as arrays."""

from __future__ import annotations

import numpy as np

from edgeseq_runtime.errors import BadModel, UsageError
from edgeseq_runtime.onnx_wire import Tensor
from edgeseq_runtime.protobuf import integers_in
from edgeseq_runtime.tensors.spec import Array

DTYPES = ("float32", "int64", "int32", "bool")  # that the kernels compute with, in the order of their numbers in the library
BYTES = ("int8", "uint8")  # of quantised weights
_RAW, _FLOATS, _DOUBLES = 9, 4, 10  # fields of a tensor


def array_of(tensor: Tensor) -> Array:
    """A constant, with its own memory; see `numbers_of`."""
    return np.array(numbers_of(tensor).reshape(tensor.dims))


def numbers_of(tensor: Tensor) -> Array:
    """A constant's elements in their order, where they lie in the model's bytes if they can be read there.

    Raises:
        UsageError: its dtype is none that the kernels know, or its data is in another file.
        BadModel: its data does not fit its shape.
    """
    if tensor.dtype not in (*DTYPES, *BYTES, "float64"):
        raise UsageError(f"the native kernels compute with {', '.join(DTYPES)}, and the constant '{tensor.name}' is {tensor.dtype}")
    if tensor.size and not tensor.data:
        raise UsageError(
            f"the constant '{tensor.name}' is in another file, which the native kernels don't read; export to a bundle"
        )
    kinds = {_RAW: tensor.dtype, _FLOATS: "float32", _DOUBLES: "float64"}
    parts = [
        np.frombuffer(value, np.dtype(kinds[number]).newbyteorder("<"))
        if number in kinds and isinstance(value, memoryview)
        else np.array(integers_in(value, "tensor"))
        for number, value in tensor.data
    ]
    found = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, tensor.dtype), *parts])
    if found.size != tensor.size:
        raise BadModel(
            f"the constant '{tensor.name}' holds {found.size} numbers for shape {list(tensor.dims)}; export the model again"
        )
    return found.astype(tensor.dtype, copy=False)
