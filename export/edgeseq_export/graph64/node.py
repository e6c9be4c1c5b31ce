"""A node as its kernel sees it, and what can go wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from edgeseq_runtime.errors import EdgeseqError

Kernel = Callable[..., Any]  # takes the inputs, None for one that is left out; gives an array, or a tuple of them
Body = Callable[[Sequence[Any]], list[Any]]  # what a nested graph gives for its inputs; what it captures, it has


class UnknownOperator(EdgeseqError):
    """The graph has an operator, or a form of one, that is not evaluated in float64."""


class FailedNode(EdgeseqError):
    """A node can't be evaluated on these inputs."""


class Node(NamedTuple):
    """A node with its attributes as Python values: nested graphs as they are, tensors as arrays, floats in float64."""

    op_type: str
    name: str
    attributes: Mapping[str, Any]
    input_count: int
    output_count: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where it is left out."""
        return self.attributes.get(name, default)


Build = Callable[[Node], Kernel]


def widened(array: Any) -> Any:
    """The same values, float32 in float64; whatever a NumPy function has made of an array without axes is an array again."""
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype == np.float32 else array


def constant(tensor: onnx.TensorProto) -> Any:
    """A tensor's values."""
    return widened(onnx.numpy_helper.to_array(tensor))


def dtype_of(element_type: int) -> np.dtype[Any]:
    """What holds values of an ONNX element type: float64 for FLOAT."""
    wide = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    return np.dtype(np.float64) if element_type in wide else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type))


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes as Python values."""

    def value(attribute: onnx.AttributeProto) -> Any:
        found = onnx.helper.get_attribute_value(attribute)
        if isinstance(found, onnx.TensorProto):
            return constant(found)
        if isinstance(found, bytes):
            return found.decode()
        return [item.decode() if isinstance(item, bytes) else item for item in found] if isinstance(found, list) else found

    return {attribute.name: value(attribute) for attribute in node.attribute}
