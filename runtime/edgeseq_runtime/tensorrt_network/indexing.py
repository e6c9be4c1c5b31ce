"""Layers that move values without changing them, make them from nothing, or say where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeseq_runtime.errors import InputError
from edgeseq_runtime.tensorrt_network.kernel import Kernel, choose, one_axis
from edgeseq_runtime.tensorrt_network.network import Layer


def _constant(layer: Layer) -> Kernel:
    array = layer.settings["weights"].reshape(layer.settings["shape"])
    return lambda inputs: (array,)


def _shape(layer: Layer) -> Kernel:
    dtype = np.dtype(layer.outputs[0].dtype)
    return lambda inputs: (np.array(inputs[0].shape, dtype),)


def _shuffle(layer: Layer) -> Kernel:
    given = layer.settings
    placeholder = given["zero_is_placeholder"]

    def shuffle(inputs: Sequence[Any]) -> Sequence[Any]:
        x = inputs[0]
        x = x.transpose(given["first_transpose"][: x.ndim])
        wanted = given["reshape_dims"] if len(inputs) < 2 else tuple(inputs[1].tolist())
        if wanted is not None:
            x = x.reshape([x.shape[at] if size == 0 and placeholder else size for at, size in enumerate(wanted)])
        return (x.transpose(given["second_transpose"][: x.ndim]),)

    return shuffle


def _squeeze(layer: Layer) -> Kernel:
    data = layer.inputs[0]
    ones = tuple(at for at, size in enumerate(() if data is None else data.shape) if size == 1)

    def squeeze(inputs: Sequence[Any]) -> Sequence[Any]:
        return (np.squeeze(inputs[0], ones if len(inputs) < 2 else tuple(inputs[1].reshape(-1).tolist())),)

    return squeeze


def _unsqueeze(layer: Layer) -> Kernel:
    return lambda inputs: (np.expand_dims(inputs[0], tuple(inputs[1].reshape(-1).tolist())),)


def _concatenation(layer: Layer) -> Kernel:
    axis = layer.settings["axis"]
    return lambda inputs: (np.concatenate(inputs, axis),)


def _slice(layer: Layer) -> Kernel:
    given = layer.settings
    take = choose(layer, "mode", _SLICES)

    def slice_(inputs: Sequence[Any]) -> Sequence[Any]:
        x, start, size, stride, fill, axes = [*inputs, None, None, None, None, None][:6]
        bounds = [
            given[name] if tensor is None else tensor.tolist()
            for name, tensor in (("start", start), ("shape", size), ("stride", stride))
        ]
        chosen = given.get("axes") if axes is None else axes.tolist()
        over = range(x.ndim) if chosen is None else [axis % x.ndim for axis in chosen]
        for axis, first, count, step in zip(over, *bounds, strict=True):
            x = take(x, axis, first + step * np.arange(count), fill)
        return (x,)

    return slice_


def _strict(x: Any, axis: int, places: Any, fill: Any) -> Any:
    if places.size and (places.min() < 0 or places.max() >= x.shape[axis]):
        raise InputError(f"places {places.min()} to {places.max()} of an axis of {x.shape[axis]} were asked for")
    return x.take(places, axis)


def _filled(x: Any, axis: int, places: Any, fill: Any) -> Any:
    inside = (places >= 0) & (places < x.shape[axis])
    taken = x.take(np.where(inside, places, 0), axis)
    value = x.dtype.type(0) if fill is None else fill.reshape(())
    return np.where(inside.reshape([-1 if at == axis else 1 for at in range(x.ndim)]), taken, value)


def _reflected(x: Any, axis: int, places: Any, fill: Any) -> Any:
    period = 2 * max(x.shape[axis] - 1, 1)
    folded = np.mod(places, period)
    return x.take(np.minimum(folded, period - folded) % x.shape[axis], axis)


_SLICES: dict[str, Callable[[Any, int, Any, Any], Any]] = {
    "STRICT_BOUNDS": _strict,
    "WRAP": lambda x, axis, places, fill: x.take(np.mod(places, x.shape[axis]), axis),
    "CLAMP": lambda x, axis, places, fill: x.take(np.clip(places, 0, x.shape[axis] - 1), axis),
    "FILL": _filled,
    "REFLECT": _reflected,
}


def _places(layer: Layer, indices: Any, size: int, declared: int) -> Any:
    """Indices that NumPy may use: TensorRT counts from the end only along an axis whose size it knows."""
    low, high = (int(indices.min()), int(indices.max())) if indices.size else (0, 0)
    if high >= size or low < -size:
        raise InputError(f"indices {low} to {high} into an axis of {size}")
    if low < 0 and declared < 0:
        raise InputError(f"index {low} into an axis whose size TensorRT does not know: undefined there")
    return indices


def _gather(layer: Layer) -> Kernel:
    axis, batch = layer.settings["axis"], layer.settings["num_elementwise_dims"]
    mode = choose(layer, "mode", {"DEFAULT": "whole", "ELEMENT": "element", "ND": "nd"})
    data = layer.inputs[0]
    declared = data.shape if data is not None else ()

    def gather(inputs: Sequence[Any]) -> Sequence[Any]:
        x, indices = inputs
        if mode == "nd":
            return (_gather_nd(x, indices, batch),)
        indices = _places(layer, indices, x.shape[axis], declared[axis])
        if mode == "element":
            return (np.take_along_axis(x, indices.astype(np.int64), axis),)
        if not batch:
            return (x.take(indices, axis),)
        rows = [a.take(i, axis - batch) for a, i in zip(_rows(x, batch), _rows(indices, batch), strict=True)]
        return (np.stack(rows).reshape(*x.shape[:batch], *rows[0].shape),)

    return gather


def _rows(x: Any, batch: int) -> Any:
    return x.reshape(math.prod(x.shape[:batch]), *x.shape[batch:])


def _gather_nd(x: Any, indices: Any, batch: int) -> Any:
    if not batch:
        return x[tuple(np.moveaxis(indices, -1, 0))]
    rows = [a[tuple(np.moveaxis(i, -1, 0))] for a, i in zip(_rows(x, batch), _rows(indices, batch), strict=True)]
    return np.stack(rows).reshape(*x.shape[:batch], *rows[0].shape)


def _scatter(layer: Layer) -> Kernel:
    axis = layer.settings["axis"]
    element = choose(layer, "mode", {"ELEMENT": True, "ND": False})

    def scatter(inputs: Sequence[Any]) -> Sequence[Any]:
        x, indices, updates = inputs
        x = x.copy()
        if element:
            np.put_along_axis(x, indices.astype(np.int64), updates, axis)
        else:
            x[tuple(np.moveaxis(indices, -1, 0))] = updates
        return (x,)

    return scatter


def _one_hot(layer: Layer) -> Kernel:
    axis = layer.settings["axis"]

    def one_hot(inputs: Sequence[Any]) -> Sequence[Any]:
        indices, values, depth = inputs
        off, on = values
        hot = np.where(indices[..., np.newaxis] == np.arange(int(depth.item())), on, off)
        return (np.moveaxis(hot, -1, axis),)

    return one_hot


def _non_zero(layer: Layer) -> Kernel:
    dtype = np.dtype(layer.outputs[0].dtype)
    return lambda inputs: (np.stack(np.nonzero(inputs[0])).astype(dtype),)


def _top_k(layer: Layer) -> Kernel:
    axis = one_axis(layer)
    largest = choose(layer, "op", {"MAX": True, "MIN": False})
    dtype = np.dtype(layer.outputs[1].dtype)

    def top_k(inputs: Sequence[Any]) -> Sequence[Any]:
        x = inputs[0]
        k = layer.settings["k"] if len(inputs) < 2 else int(inputs[1].item())
        order = np.argsort(-x if largest else x, axis, kind="stable").take(np.arange(k), axis)
        return (np.take_along_axis(x, order, axis), order.astype(dtype))

    return top_k


def _reverse_sequence(layer: Layer) -> Kernel:
    batch_axis, sequence_axis = layer.settings["batch_axis"], layer.settings["sequence_axis"]

    def reverse_sequence(inputs: Sequence[Any]) -> Sequence[Any]:
        x, lengths = inputs
        x = np.moveaxis(x, (batch_axis, sequence_axis), (0, 1)).copy()
        for row, length in zip(x, lengths, strict=True):
            row[:length] = row[:length][::-1].copy()
        return (np.moveaxis(x, (0, 1), (batch_axis, sequence_axis)),)

    return reverse_sequence


def _fill(layer: Layer) -> Kernel:
    given = layer.settings
    choose(layer, "operation", {"LINSPACE": None})
    dtype = np.dtype(layer.outputs[0].dtype)

    def fill(inputs: Sequence[Any]) -> Sequence[Any]:
        size, alpha, beta = [*inputs, None, None, None][:3]
        shape = given["shape"] if size is None else tuple(size.tolist())
        first = dtype.type(given["alpha"]) if alpha is None else alpha.reshape(())
        steps = np.array(given["beta"], dtype).reshape(-1) if beta is None else beta.reshape(-1)
        values = np.full(shape, first, dtype)
        for axis, step in zip(range(values.ndim), np.broadcast_to(steps, values.ndim), strict=True):
            values += (step * np.arange(shape[axis], dtype=dtype)).reshape([-1 if at == axis else 1 for at in range(values.ndim)])
        return (values,)

    return fill


def _assertion(layer: Layer) -> Kernel:
    def assertion(inputs: Sequence[Any]) -> Sequence[Any]:
        if not np.all(inputs[0]):
            raise InputError(f"TensorRT asserts: {layer.settings['message']}")
        return ()

    return assertion


def _pass(layer: Layer) -> Kernel:
    return lambda inputs: (inputs[0],)


KERNELS: dict[str, Callable[[Layer], Kernel]] = {
    "ASSERTION": _assertion,
    "CONCATENATION": _concatenation,
    "CONDITIONAL_INPUT": _pass,
    "CONSTANT": _constant,
    "FILL": _fill,
    "GATHER": _gather,
    "NON_ZERO": _non_zero,
    "ONE_HOT": _one_hot,
    "REVERSE_SEQUENCE": _reverse_sequence,
    "SCATTER": _scatter,
    "SHAPE": _shape,
    "SHUFFLE": _shuffle,
    "SLICE": _slice,
    "SQUEEZE": _squeeze,
    "TOPK": _top_k,
    "UNSQUEEZE": _unsqueeze,
}
