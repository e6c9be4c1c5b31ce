"""What values that sizes are computed from hold: arithmetic on shapes, at sizes that are numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseq_runtime.forecast.given import Inputs, integer_of
from edgeseq_runtime.forecast.operators import outputs_of
from edgeseq_runtime.forecast.values import Numbers, numbers_value
from edgeseq_runtime.onnx_wire import ELEMENT_TYPES, Node


def computed(node: Node, inputs: Inputs) -> Numbers | None:
    """The content of a node's output, where every input's content is known and the operator is one that sizes are computed with."""
    if node.op not in _COMPUTED or any(value is None or value.numbers is None for value in inputs):
        return None
    arrays: list[Any] = [value.numbers for value in inputs if value is not None]
    try:
        return np.asarray(_COMPUTED[node.op](node, *arrays))
    except (IndexError, ValueError, TypeError, KeyError, ZeroDivisionError):
        return None


def _divided(node: Node, a: Numbers, b: Numbers) -> Numbers:
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))  # ONNX rounds towards zero


def _cast_numbers(node: Node, a: Numbers) -> Numbers:
    return a.astype(ELEMENT_TYPES[integer_of(node, "to", 1)])


def _sliced(node: Node, x: Numbers, starts: Numbers, ends: Numbers, *rest: Numbers) -> Numbers:
    axes = rest[0] if rest else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = np.moveaxis(np.moveaxis(x, int(axis), 0)[int(start) : int(end) : int(step)], 0, int(axis))
    return x


def _shaped(node: Node, x: Numbers, *rest: Numbers) -> Numbers:
    values = [numbers_value(x), *(numbers_value(one) for one in rest)]
    shape = outputs_of(node, values)[0].shape
    if shape is None:
        raise ValueError
    return np.broadcast_to(x, shape) if node.op == "Expand" else x.reshape(shape)


def _reduced(node: Node, x: Numbers, *axes: Numbers) -> Numbers:
    given = axes[0].tolist() if axes else node.integers.get("axes")
    functions: dict[str, Callable[..., Any]] = {
        "ReduceSum": np.sum,
        "ReduceProd": np.prod,
        "ReduceMax": np.max,
        "ReduceMin": np.min,
    }
    return np.asarray(functions[node.op](x, axis=tuple(given) if given else None, keepdims=bool(integer_of(node, "keepdims", 1))))


_COMPUTED: dict[str, Callable[..., Any]] = {
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": _divided,
    "Mod": lambda node, a, b: np.fmod(a, b) if integer_of(node, "fmod", 0) else np.mod(a, b),
    "Neg": lambda node, a: -a,
    "Abs": lambda node, a: np.abs(a),
    "Ceil": lambda node, a: np.ceil(a),
    "Floor": lambda node, a: np.floor(a),
    "Min": lambda node, *all_: np.minimum.reduce(np.broadcast_arrays(*all_)),
    "Max": lambda node, *all_: np.maximum.reduce(np.broadcast_arrays(*all_)),
    "Equal": lambda node, a, b: a == b,
    "Greater": lambda node, a, b: a > b,
    "GreaterOrEqual": lambda node, a, b: a >= b,
    "Less": lambda node, a, b: a < b,
    "LessOrEqual": lambda node, a, b: a <= b,
    "And": lambda node, a, b: a & b,
    "Or": lambda node, a, b: a | b,
    "Not": lambda node, a: ~a,
    "Where": lambda node, c, a, b: np.where(c, a, b),
    "Identity": lambda node, a: a,
    "Cast": _cast_numbers,
    "Concat": lambda node, *all_: np.concatenate(all_, axis=node.integers["axis"][0]),
    "Gather": lambda node, x, at: np.take(x, at, axis=integer_of(node, "axis", 0)),
    "Slice": _sliced,
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Reshape", "Expand"), _shaped),
    **dict.fromkeys(("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"), _reduced),
}
