"""What a rule reads of a node and of its inputs, whose sizes are numbers.

Source of the rules: the operators' pages at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeseq_runtime.forecast.values import Numbers, Shape, Value
from edgeseq_runtime.onnx_wire import Node

Inputs = Sequence[Value | None]  # None: an optional input that was left out
Rule = Callable[[Node, Inputs], "Value | list[Value]"]


class NotKnown(Exception):
    """A size does not follow from the sizes of the inputs."""


def value_at(inputs: Inputs, position: int) -> Value:
    """The value of an input that must be there."""
    value = inputs[position] if position < len(inputs) else None
    if value is None:
        raise NotKnown
    return value


def shape_at(inputs: Inputs, position: int = 0) -> Shape:
    """Its shape, which must be known."""
    shape = value_at(inputs, position).shape
    if shape is None:
        raise NotKnown
    return shape


def numbers_at(inputs: Inputs, position: int) -> Numbers:
    """Its numbers, which must be known."""
    numbers = value_at(inputs, position).numbers
    if numbers is None:
        raise NotKnown
    return numbers


def is_given(inputs: Inputs, position: int) -> bool:
    """Whether an optional input is there."""
    return position < len(inputs) and inputs[position] is not None


def integer_of(node: Node, name: str, default: int) -> int:
    """An attribute that is one integer."""
    return node.integers.get(name, (default,))[0]


def listed(node: Node, inputs: Inputs, name: str, position: int) -> tuple[int, ...] | None:
    """Integers that are an attribute in older opsets and an input in newer ones."""
    if is_given(inputs, position):
        return tuple(int(one) for one in numbers_at(inputs, position).ravel())
    return node.integers.get(name)
