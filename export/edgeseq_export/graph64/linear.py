"""Products of matrices, convolutions, pooling and normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgeseq_export.graph64.node import Build, Kernel, Node, UnknownOperator

SMALL = 2**16  # multiplications below which NumPy takes one thread, too


def product(a: Any, b: Any) -> Any:
    """A product of matrices, on one thread: NumPy's library takes every core, and is many times slower where they are busy."""
    if a.dtype != np.float64 or b.dtype != np.float64 or a.size * b.shape[-1] < SMALL or min(a.ndim, b.ndim) < 2:
        return a @ b
    return (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(np.ascontiguousarray(b))).numpy()


def _gemm(node: Node) -> Kernel:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    first, second = bool(node.get("transA", 0)), bool(node.get("transB", 0))

    def run(a: Any, b: Any, c: Any = None) -> Any:
        y = alpha * product(a.T if first else a, b.T if second else b)
        return y if c is None else y + beta * c

    return run


def _einsum(node: Node) -> Kernel:
    equation = node.get("equation")
    return lambda *arrays: np.einsum(equation, *arrays)


def _windows(x: Any, kernel: Sequence[int], node: Node, fill: float, ceil: bool = False) -> Any:
    """Every window of the axes behind the first two: shape (N, C, *positions, *kernel)."""
    axes = len(kernel)
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], spans, strides)
    if ceil:
        for axis, (span, stride) in enumerate(zip(spans, strides, strict=True)):
            before, after = pads[axis]
            free = x.shape[2 + axis] + before + after - span
            # A last window that starts in the padding behind the end is left out.
            starts = math.ceil(free / stride)
            starts -= int(starts * stride >= x.shape[2 + axis] + before)
            pads[axis] = (before, after + max(0, starts * stride - free))
    x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    every = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + axes)))
    steps = [slice(None, None, stride) for stride in strides]
    inside = [slice(None, None, dilation) for dilation in dilations]
    return every[(slice(None), slice(None), *steps, *inside)]


