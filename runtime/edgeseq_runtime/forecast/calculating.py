"""Rules of operators that calculate: element by element, products, windows, recurrences, reductions, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeseq_runtime.forecast.given import Inputs, NotKnown, Rule, integer_of, listed, shape_at, value_at
from edgeseq_runtime.forecast.values import Shape, Value
from edgeseq_runtime.onnx_wire import ELEMENT_TYPES, Node

RECURRENT_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}


def _elementwise(node: Node, inputs: Inputs) -> Value:
    present = [value for value in inputs if value is not None]
    shape = np.broadcast_shapes(*(shape_at(present, index) for index in range(len(present))))
    return Value(shape, present[0].dtype)


def _where(node: Node, inputs: Inputs) -> Value:
    return _elementwise(node, inputs)._replace(dtype=value_at(inputs, 1).dtype)


def _comparison(node: Node, inputs: Inputs) -> Value:
    return _elementwise(node, inputs)._replace(dtype="bool")


def _like_first(node: Node, inputs: Inputs) -> Value:
    first = value_at(inputs, 0)
    return Value(first.shape, first.dtype)


def _cast(node: Node, inputs: Inputs) -> Value:
    kind = integer_of(node, "to", 1)
    return Value(shape_at(inputs), ELEMENT_TYPES[kind] if kind < len(ELEMENT_TYPES) else "float32")


def _matmul(node: Node, inputs: Inputs) -> Value:
    a, b = shape_at(inputs, 0), shape_at(inputs, 1)
    left, right = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    if left[-1] != right[-2]:
        raise NotKnown
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    rows = () if len(a) == 1 else (left[-2],)
    columns = () if len(b) == 1 else (right[-1],)
    return Value((*batch, *rows, *columns), "int32" if node.op.endswith("Integer") else value_at(inputs, 0).dtype)


def _matmul_n_bits(node: Node, inputs: Inputs) -> Value:
    return Value((*shape_at(inputs)[:-1], node.integers["N"][0]), value_at(inputs, 0).dtype)


def _gemm(node: Node, inputs: Inputs) -> Value:
    a, b = shape_at(inputs, 0), shape_at(inputs, 1)
    rows = a[1] if integer_of(node, "transA", 0) else a[0]
    columns = b[0] if integer_of(node, "transB", 0) else b[1]
    return Value((rows, columns), value_at(inputs, 0).dtype)


def _window(node: Node, size: Shape, kernel: Shape) -> Shape:
    axes = len(kernel)
    if node.texts.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotKnown
    strides = node.integers.get("strides", (1,) * axes)
    dilations = node.integers.get("dilations", (1,) * axes)
    pads = node.integers.get("pads", (0,) * (2 * axes))
    rounded = math.ceil if integer_of(node, "ceil_mode", 0) else math.floor
    return tuple(
        rounded((size[i] + pads[i] + pads[i + axes] - dilations[i] * (kernel[i] - 1) - 1) / strides[i]) + 1 for i in range(axes)
    )


def _conv(node: Node, inputs: Inputs) -> Value:
    x, w = shape_at(inputs, 0), shape_at(inputs, 1)
    return Value((x[0], w[0], *_window(node, x[2:], w[2:])), value_at(inputs, 0).dtype)


def _conv_transpose(node: Node, inputs: Inputs) -> Value:
    x, w = shape_at(inputs, 0), shape_at(inputs, 1)
    axes = len(w) - 2
    if node.texts.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.integers:
        raise NotKnown
    strides = node.integers.get("strides", (1,) * axes)
    dilations = node.integers.get("dilations", (1,) * axes)
    pads = node.integers.get("pads", (0,) * (2 * axes))
    extra = node.integers.get("output_padding", (0,) * axes)
    size = tuple(
        strides[i] * (x[2 + i] - 1) + extra[i] + (w[2 + i] - 1) * dilations[i] + 1 - pads[i] - pads[i + axes] for i in range(axes)
    )
    return Value((x[0], w[1] * integer_of(node, "group", 1), *size), value_at(inputs, 0).dtype)


def _pool(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    return Value((*x[:2], *_window(node, x[2:], node.integers["kernel_shape"])), value_at(inputs, 0).dtype)


def _global_pool(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    return Value((*x[:2], *(1,) * (len(x) - 2)), value_at(inputs, 0).dtype)


def _recurrent(node: Node, inputs: Inputs) -> list[Value]:
    x, r = shape_at(inputs, 0), shape_at(inputs, 2)
    hidden = r[1] if node.op == "DynamicQuantizeLSTM" else r[2]
    directions = r[0]
    first = bool(integer_of(node, "layout", 0))
    T, B = (x[1], x[0]) if first else (x[0], x[1])
    whole = (B, T, directions, hidden) if first else (T, directions, B, hidden)
    state = (B, directions, hidden) if first else (directions, B, hidden)
    dtype = value_at(inputs, 0).dtype
    return [Value(whole, dtype), Value(state, dtype), Value(state, dtype)]


def _reduce(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    axes = listed(node, inputs, "axes", 1)
    if not axes and integer_of(node, "noop_with_empty_axes", 0):
        return _like_first(node, inputs)
    gone = {axis % len(x) for axis in axes} if axes else set(range(len(x)))
    kept = integer_of(node, "keepdims", 1)
    shape = tuple(1 if axis in gone else size for axis, size in enumerate(x) if axis not in gone or kept)
    return Value(shape, value_at(inputs, 0).dtype)


def _arg(node: Node, inputs: Inputs) -> Value:
    x = shape_at(inputs)
    axis = integer_of(node, "axis", 0) % len(x)
    kept = (1,) if integer_of(node, "keepdims", 1) else ()
    return Value((*x[:axis], *kept, *x[axis + 1 :]), "int64")


def _layer_norm(node: Node, inputs: Inputs) -> list[Value]:
    x = shape_at(inputs)
    axis = integer_of(node, "axis", -1) % len(x)
    small = Value((*x[:axis], *(1,) * (len(x) - axis)))
    return [_like_first(node, inputs), small, small]


def _dynamic_quantize(node: Node, inputs: Inputs) -> list[Value]:
    return [Value(shape_at(inputs), "uint8"), Value((), "float32"), Value((), "uint8")]


def _einsum(node: Node, inputs: Inputs) -> Value:
    terms, result = einsum_terms(node)
    sizes = einsum_sizes(terms, [shape_at(inputs, index) for index in range(len(terms))])
    return Value(tuple(sizes[label] for label in result), value_at(inputs, 0).dtype)


def einsum_terms(node: Node) -> tuple[list[str], str]:
    """The labels of each input and of the output; only the form with an arrow and no dots is read."""
    left, arrow, right = node.texts.get("equation", "").replace(" ", "").partition("->")
    if not arrow or "." in left:
        raise NotKnown
    return left.split(","), right


def einsum_sizes(terms: Sequence[str], shapes: Sequence[Shape]) -> dict[str, int]:
    """The size of each label."""
    return {label: size for term, shape in zip(terms, shapes, strict=True) for label, size in zip(term, shape, strict=True)}


_ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "PRelu", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
    "BitShift", "And", "Or", "Xor",
)  # fmt: skip
_COMPARISONS = (
    "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
)  # fmt: skip
_LIKE_FIRST = (
    "Abs", "Acos", "Asin", "Atan", "BatchNormalization", "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum",
    "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "Hardmax", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "ReverseSequence", "Round", "ScatterElements", "ScatterND", "Selu",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu", "Trilu",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
CALCULATING: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_COMPARISONS, _comparison),
    **dict.fromkeys(_LIKE_FIRST, _like_first),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(RECURRENT_GATES, _recurrent),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("Conv", "ConvInteger"), _conv),
    "Cast": _cast,
    "ConvTranspose": _conv_transpose,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMulNBits": _matmul_n_bits,
    "Where": _where,
}
