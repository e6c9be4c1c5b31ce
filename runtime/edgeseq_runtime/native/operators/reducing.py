"""Operators that go over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.native.nodes import given, integer, known, real, required, type_number, unsupported
from edgeseq_runtime.native.values import Value
from edgeseq_runtime.native.writer import Operator, Writer
from edgeseq_runtime.onnx_wire import Node

Inputs = Sequence[Value | None]

REDUCE = {
    "ReduceSum": "SUM",
    "ReduceMean": "MEAN",
    "ReduceMax": "MAXIMUM",
    "ReduceMin": "MINIMUM",
    "ReduceProd": "PRODUCT",
    "ReduceSumSquare": "SQUARES",
    "ReduceL2": "LENGTH",
    "ReduceL1": "ABSOLUTE",
    "ReduceLogSumExp": "LOG_OF_SUM_OF_EXPONENTIALS",
}
_OF_WHOLE_NUMBERS = ("SUM", "MAXIMUM", "MINIMUM", "PRODUCT")


def reduced(writer: Writer, node: Node, value: Value, axes: Sequence[int], kind: str, *, keep: bool) -> Value:
    """Write a reduction over axes, which need not be neighbours."""
    rank = value.array.ndim
    over = sorted({axis % rank for axis in axes})
    dims = [1 if axis in over else size for axis, size in enumerate(value.array.shape)]
    kept = [axis for axis in range(rank) if axis not in over]
    result_dims = dims if keep else [dims[axis] for axis in kept]
    n = math.prod(value.array.shape[axis] for axis in over)
    if n == 1 and kind in ("SUM", "MEAN", "MAXIMUM", "MINIMUM", "PRODUCT"):
        whole = writer.contiguous(value)
        return whole.viewed(whole.array.reshape(result_dims))
    if n == 0:
        raise UsageError(unsupported(node, "don't reduce an axis of size 0"))
    if value.array.dtype != np.float32 and (kind not in _OF_WHOLE_NUMBERS or value.array.dtype == np.bool_):
        raise UsageError(unsupported(node, f"don't compute this with {value.array.dtype}"))
    if over == list(range(over[0], over[-1] + 1)):
        source = writer.contiguous(value)
        outer, inner = math.prod(value.array.shape[: over[0]]), math.prod(value.array.shape[over[-1] + 1 :])
    else:
        source = writer.contiguous(value.viewed(np.transpose(value.array, [*kept, *over])))
        outer, inner = math.prod(value.array.shape[axis] for axis in kept), 1
    made = writer.new(result_dims, value.array.dtype)
    if made.array.size:
        writer.emit("REDUCE", made, source, writer.kernels.reduce[kind], type_number(value, node), outer, n, inner)
    return made


def _reduce(op: str) -> Operator:
    def written(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
        value = required(inputs, 0, node)
        named = given(inputs, 1)
        if named is not None:
            axes = [int(axis) for axis in known(named, node, "the axes").ravel()]
        else:
            axes = list(node.integers.get("axes", ()))
        if not axes:
            if integer(node, "noop_with_empty_axes", 0):
                return [value]
            axes = list(range(value.array.ndim))
        return [reduced(writer, node, value, axes, REDUCE[op], keep=bool(integer(node, "keepdims", 1)))]

    return written


def _softmax(*, logarithm: bool) -> Operator:
    def written(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
        value = required(inputs, 0, node)
        axis = integer(node, "axis", -1) % value.array.ndim
        source = writer.contiguous(value)
        made = writer.new(value.array.shape, value.array.dtype)
        dims = value.array.shape
        if made.array.size:
            outer, inner = math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
            writer.emit("SOFTMAX", made, source, int(logarithm), outer, dims[axis], inner)
        return [made]

    return written


def argument(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    if value.array.dtype != np.float32:
        raise UsageError(unsupported(node, f"look for the greatest of float32 alone, not {value.array.dtype}"))
    axis = integer(node, "axis", 0) % value.array.ndim
    source = writer.contiguous(value)
    dims = value.array.shape
    made = writer.new([1 if one == axis else size for one, size in enumerate(dims)], np.int64)
    outer, inner = math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
    last = integer(node, "select_last_index", 0)
    writer.emit("ARGUMENT", made, source, int(node.op == "ArgMax"), last, outer, dims[axis], inner)
    return [made if integer(node, "keepdims", 1) else made.viewed(np.squeeze(made.array, axis))]


def best(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    if value.array.dtype != np.float32:
        raise UsageError(unsupported(node, f"look for the greatest of float32 alone, not {value.array.dtype}"))
    many = int(known(given(inputs, 1), node, "how many").reshape(()))
    axis = integer(node, "axis", -1) % value.array.ndim
    dims = value.array.shape
    if not 0 <= many <= dims[axis]:
        raise InputError(f"the node {node.op} '{node.name}' asks for the best {many} of {dims[axis]}; give inputs of more")
    source = writer.contiguous(value)
    kept = (*dims[:axis], many, *dims[axis + 1 :])
    values, numbers = writer.new(kept, np.float32), writer.new(kept, np.int64)
    if values.array.size:
        outer, inner = math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
        writer.emit("BEST", values, numbers, source, integer(node, "largest", 1), many, outer, dims[axis], inner)
    return [values, numbers]


def running_sum(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    axis = int(known(given(inputs, 1), node, "the axis").reshape(())) % value.array.ndim
    if integer(node, "exclusive", 0):
        raise UsageError(unsupported(node, "don't sum up exclusively"))
    turn = (*(slice(None) for _ in range(axis)), slice(None, None, -1 if integer(node, "reverse", 0) else 1))
    source = writer.contiguous(value.viewed(value.array[turn]))
    made = writer.new(value.array.shape, value.array.dtype)
    dims = value.array.shape
    if made.array.size:
        outer, inner = math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
        writer.emit("RUNNING_SUM", made, source, type_number(value, node), outer, dims[axis], inner)
    return [made.viewed(made.array[turn])]


def layer_normalization(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value, scale, bias = required(inputs, 0, node), required(inputs, 1, node), given(inputs, 2)
    if sum(1 for name in node.outputs if name) > 1:
        raise UsageError(unsupported(node, "don't give the mean and the deviation"))
    axis = integer(node, "axis", -1) % value.array.ndim
    dims = value.array.shape
    n = math.prod(dims[axis:])
    source = writer.contiguous(value)
    parts = [
        one if one is None else writer.contiguous(one.viewed(np.broadcast_to(one.array, dims[axis:]))) for one in (scale, bias)
    ]
    made = writer.new(dims, value.array.dtype)
    writer.emit("LAYER_NORMALIZATION", made, source, *parts, math.prod(dims[:axis]), n, float(real(node, "epsilon", 1e-5)))
    return [made]


REDUCING: dict[str, Operator] = {
    **{op: _reduce(op) for op in REDUCE},
    "Softmax": _softmax(logarithm=False),
    "LogSoftmax": _softmax(logarithm=True),
    "ArgMax": argument,
    "ArgMin": argument,
    "CumSum": running_sum,
    "TopK": best,
    "LayerNormalization": layer_normalization,
}