def _pads(node: Node, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    how = node.get("auto_pad", "NOTSET")
    if how == "VALID":
        return [(0, 0)] * len(sizes)
    if how == "NOTSET":
        pads = node.get("pads") or [0] * (2 * len(sizes))
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    made = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        missing = max(0, (-(-size // stride) - 1) * stride + span - size)
        small, large = missing // 2, missing - missing // 2
        made.append((small, large) if how == "SAME_UPPER" else (large, small))
    return made


def _conv(node: Node) -> Kernel:
    groups = node.get("group", 1)

    def run(x: Any, weight: Any, bias: Any = None) -> Any:
        kernel = weight.shape[2:]
        windows = _windows(x, kernel, node, 0.0)  # (N, C, *positions, *kernel)
        N, C = x.shape[:2]
        positions = windows.shape[2 : 2 + len(kernel)]
        windows = windows.reshape(N, groups, C // groups, math.prod(positions), math.prod(kernel))
        windows = windows.swapaxes(2, 3).reshape(N, groups, math.prod(positions), -1)
        weight = weight.reshape(groups, weight.shape[0] // groups, -1)
        y = product(windows, weight.swapaxes(1, 2)).swapaxes(2, 3).reshape(N, -1, *positions)
        return y if bias is None else y + bias.reshape(-1, *(1,) * len(kernel))

    return run


def _conv_transpose(node: Node) -> Kernel:
    """Each element of x adds its multiple of the kernel to the output, whose edges are cut by the padding."""
    groups = node.get("group", 1)
    if node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("output_shape"):
        raise UnknownOperator(
            "the graph can't be evaluated in float64: no equations for ConvTranspose with auto_pad or output_shape"
        )

    def run(x: Any, weight: Any, bias: Any = None) -> Any:
        kernel, (N, C) = weight.shape[2:], x.shape[:2]
        axes = len(kernel)
        strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
        pads, more = node.get("pads") or [0] * 2 * axes, node.get("output_padding") or [0] * axes
        spread = zip(x.shape[2:], kernel, strides, dilations, more, strict=True)
        full = [(size - 1) * s + (k - 1) * d + 1 + extra for size, k, s, d, extra in spread]
        y: Any = np.zeros((N, groups, weight.shape[1], *full))
        grouped = x.reshape(N, groups, C // groups, *x.shape[2:])
        weight = weight.reshape(groups, C // groups, -1, *kernel)
        for at in np.ndindex(*kernel):
            place = [
                slice(k * d, k * d + (size - 1) * s + 1, s)
                for k, d, size, s in zip(at, dilations, x.shape[2:], strides, strict=True)
            ]
            y[(..., *place)] += np.einsum("ngc...,gco->ngo...", grouped, weight[(..., *at)])
        y = y[(..., *(slice(pads[axis], full[axis] - pads[axis + axes]) for axis in range(axes)))]
        y = y.reshape(N, -1, *y.shape[3:])
        return y if bias is None else y + bias.reshape(-1, *(1,) * axes)

    return run


def _max_pool(node: Node) -> Kernel:
    kernel = node.get("kernel_shape")
    if node.output_count > 1:
        raise UnknownOperator("the graph can't be evaluated in float64: no equations for MaxPool with indices")
    ceil = bool(node.get("ceil_mode", 0))
    return lambda x: _windows(x, kernel, node, -np.inf, ceil).max(axis=tuple(range(-len(kernel), 0)))


def _average_pool(node: Node) -> Kernel:
    kernel = node.get("kernel_shape")
    if node.get("ceil_mode", 0):
        raise UnknownOperator("the graph can't be evaluated in float64: no equations for AveragePool with ceil_mode")
    axes = tuple(range(-len(kernel), 0))

    def run(x: Any) -> Any:
        total = _windows(x, kernel, node, 0.0).sum(axis=axes)
        counted = 0.0 if not node.get("count_include_pad", 0) else 1.0
        return total / _windows(np.ones_like(x), kernel, node, counted).sum(axis=axes)

    return run


def _global(reduce: Any) -> Build:
    return lambda node: lambda x: reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def _standardised(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    mean = x.mean(axis=axes, keepdims=True)
    scale = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + epsilon)
    return (x - mean) * scale, mean, scale


_EPSILON = float(np.float32(1e-5))


def _layer_norm(node: Node) -> Kernel:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", _EPSILON)

    def run(x: Any, scale: Any, bias: Any = None) -> tuple[Any, Any, Any]:
        y, mean, inverse = _standardised(x, tuple(range(axis % x.ndim, x.ndim)), epsilon)
        return (y * scale if bias is None else y * scale + bias), mean, inverse

    return run


def _by_channel(values: Any, rank: int) -> Any:
    return values.reshape(-1, *(1,) * (rank - 2))


def _batch_norm(node: Node) -> Kernel:
    epsilon = node.get("epsilon", _EPSILON)
    if node.get("training_mode", 0):
        raise UnknownOperator("the graph can't be evaluated in float64: no equations for BatchNormalization with training_mode")

    def run(x: Any, *of_channels: Any) -> Any:
        scale, bias, mean, variance = (_by_channel(values, x.ndim) for values in of_channels)
        return (x - mean) / np.sqrt(variance + epsilon) * scale + bias

    return run


def _instance_norm(node: Node) -> Kernel:
    epsilon = node.get("epsilon", _EPSILON)

    def run(x: Any, scale: Any, bias: Any) -> Any:
        return _standardised(x, tuple(range(2, x.ndim)), epsilon)[0] * _by_channel(scale, x.ndim) + _by_channel(bias, x.ndim)

    return run


LINEAR: dict[str, Build] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(np.mean),
    "GlobalMaxPool": _global(np.max),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda node: product,
    "MaxPool": _max_pool,
}
