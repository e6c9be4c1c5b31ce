"""Products of matrices, and convolutions as products of the windows that they slide over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.axes import merged
from edgeseq_runtime.native.nodes import given, integer, real, required, unsupported
from edgeseq_runtime.native.operators.arranging import padded
from edgeseq_runtime.native.operators.elementwise import pair_result
from edgeseq_runtime.native.operators.reducing import reduced
from edgeseq_runtime.native.values import Value
from edgeseq_runtime.native.writer import Operator, Writer
from edgeseq_runtime.onnx_wire import Node
from edgeseq_runtime.tensors.spec import Array

Inputs = Sequence[Value | None]


def matmul(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    first, second = required(inputs, 0, node), required(inputs, 1, node)
    _require_floats(node, first, second)
    weights = np.squeeze(second.array, tuple(range(max(second.array.ndim - 2, 0)))) if _is_matrix(second.array) else None
    if second.constant and weights is not None and first.array.ndim >= second.array.ndim:
        return [product(writer, first, weights, None)]
    return [_computed_product(writer, node, first, second)]


def gemm(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    first, second, third = required(inputs, 0, node), required(inputs, 1, node), given(inputs, 2)
    _require_floats(node, first, second)
    left = first.viewed(first.array.T) if integer(node, "transA", 0) else first
    right = second.viewed(second.array.T) if integer(node, "transB", 0) else second
    alpha, beta = real(node, "alpha", 1.0), real(node, "beta", 1.0)
    N = right.array.shape[1]
    plain = alpha == 1 and (beta == 1 or third is None)
    if plain and right.constant:
        if third is None or (third.constant and third.array.size == N):
            return [product(writer, left, right.array, None if third is None else third.array)]
        made = product(writer, left, right.array, None)
    else:
        made = _computed_product(writer, node, left, right)
        if alpha != 1:
            made = pair_result(writer, node, made, writer.constant(np.array(alpha, np.float32)), "MULTIPLY")
    if third is None:
        return [made]
    if beta != 1:
        third = pair_result(writer, node, third, writer.constant(np.array(beta, np.float32)), "MULTIPLY")
    return [pair_result(writer, node, made, third, "ADD")]


def product(writer: Writer, value: Value, weights: Array, bias: Array | None) -> Value:
    """Write (..., K) times constant weights (K, N), and the bias (N,) added."""
    K, N = weights.shape
    source, stride, rows = rows_of(writer, value)
    made = writer.new((*value.array.shape[:-1], N), np.float32)
    if made.array.size:
        held = None if bias is None else writer.padded(bias)
        at = writer.emit("PRODUCT", made, N, source, stride, rows, K, writer.packed(weights), N, held)
        if bias is None:
            writer.without_bias(made, at + 8)
    return made


def rows_of(writer: Writer, value: Value) -> tuple[Value, int, int]:
    """A value as rows that are each contiguous and evenly spaced, copied if need be; their distance, and how many they are."""
    stride = _row_stride(value)
    rows = math.prod(value.array.shape[:-1])
    return (writer.contiguous(value), value.array.shape[-1], rows) if stride is None else (value, stride, rows)


def _row_stride(value: Value) -> int | None:
    """How far rows are from each other, where each is contiguous and all are evenly spaced."""
    outer, K = value.array.shape[:-1], value.array.shape[-1]
    steps, last = value.strides[:-1], value.strides[-1]
    if last != 1 and K > 1:
        return None
    axes = merged(outer, steps) if outer else None
    if axes is None:
        return int(K)
    return axes.strides[0][0] if len(axes.sizes) == 1 else None


def _computed_product(writer: Writer, node: Node, first: Value, second: Value) -> Value:
    """Write a product of two values, each of one or more matrices, as NumPy's matmul means it."""
    a = first.array if first.array.ndim > 1 else first.array[None, :]
    b = second.array if second.array.ndim > 1 else second.array[:, None]
    M, K = a.shape[-2:]
    N = b.shape[-1]
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if K == 1:  # each element is one product
        return _without(first, second, pair_result(writer, node, first.viewed(a), second.viewed(b), "MULTIPLY"))
    made = writer.new((*outer, M, N), np.float32)
    if made.array.size:
        left = first.viewed(np.broadcast_to(a, (*outer, M, K)))
        right = second.viewed(np.broadcast_to(b, (*outer, K, N)))
        axes = merged(outer, made.strides[:-2], left.strides[:-2], right.strides[:-2])
        steps = (*left.strides[-2:], *right.strides[-2:])
        writer.emit("MATMUL", made, left, right, M, N, K, steps, len(axes.sizes), axes.sizes, *axes.strides[1:])
    return _without(first, second, made)


def _without(first: Value, second: Value, made: Value) -> Value:
    """A product without the axes that factors of one axis had been given."""
    ends = ([-2] if first.array.ndim == 1 else []) + ([-1] if second.array.ndim == 1 else [])
    return made.viewed(np.squeeze(made.array, tuple(ends))) if ends else made


