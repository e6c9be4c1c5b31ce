"""Operators that arrange elements: most are another view of the same memory and write nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.axes import broadcast, merged
from edgeseq_runtime.native.constants import array_of
from edgeseq_runtime.native.nodes import given, integer, known, required, type_number, unsupported
from edgeseq_runtime.native.values import Value
from edgeseq_runtime.native.writer import Writer
from edgeseq_runtime.onnx_wire import Node
from edgeseq_runtime.tensors.spec import Array

Inputs = Sequence[Value | None]
_FAR = 1 << 40  # beyond every axis: how a slice says "to the end"


def identity(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    return [required(inputs, 0, node)]


def dropout(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    training = given(inputs, 2)
    if training is not None and known(training, node, "whether the model is in training").any():
        raise UsageError(unsupported(node, "drop nothing out: the model is in training mode"))
    return [required(inputs, 0, node)]


def shape(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    dims = required(inputs, 0, node).array.shape
    start, end = integer(node, "start", 0), integer(node, "end", len(dims))
    return [writer.constant(np.array(dims[start:end], np.int64))]


def size(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    return [writer.constant(np.array(required(inputs, 0, node).array.size, np.int64))]


def constant(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    if "value" in node.tensors:
        return [writer.constant(array_of(node.tensors["value"]))]
    for name, held, dtype in (("value_int", node.integers, np.int64), ("value_float", node.floats, np.float32)):
        if name in held:
            return [writer.constant(np.array(held[name][0], dtype))]
        if name + "s" in held:
            return [writer.constant(np.array(held[name + "s"], dtype))]
    raise UsageError(unsupported(node, "don't know this kind of constant"))


def constant_of_shape(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    dims = _integers(known(given(inputs, 0), node, "the shape"))
    fill = array_of(node.tensors["value"]) if "value" in node.tensors else np.zeros(1, np.float32)
    return [writer.constant(np.broadcast_to(fill.reshape(()), dims))]


def range_(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    start, limit, step = (known(given(inputs, index), node, "the bounds") for index in range(3))
    return [writer.constant(np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype))]


def reshape(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    dims = _integers(known(given(inputs, 1), node, "the shape"))
    if not integer(node, "allowzero", 0):
        dims = [value.array.shape[axis] if size == 0 else size for axis, size in enumerate(dims)]
    if -1 in dims:
        others = math.prod(size for size in dims if size != -1)
        dims[dims.index(-1)] = value.array.size // others if others else 0
    return [_reshaped(writer, value, dims)]


def flatten(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    axis = integer(node, "axis", 1)
    axis += value.array.ndim if axis < 0 else 0
    return [_reshaped(writer, value, [math.prod(value.array.shape[:axis]), math.prod(value.array.shape[axis:])])]


def squeeze(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    axes = given(inputs, 1)
    if axes is None:
        return [value.viewed(np.squeeze(value.array))]
    return [value.viewed(np.squeeze(value.array, tuple(_integers(known(axes, node, "the axes")))))]


def unsqueeze(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    return [value.viewed(np.expand_dims(value.array, tuple(_integers(known(given(inputs, 1), node, "the axes")))))]


def transpose(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    return [value.viewed(np.transpose(value.array, node.integers.get("perm")))]


def expand(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    dims = _integers(known(given(inputs, 1), node, "the shape"))
    return [broadcast(value, np.broadcast_shapes(value.array.shape, tuple(dims)))]


def slice_(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    starts, ends = (_integers(known(given(inputs, index), node, "the bounds")) for index in (1, 2))
    axes = given(inputs, 3)
    places = list(range(len(starts))) if axes is None else _integers(known(axes, node, "the axes"))
    steps = given(inputs, 4)
    strides = [1] * len(starts) if steps is None else _integers(known(steps, node, "the steps"))
    array = value.array
    for start, end, axis, step in zip(starts, ends, places, strides, strict=True):
        array = array[_cut(axis % array.ndim, start, end, step, array.shape[axis])]
    return [value.viewed(array)]


def _cut(axis: int, start: int, end: int, step: int, length: int) -> tuple[slice, ...]:
    """A slice as ONNX means it, along one axis: bounds count from the end where negative, and are clamped."""
    start = min(max(start + (length if start < 0 else 0), 0), length - 1 if step < 0 else length)
    if step > 0:
        end = min(max(end + (length if end < 0 else 0), 0), length)
        return (*(slice(None) for _ in range(axis)), slice(start, max(end, start), step))
    end = max(end + (length if end < 0 else 0), -1)
    return (*(slice(None) for _ in range(axis)), slice(start, None if end < 0 else end, step))


def split(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    axis = integer(node, "axis", 0) % value.array.ndim
    length = value.array.shape[axis]
    sizes = given(inputs, 1)
    if sizes is None:
        each = -(-length // len(node.outputs))
        parts = [min(each, length - each * index) for index in range(len(node.outputs))]
    else:
        parts = _integers(known(sizes, node, "the sizes"))
    ends = np.cumsum([0, *parts]).tolist()
    return [value.viewed(value.array[_cut(axis, start, end, 1, length)]) for start, end in pairwise(ends)]


def concat(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    values = [value for value in inputs if value is not None]
    return [_joined(writer, values, integer(node, "axis", 0) % values[0].array.ndim)]


def _joined(writer: Writer, values: Sequence[Value], axis: int) -> Value:
    """Write values one after the other along an axis."""
    first = values[0].array
    dims = list(first.shape)
    dims[axis] = sum(value.array.shape[axis] for value in values)
    made = writer.new(dims, first.dtype)
    start = 0
    for value in values:
        end = start + value.array.shape[axis]
        writer.copy(made.viewed(made.array[_cut(axis, start, end, 1, dims[axis])]), value)
        start = end
    return made


def tile(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    repeats = _integers(known(given(inputs, 1), node, "the repeats"))
    spread = np.expand_dims(value.array, tuple(range(0, 2 * value.array.ndim, 2)))
    wide = np.broadcast_to(spread, [size for pair in zip(repeats, value.array.shape, strict=True) for size in pair])
    return [_reshaped(writer, value.viewed(wide), [n * size for n, size in zip(repeats, value.array.shape, strict=True)])]


def pad(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    mode = node.texts.get("mode", "constant")
    amounts = _integers(known(given(inputs, 1), node, "the pads"))
    axes = given(inputs, 3)
    chosen = list(range(value.array.ndim)) if axes is None else _integers(known(axes, node, "the axes"))
    before, after = [0] * value.array.ndim, [0] * value.array.ndim
    for index, axis in enumerate(chosen):
        before[axis], after[axis] = amounts[index], amounts[len(chosen) + index]
    if mode == "constant":
        return [padded(writer, value, before, after, given(inputs, 2))]
    for axis, (ahead, behind) in enumerate(zip(before, after, strict=True)):
        if ahead or behind:
            value = _joined(writer, _with_borders(node, value, axis, ahead, behind, mode), axis)
    return [value]


def _with_borders(node: Node, value: Value, axis: int, before: int, after: int, mode: str) -> list[Value]:
    """A value and what goes before and after it along an axis: its own elements again."""
    length = value.array.shape[axis]
    most = {"edge": math.inf if length else 0, "reflect": length - 1, "wrap": length}.get(mode)
    if most is None or min(before, after) < 0 or max(before, after) > most:
        raise UsageError(unsupported(node, f"don't pad an axis of {length} by '{mode}' with {before} before and {after} after"))
    turned = np.moveaxis(value.array, axis, 0)
    if mode == "edge":
        ends = [np.broadcast_to(end, (n, *turned.shape[1:])) for end, n in ((turned[:1], before), (turned[-1:], after))]
    elif mode == "reflect":
        ends = [turned[1 : before + 1][::-1], turned[length - 1 - after : length - 1][::-1]]
    else:
        ends = [turned[length - before :], turned[:after]]
    return [value.viewed(np.moveaxis(part, 0, axis)) for part in (ends[0], turned, ends[1])]


def padded(writer: Writer, value: Value, before: Sequence[int], after: Sequence[int], fill: Value | None) -> Value:
    """A value with more elements round it, or fewer where an amount is negative; zeros unless filled with others."""
    amounts = list(zip(value.array.shape, before, after, strict=True))
    inner = value.viewed(value.array[tuple(slice(max(-b, 0), size + min(a, 0)) for size, b, a in amounts)])
    if not any(amount > 0 for amount in (*before, *after)):
        return inner
    made = writer.new([size + b + a for size, b, a in amounts], value.array.dtype)
    writer.copy(made, writer.constant(np.zeros((), value.array.dtype)) if fill is None else fill.viewed(fill.array.reshape(())))
    starts = [max(b, 0) for b in before]
    area = tuple(slice(start, start + size) for start, size in zip(starts, inner.array.shape, strict=True))
    writer.copy(made.viewed(made.array[area]), inner)
    return made


def gather(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value, indices = required(inputs, 0, node), required(inputs, 1, node)
    axis = integer(node, "axis", 0) % value.array.ndim
    length = value.array.shape[axis]
    if indices.constant and indices.array.size == 1:  # a slice
        index = int(indices.array.reshape(()))
        if not -length <= index < length:
            raise UsageError(unsupported(node, f"can't take index {index} of {length}"))
        one = value.array[_cut(axis, index % length, index % length + 1, 1, length)]
        return [value.viewed(np.squeeze(one, axis) if indices.array.ndim == 0 else _with_ones(one, axis, indices.array.ndim))]
    value, indices = writer.contiguous(value), writer.contiguous(indices)
    before, after = value.array.shape[:axis], value.array.shape[axis + 1 :]
    made = writer.new((*before, *indices.array.shape, *after), value.array.dtype)
    if made.array.size:
        bytes_each = math.prod(after) * value.array.itemsize
        number = type_number(indices, node)
        writer.emit("GATHER", made, value, indices, number, math.prod(before), length, bytes_each, indices.array.size)
    return [made]


def _with_ones(array: Array, axis: int, count: int) -> Array:
    return np.expand_dims(array, tuple(range(axis + 1, axis + count)))


def gather_elements(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value, indices = required(inputs, 0, node), required(inputs, 1, node)
    made = writer.new(indices.array.shape, value.array.dtype)
    _write_elements(writer, node, "GATHER_ELEMENTS", made, value, indices)
    return [made]


def scatter_elements(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value, indices, updates = (required(inputs, index, node) for index in range(3))
    if node.texts.get("reduction", "none") != "none":
        raise UsageError(unsupported(node, f"don't scatter by '{node.texts['reduction']}'"))
    made = value if writer.may_overwrite(node.inputs[0], value) else writer.new(value.array.shape, value.array.dtype)
    if made is not value:
        writer.copy(made, value)
    _write_elements(writer, node, "SCATTER_ELEMENTS", updates, made, indices)
    return [made]


def _write_elements(writer: Writer, node: Node, operation: str, everything: Value, chosen: Value, indices: Value) -> None:
    """Write what moves elements between one value, all of it, and the places in another that indices choose along an axis."""
    if indices.array.dtype != np.int64:
        raise UsageError(unsupported(node, f"take indices of int64 here, not {indices.array.dtype}"))
    if not indices.array.size:
        return
    axis = integer(node, "axis", 0) % chosen.array.ndim
    others = tuple(0 if one == axis else stride for one, stride in enumerate(chosen.strides))
    axes = merged(indices.array.shape, everything.strides, indices.strides, others)
    length, along = chosen.array.shape[axis], chosen.strides[axis]
    words = (chosen.array.itemsize, length, along, len(axes.sizes), axes.sizes)
    writer.emit(operation, everything, chosen, indices, *words, *axes.strides)


def _reshaped(writer: Writer, value: Value, dims: Sequence[int]) -> Value:
    if math.prod(dims) != value.array.size:
        raise UsageError(
            f"the model gives {list(value.array.shape)} the shape {list(dims)}; no input of these sizes can be computed"
        )
    whole = writer.contiguous(value)
    return whole.viewed(whole.array.reshape(tuple(dims)))


def _integers(array: Array) -> list[int]:
    return [int(one) for one in array.ravel()]


ARRANGING = {
    "Identity": identity,
    "Dropout": dropout,
    "Shape": shape,
    "Size": size,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
    "Slice": slice_,
    "Split": split,
    "Concat": concat,
    "Tile": tile,
    "Pad": pad,
    "Gather": gather,
    "GatherElements": gather_elements,
    "ScatterElements": scatter_elements,
}
