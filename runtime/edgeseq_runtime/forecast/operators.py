"""Shapes that operators make from shapes: ONNX's rules, at sizes that are numbers.

Source: the operators' pages at https://onnx.ai/onnx/operators/. What is not here, or depends on the data itself, gives a value
whose shape is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgeseq_runtime.forecast.values import UNKNOWN, Numbers, Shape, Value, numbers_value
from edgeseq_runtime.onnx_wire import ELEMENT_TYPES, Node

Inputs = Sequence[Value | None]  # None: an optional input that was left out
Rule = Callable[[Node, Inputs], "Value | list[Value]"]

RECURRENT_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}


class NotKnown(Exception):
    """A size does not follow from the sizes of the inputs."""


def outputs_of(node: Node, inputs: Inputs) -> list[Value]:
    """The outputs of a node without bodies, as many as it has."""
    try:
        made = _RULES[node.op](node, inputs) if is_known(node) else UNKNOWN
    except (NotKnown, IndexError, ValueError, TypeError, ZeroDivisionError):
        made = UNKNOWN  # a graph that breaks its operators' rules is refused by the runtime, not here
    found = made if isinstance(made, list) else [made]
    return [*found, *[UNKNOWN] * len(node.outputs)][: len(node.outputs)]


def is_known(node: Node) -> bool:
    """Whether the sizes that a node makes are known here."""
    return node.op in _RULES and (node.domain in ("", "ai.onnx") or node.op in _FOREIGN)


def _value(inputs: Inputs, position: int) -> Value:
    value = inputs[position] if position < len(inputs) else None
    if value is None:
        raise NotKnown
    return value


def _shape(inputs: Inputs, position: int = 0) -> Shape:
    shape = _value(inputs, position).shape
    if shape is None:
        raise NotKnown
    return shape


def _numbers(inputs: Inputs, position: int) -> Numbers:
    numbers = _value(inputs, position).numbers
    if numbers is None:
        raise NotKnown
    return numbers


def _given(inputs: Inputs, position: int) -> bool:
    return position < len(inputs) and inputs[position] is not None


def integer_of(node: Node, name: str, default: int) -> int:
    """An attribute that is one integer."""
    return node.integers.get(name, (default,))[0]


def _listed(node: Node, inputs: Inputs, name: str, position: int) -> tuple[int, ...] | None:
    """Integers that are an attribute in older opsets and an input in newer ones."""
    if _given(inputs, position):
        return tuple(int(one) for one in _numbers(inputs, position).ravel())
    return node.integers.get(name)


def _broadcast(*shapes: Shape) -> Shape:
    return np.broadcast_shapes(*shapes)


def _elementwise(node: Node, inputs: Inputs) -> Value:
    present = [value for value in inputs if value is not None]
    shape = _broadcast(*(_shape(present, index) for index in range(len(present))))
    return Value(shape, present[0].dtype)


def _where(node: Node, inputs: Inputs) -> Value:
    return _elementwise(node, inputs)._replace(dtype=_value(inputs, 1).dtype)


def _comparison(node: Node, inputs: Inputs) -> Value:
    return _elementwise(node, inputs)._replace(dtype="bool")


def _like_first(node: Node, inputs: Inputs) -> Value:
    first = _value(inputs, 0)
    return Value(first.shape, first.dtype)


def _cast(node: Node, inputs: Inputs) -> Value:
    kind = integer_of(node, "to", 1)
    return Value(_shape(inputs), ELEMENT_TYPES[kind] if kind < len(ELEMENT_TYPES) else "float32")


def _matmul(node: Node, inputs: Inputs) -> Value:
    a, b = _shape(inputs, 0), _shape(inputs, 1)
    left, right = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    if left[-1] != right[-2]:
        raise NotKnown
    batch = _broadcast(left[:-2], right[:-2])
    rows = () if len(a) == 1 else (left[-2],)
    columns = () if len(b) == 1 else (right[-1],)
    return Value((*batch, *rows, *columns), "int32" if node.op.endswith("Integer") else _value(inputs, 0).dtype)


def _matmul_n_bits(node: Node, inputs: Inputs) -> Value:
    return Value((*_shape(inputs)[:-1], node.integers["N"][0]), _value(inputs, 0).dtype)


def _gemm(node: Node, inputs: Inputs) -> Value:
    a, b = _shape(inputs, 0), _shape(inputs, 1)
    rows = a[1] if integer_of(node, "transA", 0) else a[0]
    columns = b[0] if integer_of(node, "transB", 0) else b[1]
    return Value((rows, columns), _value(inputs, 0).dtype)


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
    x, w = _shape(inputs, 0), _shape(inputs, 1)
    return Value((x[0], w[0], *_window(node, x[2:], w[2:])), _value(inputs, 0).dtype)


def _conv_transpose(node: Node, inputs: Inputs) -> Value:
    x, w = _shape(inputs, 0), _shape(inputs, 1)
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
    return Value((x[0], w[1] * integer_of(node, "group", 1), *size), _value(inputs, 0).dtype)


def _pool(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    return Value((*x[:2], *_window(node, x[2:], node.integers["kernel_shape"])), _value(inputs, 0).dtype)


def _global_pool(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    return Value((*x[:2], *(1,) * (len(x) - 2)), _value(inputs, 0).dtype)


def _recurrent(node: Node, inputs: Inputs) -> list[Value]:
    x, r = _shape(inputs, 0), _shape(inputs, 2)
    hidden = r[1] if node.op == "DynamicQuantizeLSTM" else r[2]
    directions = r[0]
    first = bool(integer_of(node, "layout", 0))
    T, B = (x[1], x[0]) if first else (x[0], x[1])
    whole = (B, T, directions, hidden) if first else (T, directions, B, hidden)
    state = (B, directions, hidden) if first else (directions, B, hidden)
    dtype = _value(inputs, 0).dtype
    return [Value(whole, dtype), Value(state, dtype), Value(state, dtype)]


def _reshape(node: Node, inputs: Inputs) -> Value:
    asked = [int(size) for size in _numbers(inputs, 1)]
    if not integer_of(node, "allowzero", 0):
        asked = [_shape(inputs)[axis] if size == 0 else size for axis, size in enumerate(asked)]
    if -1 in asked:
        known = math.prod(size for size in asked if size != -1)
        asked[asked.index(-1)] = math.prod(_shape(inputs)) // known
    return Value(tuple(asked), _value(inputs, 0).dtype)


def _transpose(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    order = node.integers.get("perm", tuple(reversed(range(len(x)))))
    return Value(tuple(x[axis] for axis in order), _value(inputs, 0).dtype)


def _slice(node: Node, inputs: Inputs) -> Value:
    x = list(_shape(inputs))
    starts, ends = _listed(node, inputs, "starts", 1), _listed(node, inputs, "ends", 2)
    if starts is None or ends is None:
        raise NotKnown
    axes = _listed(node, inputs, "axes", 3) or tuple(range(len(starts)))
    steps = _listed(node, inputs, "steps", 4) or (1,) * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x[axis] = len(range(*slice(start, end, step).indices(x[axis])))
    return Value(tuple(x), _value(inputs, 0).dtype)


def _concat(node: Node, inputs: Inputs) -> Value:
    shapes = [_shape(inputs, index) for index in range(len(inputs))]
    axis = node.integers["axis"][0] % len(shapes[0])
    return Value((*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :]), _value(inputs, 0).dtype)


def _split(node: Node, inputs: Inputs) -> list[Value]:
    x = _shape(inputs)
    axis = integer_of(node, "axis", 0) % len(x)
    sizes = _listed(node, inputs, "split", 1)
    if sizes is None:
        each = -(-x[axis] // len(node.outputs))
        sizes = tuple(min(each, x[axis] - each * index) for index in range(len(node.outputs)))
    return [Value((*x[:axis], size, *x[axis + 1 :]), _value(inputs, 0).dtype) for size in sizes]


def _squeeze(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    axes = _listed(node, inputs, "axes", 1)
    gone = {axis % len(x) for axis in axes} if axes is not None else {axis for axis, size in enumerate(x) if size == 1}
    return Value(tuple(size for axis, size in enumerate(x) if axis not in gone), _value(inputs, 0).dtype)


def _unsqueeze(node: Node, inputs: Inputs) -> Value:
    x = list(_shape(inputs))
    axes = _listed(node, inputs, "axes", 1) or ()
    for axis in sorted(axis % (len(x) + len(axes)) for axis in axes):
        x.insert(axis, 1)
    return Value(tuple(x), _value(inputs, 0).dtype)


def _gather(node: Node, inputs: Inputs) -> Value:
    x, at = _shape(inputs, 0), _shape(inputs, 1)
    axis = integer_of(node, "axis", 0) % len(x)
    return Value((*x[:axis], *at, *x[axis + 1 :]), _value(inputs, 0).dtype)


def _gather_elements(node: Node, inputs: Inputs) -> Value:
    return Value(_shape(inputs, 1), _value(inputs, 0).dtype)


def _gather_nd(node: Node, inputs: Inputs) -> Value:
    x, at, batch = _shape(inputs, 0), _shape(inputs, 1), integer_of(node, "batch_dims", 0)
    return Value((*at[:-1], *x[batch + at[-1] :]), _value(inputs, 0).dtype)


def _pad(node: Node, inputs: Inputs) -> Value:
    x = list(_shape(inputs))
    pads = _listed(node, inputs, "pads", 1) or ()
    axes = _listed(node, inputs, "axes", 3) or tuple(range(len(x)))
    for index, axis in enumerate(axes):
        x[axis] += pads[index] + pads[index + len(axes)]
    return Value(tuple(x), _value(inputs, 0).dtype)


def _expand(node: Node, inputs: Inputs) -> Value:
    return Value(_broadcast(_shape(inputs), tuple(int(size) for size in _numbers(inputs, 1))), _value(inputs, 0).dtype)


def _tile(node: Node, inputs: Inputs) -> Value:
    shape = tuple(size * int(times) for size, times in zip(_shape(inputs), _numbers(inputs, 1), strict=True))
    return Value(shape, _value(inputs, 0).dtype)


def _reduce(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    axes = _listed(node, inputs, "axes", 1)
    if not axes and integer_of(node, "noop_with_empty_axes", 0):
        return _like_first(node, inputs)
    gone = {axis % len(x) for axis in axes} if axes else set(range(len(x)))
    kept = integer_of(node, "keepdims", 1)
    shape = tuple(1 if axis in gone else size for axis, size in enumerate(x) if axis not in gone or kept)
    return Value(shape, _value(inputs, 0).dtype)


def _arg(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    axis = integer_of(node, "axis", 0) % len(x)
    kept = (1,) if integer_of(node, "keepdims", 1) else ()
    return Value((*x[:axis], *kept, *x[axis + 1 :]), "int64")


def _top_k(node: Node, inputs: Inputs) -> list[Value]:
    x = list(_shape(inputs))
    x[integer_of(node, "axis", -1)] = int(_numbers(inputs, 1).ravel()[0])
    return [Value(tuple(x), _value(inputs, 0).dtype), Value(tuple(x), "int64")]


def _one_hot(node: Node, inputs: Inputs) -> Value:
    at = list(_shape(inputs))
    axis = integer_of(node, "axis", -1)
    at.insert(axis if axis >= 0 else len(at) + 1 + axis, int(_numbers(inputs, 1).ravel()[0]))
    return Value(tuple(at), _value(inputs, 2).dtype)


def _flatten(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    axis = integer_of(node, "axis", 1)
    return Value((math.prod(x[:axis]), math.prod(x[axis:])), _value(inputs, 0).dtype)


def _shape_of(node: Node, inputs: Inputs) -> Value:
    x = _shape(inputs)
    start, end = integer_of(node, "start", 0), node.integers.get("end", (len(x),))[0]
    return numbers_value(np.array(x[start:end], np.int64))


def _size_of(node: Node, inputs: Inputs) -> Value:
    return numbers_value(np.array(math.prod(_shape(inputs)), np.int64))


def _constant_of_shape(node: Node, inputs: Inputs) -> Value:
    value = node.tensors.get("value")
    shape = tuple(int(size) for size in _numbers(inputs, 0))
    if value is not None and value.integers and math.prod(shape) <= MAX_FILLED:
        return numbers_value(np.full(shape, value.integers[0], value.dtype))
    return Value(shape, value.dtype if value else "float32")


def _range(node: Node, inputs: Inputs) -> Value:
    start, limit, step = (_numbers(inputs, index).ravel()[0] for index in range(3))
    return numbers_value(np.arange(start, limit, step))


def _layer_norm(node: Node, inputs: Inputs) -> list[Value]:
    x = _shape(inputs)
    axis = integer_of(node, "axis", -1) % len(x)
    small = Value((*x[:axis], *(1,) * (len(x) - axis)))
    return [_like_first(node, inputs), small, small]


def _dynamic_quantize(node: Node, inputs: Inputs) -> list[Value]:
    return [Value(_shape(inputs), "uint8"), Value((), "float32"), Value((), "uint8")]


def _einsum(node: Node, inputs: Inputs) -> Value:
    terms, result = einsum_terms(node)
    sizes = einsum_sizes(terms, [_shape(inputs, index) for index in range(len(terms))])
    return Value(tuple(sizes[label] for label in result), _value(inputs, 0).dtype)


def einsum_terms(node: Node) -> tuple[list[str], str]:
    """The labels of each input and of the output; only the form with an arrow and no dots is read."""
    left, arrow, right = node.texts.get("equation", "").replace(" ", "").partition("->")
    if not arrow or "." in left:
        raise NotKnown
    return left.split(","), right


def einsum_sizes(terms: Sequence[str], shapes: Sequence[Shape]) -> dict[str, int]:
    """The size of each label."""
    return {label: size for term, shape in zip(terms, shapes, strict=True) for label, size in zip(term, shape, strict=True)}


_FOREIGN = ("DynamicQuantizeLSTM", "MatMulNBits")  # of domain com.microsoft
MAX_FILLED = 4096  # elements
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
_RULES: dict[str, Rule] = {
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
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "ConvTranspose": _conv_transpose,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMulNBits": _matmul_n_bits,
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
    "Where": _where,
}
