"""Operators that move elements, pick some of them, or tell sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseq_export.graph64.elementwise import plain
from edgeseq_export.graph64.node import Build, Kernel, Node, UnknownOperator, widened


def _constant(node: Node) -> Kernel:
    if "value" in node.attributes:
        array = node.get("value")
    else:
        (name, value), *_ = node.attributes.items()
        kinds = {"value_float": np.float64, "value_floats": np.float64, "value_int": np.int64, "value_ints": np.int64}
        if name not in kinds:
            raise UnknownOperator(f"the graph can't be evaluated in float64: no equations for Constant with {name}")
        array = np.asarray(value, kinds[name])
    return lambda: array


def _constant_of_shape(node: Node) -> Kernel:
    value = widened(node.get("value", np.zeros(1, np.float32))).reshape(())
    return lambda shape: np.full(shape.tolist(), value, value.dtype)


def _shape(node: Node) -> Kernel:
    start, end = node.get("start", 0), node.get("end")
    return lambda x: np.asarray(x.shape[start:end], np.int64)


def _reshape(node: Node) -> Kernel:
    keeps_zero = node.get("allowzero", 0)

    def run(x: Any, shape: Any) -> Any:
        sizes = shape.tolist()
        return x.reshape(sizes if keeps_zero else [size or x.shape[at] for at, size in enumerate(sizes)])

    return run


def _transpose(node: Node) -> Kernel:
    order = node.get("perm")
    return lambda x: np.transpose(x, order)


def _squeeze(x: Any, axes: Any = None) -> Any:
    return np.squeeze(x, axis=None if axes is None else tuple(axes.tolist()))


def _unsqueeze(x: Any, axes: Any) -> Any:
    return np.expand_dims(x, tuple(axes.tolist()))


def _concat(node: Node) -> Kernel:
    axis = node.get("axis")
    return lambda *arrays: np.concatenate(arrays, axis=axis)


def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    index = [slice(None)] * x.ndim
    first, last = starts.tolist(), ends.tolist()
    chosen = range(len(first)) if axes is None else axes.tolist()
    strides = [1] * len(first) if steps is None else steps.tolist()
    for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
        size = x.shape[axis]
        start, end = (value + size if value < 0 else value for value in (start, end))
        if step > 0:
            index[axis] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
        else:
            end = min(max(end, -1), size - 1)
            index[axis] = slice(min(max(start, 0), size - 1), None if end < 0 else end, step)
    return x[tuple(index)]


def _gather(node: Node) -> Kernel:
    axis = node.get("axis", 0)
    return lambda x, index: np.take(x, _within(index, x.shape[axis]), axis=axis)


def _within(index: Any, size: int) -> Any:
    if index.size and (index.min() < -size or index.max() >= size):
        raise IndexError(f"index {index.min()} to {index.max()} on an axis of {size}")
    return index


def _gather_elements(node: Node) -> Kernel:
    axis = node.get("axis", 0)
    return lambda x, index: x[_places(index, axis, x.ndim)]


def _places(index: Any, axis: int, rank: int) -> tuple[Any, ...]:
    """Where each element of an index along one axis points to."""
    return tuple(index if at == axis % rank else places for at, places in enumerate(np.indices(index.shape, sparse=True)))


def _gather_nd(node: Node) -> Kernel:
    leading = node.get("batch_dims", 0)

    def run(x: Any, index: Any) -> Any:
        shape = x.shape[:leading]
        before = [places[(...,) + (None,) * (index.ndim - 1 - leading)] for places in np.indices(shape, sparse=True)]
        return x[(*before, *np.moveaxis(index, -1, 0))]

    return run


_COMBINED = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scattered(x: Any, places: Any, updates: Any, how: str) -> Any:
    found = np.array(x)
    if how == "none":
        found[places] = updates
    else:
        _COMBINED[how].at(found, places, updates)
    return found


def _scatter_elements(node: Node) -> Kernel:
    axis, how = node.get("axis", 0), node.get("reduction", "none")
    return lambda x, index, updates: _scattered(x, _places(index, axis, x.ndim), updates, how)


def _scatter_nd(node: Node) -> Kernel:
    how = node.get("reduction", "none")
    return lambda x, index, updates: _scattered(x, tuple(np.moveaxis(index, -1, 0)), updates, how)


def _expand(x: Any, shape: Any) -> Any:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _tile(x: Any, repeats: Any) -> Any:
    return np.tile(x, repeats.tolist())


def _split(node: Node) -> Kernel:
    axis, parts = node.get("axis", 0), node.output_count

    def run(x: Any, sizes: Any = None) -> tuple[Any, ...]:
        each = -(-x.shape[axis] // parts)  # the last is smaller where they are no equal parts
        ends = np.cumsum(sizes)[:-1] if sizes is not None else [each * part for part in range(1, parts)]
        return tuple(np.split(x, ends, axis=axis))

    return run


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _pad(node: Node) -> Kernel:
    mode = _MODES[node.get("mode", "constant")]

    def run(x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
        around = [(0, 0)] * x.ndim
        chosen = range(x.ndim) if axes is None else axes.tolist()
        for axis, before, after in zip(chosen, *np.split(pads, 2), strict=True):
            around[axis] = (int(before), int(after))
        index = tuple(slice(max(0, -before), size - max(0, -after)) for (before, after), size in zip(around, x.shape, strict=True))
        added = [(max(before, 0), max(after, 0)) for before, after in around]
        settings = {"constant_values": 0 if value is None else value.item()} if mode == "constant" else {}
        return np.pad(x[index], added, mode=mode, **settings)  # type: ignore[call-overload]

    return run


def _flatten(node: Node) -> Kernel:
    axis = node.get("axis", 1)

    def run(x: Any) -> Any:
        at = axis + x.ndim if axis < 0 else axis
        return x.reshape(int(np.prod(x.shape[:at], dtype=np.int64)), -1)

    return run


def _range(start: Any, limit: Any, step: Any) -> Any:
    return np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _one_hot(node: Node) -> Kernel:
    axis = node.get("axis", -1)

    def run(index: Any, depth: Any, values: Any) -> Any:
        size = int(depth.item())
        index = np.where(index < 0, index + size, index)
        return np.where(np.moveaxis(index[..., None] == np.arange(size), -1, axis), values[1], values[0])

    return run


def _triangle(node: Node) -> Kernel:
    keep = np.triu if node.get("upper", 1) else np.tril
    return lambda x, k=None: keep(x, 0 if k is None else int(k.item()))


def _reversed_sequences(node: Node) -> Kernel:
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)

    def run(x: Any, lengths: Any) -> Any:
        moved = np.moveaxis(x, (time, batch), (0, 1))
        found = np.array(moved)
        for b, steps in enumerate(lengths.tolist()):
            found[:steps, b] = moved[:steps, b][::-1]
        return np.moveaxis(found, (0, 1), (time, batch))

    return run


SHAPES: dict[str, Build] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": plain(_expand),
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": plain(lambda x: np.asarray(np.nonzero(np.atleast_1d(x)), np.int64)),
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": plain(_range),
    "Reshape": _reshape,
    "ReverseSequence": _reversed_sequences,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": plain(lambda x: np.asarray(x.size, np.int64)),
    "Slice": plain(_slice),
    "Split": _split,
    "Squeeze": plain(_squeeze),
    "Tile": plain(_tile),
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": plain(_unsqueeze),
}