def conv(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value, weights, bias = required(inputs, 0, node), required(inputs, 1, node), given(inputs, 2)
    _require_floats(node, value, weights)
    if not weights.constant or (bias is not None and not bias.constant):
        raise UsageError(unsupported(node, "take convolutions of constant weights alone"))
    kernel = weights.array.shape[2:]
    groups = integer(node, "group", 1)
    source = padded(writer, value, *_pads(node, value, kernel, 0), None)
    windows = _windows(source, kernel, _strides(node, len(kernel)), _dilations(node, len(kernel)))  # (B, C, places..., kernel...)
    B, C = value.array.shape[:2]
    places = windows.array.shape[2 : 2 + len(kernel)]
    outputs = weights.array.shape[0]
    each, made_each = C // groups, outputs // groups
    order = (0, *range(2, 2 + len(kernel)), 1, *range(2 + len(kernel), 2 + 2 * len(kernel)))
    parts = []
    for group in range(groups):
        cut = np.transpose(windows.array[:, group * each : (group + 1) * each], order)
        rows = writer.contiguous(windows.viewed(cut))
        flat = rows.viewed(rows.array.reshape((B, *places, each * math.prod(kernel))))
        matrix = weights.array[group * made_each : (group + 1) * made_each].reshape(made_each, -1).T
        offset = None if bias is None else bias.array[group * made_each : (group + 1) * made_each]
        parts.append(product(writer, flat, matrix, offset))
    turned = (0, 1 + len(kernel), *range(1, 1 + len(kernel)))
    if groups == 1:
        return [parts[0].viewed(np.transpose(parts[0].array, turned))]
    whole = writer.new((B, outputs, *places), np.float32)
    for group, part in enumerate(parts):
        area = whole.array[:, group * made_each : (group + 1) * made_each]
        writer.copy(whole.viewed(area), part.viewed(np.transpose(part.array, turned)))
    return [whole]


def _pool(kind: str) -> Operator:
    def written(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
        value = required(inputs, 0, node)
        _require_floats(node, value)
        if sum(1 for name in node.outputs if name) > 1:
            raise UsageError(unsupported(node, "don't tell where maxima are"))
        kernel = node.integers["kernel_shape"]
        before, after = _pads(node, value, kernel, integer(node, "ceil_mode", 0))
        if kind == "MEAN" and any((*before, *after)) and not integer(node, "count_include_pad", 0):
            raise UsageError(unsupported(node, "don't leave padding out of a mean"))
        fill = writer.constant(np.array(-np.inf if kind == "MAXIMUM" else 0, np.float32))
        source = padded(writer, value, before, after, fill)
        windows = _windows(source, kernel, _strides(node, len(kernel)), _dilations(node, len(kernel)))
        over = range(2 + len(kernel), 2 + 2 * len(kernel))
        return [reduced(writer, node, windows, over, kind, keep=False)]

    return written


def _windows(value: Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Value:
    """A view (B, C, places ..., kernel ...) of a value (B, C, sizes ...)."""
    array = value.array
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    places = [(size - span) // stride + 1 for size, span, stride in zip(array.shape[2:], spans, strides, strict=True)]
    steps = [step * stride for step, stride in zip(array.strides[2:], strides, strict=True)]
    inner = [step * dilation for step, dilation in zip(array.strides[2:], dilations, strict=True)]
    shape = (*array.shape[:2], *(max(place, 0) for place in places), *kernel)
    return value.viewed(as_strided(array, shape, (*array.strides[:2], *steps, *inner)))


def _strides(node: Node, rank: int) -> tuple[int, ...]:
    return node.integers.get("strides", (1,) * rank)


def _dilations(node: Node, rank: int) -> tuple[int, ...]:
    return node.integers.get("dilations", (1,) * rank)


def _pads(node: Node, value: Value, kernel: Sequence[int], ceil: int) -> tuple[list[int], list[int]]:
    """What to add before and after each axis, batch and channels included."""
    rank = len(kernel)
    sizes, strides, dilations = value.array.shape[2:], _strides(node, rank), _dilations(node, rank)
    kind = node.texts.get("auto_pad", "NOTSET")
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, stride, dilation, taps in zip(sizes, strides, dilations, kernel, strict=True):
            needed = max((-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
            small, large = needed // 2, needed - needed // 2
            before.append(small if kind == "SAME_UPPER" else large)
            after.append(large if kind == "SAME_UPPER" else small)
        return [0, 0, *before], [0, 0, *after]
    amounts = node.integers.get("pads", (0,) * 2 * rank) if kind == "NOTSET" else (0,) * 2 * rank
    if ceil:
        raise UsageError(unsupported(node, "don't pool by ceil_mode"))
    return [0, 0, *amounts[:rank]], [0, 0, *amounts[rank:]]


def _is_matrix(array: Array) -> bool:
    return array.ndim >= 2 and all(size == 1 for size in array.shape[:-2])


def _require_floats(node: Node, *values: Value) -> None:
    if any(value.array.dtype != np.float32 for value in values):
        raise UsageError(unsupported(node, f"multiply float32 alone, not {', '.join(str(value.array.dtype) for value in values)}"))


PRODUCTS: dict[str, Operator] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Conv": conv,
    "MaxPool": _pool("MAXIMUM"),
    "AveragePool": _pool("MEAN"),
}
