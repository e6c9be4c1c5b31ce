"""What a node asks for: its inputs, its attributes, and what is said where the kernels don't have it."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.constants import DTYPES
from edgeseq_runtime.native.values import Value
from edgeseq_runtime.onnx_wire import Node
from edgeseq_runtime.tensors.spec import Array


class DependsOnContents(InputError):
    """A size depends on what the inputs hold, not on their sizes alone."""


def known(value: Value | None, node: Node, what: str) -> Array:
    """What a value holds, where that has to be known beforehand.

    Raises:
        DependsOnContents: it depends on what the inputs hold.
    """
    if value is None or not value.constant:
        raise DependsOnContents(unsupported(node, f"need to know {what} beforehand, and here it depends on what the inputs hold"))
    return value.array


def given(inputs: Sequence[Value | None], index: int) -> Value | None:
    """An input, None where it is left out."""
    return inputs[index] if index < len(inputs) else None


def required(inputs: Sequence[Value | None], index: int, node: Node) -> Value:
    """An input that has to be there.

    Raises:
        UsageError: it is not.
    """
    value = given(inputs, index)
    if value is None:
        raise UsageError(f"the node {node.op} '{node.name}' lacks input {index}; export the model again")
    return value


def operator_name(node: Node) -> str:
    """An operator of ONNX's own by its name, another with its domain before it."""
    return node.op if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op}"


def type_number(value: Value, node: Node) -> int:
    """A dtype's number in the library.

    Raises:
        UsageError: the kernels don't compute with it.
    """
    name = value.array.dtype.name
    if name not in DTYPES:
        raise UsageError(unsupported(node, f"don't compute with {name}"))
    return DTYPES.index(name)


def integer(node: Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    return node.integers.get(name, (default,))[0]


def real(node: Node, name: str, default: float) -> float:
    """An attribute that is a number."""
    return node.floats.get(name, (default,))[0]


def unsupported(node: Node, why: str) -> str:
    """What is said of a node that the kernels can't do."""
    return f"the native kernels {why} (node {node.op} '{node.name}'); choose device 'cpu', which runs it with ONNX Runtime"
