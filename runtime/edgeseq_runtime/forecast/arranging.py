"""Rules of operators that put values in another place or shape, or tell sizes: reshape, slice, concat, gather, shape ..."""

from __future__ import annotations

import math

import numpy as np

from edgeseq_runtime.forecast.given import Inputs, NotKnown, Rule, integer_of, listed, numbers_at, shape_at, value_at
from edgeseq_runtime.forecast.values import Value, numbers_value
from edgeseq_runtime.onnx_wire import Node

MAX_FILLED = 4096  # elements of a constant that are kept as numbers


def _reshape(node: Node, inputs: Inputs) -> Value:
    asked = [int(size) for size in numbers_at(inputs, 1)]
    if not integer_of(node, "allowzero", 0):
        asked = [shape_at(inputs)[axis] if size == 0 else size for axis, size in enumerate(asked)]
    if -1 in asked:
        known = math.prod(size for size in asked if size != -1)
        asked[asked.index(-1)] = math.prod(shape_at(inputs)) // known
    return Value(tuple(asked), value_at(inputs, 0).dtype)


def _transpose(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    order = node.integers.get("perm", tuple(reversed(range(len(x)))))
    return Value(tuple(x[axis] for axis in order), value_at(inputs, 0).dtype)


def _slice(node: Node, inputs: Inputs) -> Value:
    x = list(shape_at(inputs))
    starts, ends = listed(node, inputs, "starts", 1), listed(node, inputs, "ends", 2)
    if starts is None or ends is None:
        raise NotKnown
    axes = listed(node, inputs, "axes", 3) or tuple(range(len(starts)))
    steps = listed(node, inputs, "steps", 4) or (1,) * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x[axis] = len(range(*slice(start, end, step).indices(x[axis])))
    return Value(tuple(x), value_at(inputs, 0).dtype)


def _concat(node: Node, inputs: Inputs) -> Value:
    shapes = [shape_at(inputs, index) for index in range(len(inputs))]
    axis = node.integers["axis"][0] % len(shapes[0])
    return Value((*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]), value_at(inputs, 0).dtype)


def _split(node: Node, inputs: Inputs) -> list[Value]:
    x = shape_at(inputs)
    axis = integer_of(node, "axis", 0) % len(x)
    sizes = listed(node, inputs, "split", 1)
    if sizes is None:
        each = -(-x[axis] // len(node.outputs))
        sizes = tuple(min(each, x[axis] - each * index) for index in range(len(node.outputs)))
    return [Value((*x[:axis], size, *x[axis + 1 :]), value_at(inputs, 0).dtype) for size in sizes]


def _squeeze(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    axes = listed(node, inputs, "axes", 1)
    gone = {axis % len(x) for axis in axes} if axes is not None else {axis for axis, size in enumerate(x) if size == 1}
    return Value(tuple(size for axis, size in enumerate(x) if axis not in gone), value_at(inputs, 0).dtype)


def _unsqueeze(node: Node, inputs: Inputs) -> Value:
    x = list(shape_at(inputs))
    axes = listed(node, inputs, "axes", 1) or ()
    for axis in sorted(axis % (len(x) + len(axes)) for axis in axes):
        x.insert(axis, 1)
    return Value(tuple(x), value_at(inputs, 0).dtype)


def _gather(node: Node, inputs: Inputs) -> Value:
    x, at = shape_at(inputs, 0), shape_at(inputs, 1)
    axis = integer_of(node, "axis", 0) % len(x)
    return Value((*x[:axis], *at, *x[axis + 1 :]), value_at(inputs, 0).dtype)


def _gather_elements(node: Node, inputs: Inputs) -> Value:
    return Value(shape_at(inputs, 1), value_at(inputs, 0).dtype)


def _gather_nd(node: Node, inputs: Inputs) -> Value:
    x, at, batch = shape_at(inputs, 0), shape_at(inputs, 1), integer_of(node, "batch_dims", 0)
    return Value((*at[:-1], *x[batch + at[-1] :]), value_at(inputs, 0).dtype)


def _pad(node: Node, inputs: Inputs) -> Value:
    x = list(shape_at(inputs))
    pads = listed(node, inputs, "pads", 1) or ()
    axes = listed(node, inputs, "axes", 3) or tuple(range(len(x)))
    for index, axis in enumerate(axes):
        x[axis] += pads[index] + pads[index + len(axes)]
    return Value(tuple(x), value_at(inputs, 0).dtype)


def _expand(node: Node, inputs: Inputs) -> Value:
    return Value(
        np.broadcast_shapes(shape_at(inputs), tuple(int(size) for size in numbers_at(inputs, 1))), value_at(inputs, 0).dtype
    )


def _tile(node: Node, inputs: Inputs) -> Value:
    shape = tuple(size * int(times) for size, times in zip(shape_at(inputs), numbers_at(inputs, 1), strict=True))
    return Value(shape, value_at(inputs, 0).dtype)


def _top_k(node: Node, inputs: Inputs) -> list[Value]:
    x = list(shape_at(inputs))
    x[integer_of(node, "axis", -1)] = int(numbers_at(inputs, 1).ravel()[0])
    return [Value(tuple(x), value_at(inputs, 0).dtype), Value(tuple(x), "int64")]


def _one_hot(node: Node, inputs: Inputs) -> Value:
    at = list(shape_at(inputs))
    axis = integer_of(node, "axis", -1)
    at.insert(axis if axis >= 0 else len(at) + 1 + axis, int(numbers_at(inputs, 1).ravel()[0]))
    return Value(tuple(at), value_at(inputs, 2).dtype)


def _flatten(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    axis = integer_of(node, "axis", 1)
    return Value((math.prod(x[:axis]), math.prod(x[axis:])), value_at(inputs, 0).dtype)


def _shape_of(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    start, end = integer_of(node, "start", 0), node.integers.get("end", (len(x),))[0]
    return numbers_value(np.array(x[start:end], np.int64))


def _size_of(node: Node, inputs: Inputs) -> Value:
    return numbers_value(np.array(math.prod(shape_at(inputs)), np.int64))


def _constant_of_shape(node: Node, inputs: Inputs) -> Value:
    value = node.tensors.get("value")
    shape = tuple(int(size) for size in numbers_at(inputs, 0))
    if value is not None and value.integers and math.prod(shape) <= MAX_FILLED:
        return numbers_value(np.full(shape, value.integers[0], value.dtype))
    return Value(shape, value.dtype if value else "float32")


def _range(node: Node, inputs: Inputs) -> Value:
    start, limit, step = (numbers_at(inputs, index).ravel()[0] for index in range(3))
    return numbers_value(np.arange(start, limit, step))


ARRANGING: dict[str, Rule] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape_of,
    "Size": _size_of,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
