"""Layers that slide a window over the last axes: convolution and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeseq_runtime.tensorrt_network.kernel import Kernel, choose
from edgeseq_runtime.tensorrt_network.network import Layer


def _convolution(layer: Layer) -> Kernel:
    given = layer.settings
    choose(layer, "padding_mode", {"EXPLICIT_ROUND_DOWN": None})
    groups, size = given["num_groups"], given["kernel_size_nd"]

    def convolution(inputs: Sequence[Any]) -> Sequence[Any]:
        x, kernel, bias = [*inputs, None, None][:3]
        kernel = given["kernel"].reshape(given["num_output_maps"], -1, *size) if kernel is None else kernel
        bias = given["bias"] if bias is None else bias
        found = _windows(_padded(x, given, 0), size, given["stride_nd"], given["dilation_nd"])  # (B, C, *places, *size)
        parts = [
            _convolved(part, weights) for part, weights in zip(np.split(found, groups, 1), np.split(kernel, groups, 0), strict=True)
        ]
        y = np.concatenate(parts, 1)  # (B, outputs, *places)
        if bias is not None and bias.size:
            y = y + bias.reshape(-1, *[1] * len(size)).astype(y.dtype)
        return (y.astype(x.dtype, copy=False),)

    return convolution


def _convolved(windows: Any, kernel: Any) -> Any:
    """From windows (B, C, *places, *size) and a kernel (outputs, C, *size) to (B, outputs, *places)."""
    B, C, *rest = windows.shape
    places, size = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    windows = np.moveaxis(windows, 1, 1 + len(places))  # (B, *places, C, *size)
    flat = windows.reshape(-1, C * math.prod(size)).astype(np.float32, copy=False)
    y = flat @ kernel.reshape(len(kernel), -1).T.astype(np.float32, copy=False)
    return np.moveaxis(y.reshape(B, *places, len(kernel)), -1, 1)


def _pooling(layer: Layer) -> Kernel:
    given = layer.settings
    choose(layer, "padding_mode", {"EXPLICIT_ROUND_DOWN": None})
    kind = choose(layer, "type", {"MAX": "max", "AVERAGE": "average"})
    size, stride = given["window_size_nd"], given["stride_nd"]
    over = tuple(range(-len(size), 0))

    def pooling(inputs: Sequence[Any]) -> Sequence[Any]:
        x = inputs[0]
        dilation = (1,) * len(size)
        if kind == "max":
            lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
            return (_windows(_padded(x, given, lowest), size, stride, dilation).max(over),)
        total = _windows(_padded(x, given, 0), size, stride, dilation).sum(over, dtype=np.float32)
        count = np.float32(math.prod(size))
        if given["average_count_excludes_padding"]:
            ones = np.ones_like(x, dtype=np.float32)
            count = _windows(_padded(ones, given, 0), size, stride, dilation).sum(over)
        return ((total / count).astype(x.dtype, copy=False),)

    return pooling


def _padded(x: Any, given: dict[str, Any], value: float) -> Any:
    widths = [(0, 0), (0, 0), *zip(given["pre_padding"], given["post_padding"], strict=True)]
    return np.pad(x, widths, constant_values=value) if any(map(any, widths)) else x


def _windows(x: Any, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Any:
    """A view (B, C, *places, *size) of x (B, C, *space)."""
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    steps = (slice(None, None, step) for step in (*stride, *dilation))
    return views[(slice(None), slice(None), *steps)]


KERNELS: dict[str, Callable[[Layer], Kernel]] = {"CONVOLUTION": _convolution, "POOLING": _pooling}
