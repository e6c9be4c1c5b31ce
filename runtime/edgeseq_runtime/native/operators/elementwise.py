"""Operators whose results are of single elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.native.axes import broadcast, merged
from edgeseq_runtime.native.constants import DTYPES
from edgeseq_runtime.native.nodes import given, integer, known, real, required, type_number, unsupported
from edgeseq_runtime.native.values import Value
from edgeseq_runtime.native.writer import Operator, Writer
from edgeseq_runtime.onnx_wire import Node, element_type
from edgeseq_runtime.tensors.spec import Array

Inputs = Sequence[Value | None]

# Operator -> the library's kind, and what its parameters are called, with their defaults.
UNARY: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "Exp": ("EXP", ()),
    "Sigmoid": ("SIGMOID", ()),
    "Tanh": ("TANH", ()),
    "Relu": ("RELU", ()),
    "Neg": ("NEGATIVE", ()),
    "Abs": ("ABSOLUTE", ()),
    "Sqrt": ("SQUARE_ROOT", ()),
    "Reciprocal": ("RECIPROCAL", ()),
    "Log": ("LOGARITHM", ()),
    "Sin": ("SINE", ()),
    "Cos": ("COSINE", ()),
    "Erf": ("ERROR_FUNCTION", ()),
    "Floor": ("FLOOR", ()),
    "Ceil": ("CEILING", ()),
    "Round": ("ROUND", ()),
    "Sign": ("SIGN", ()),
    "LeakyRelu": ("LEAKY_RELU", (("alpha", 0.01),)),
    "Elu": ("ELU", (("alpha", 1.0),)),
    "Selu": ("SELU", (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "ThresholdedRelu": ("THRESHOLDED_RELU", (("alpha", 1.0),)),
    "HardSigmoid": ("HARD_SIGMOID", (("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": ("HARD_SWISH", ()),
    "Softplus": ("SOFTPLUS", ()),
    "Softsign": ("SOFTSIGN", ()),
}
# Of whole numbers that are known beforehand, as axes and sizes are.
OF_WHOLE_NUMBERS: dict[str, Callable[[Array], Array]] = {"Neg": np.negative, "Abs": np.abs, "Sign": np.sign}
BINARY = {
    "Add": "ADD",
    "Sub": "SUBTRACT",
    "Mul": "MULTIPLY",
    "Div": "DIVIDE",
    "Min": "MINIMUM",
    "Max": "MAXIMUM",
    "Pow": "POWER",
    "Mod": "MODULO",
    "And": "AND",
    "Or": "OR",
    "Xor": "XOR",
}
COMPARE = {
    "Equal": "EQUAL",
    "Less": "LESS",
    "LessOrEqual": "LESS_OR_EQUAL",
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_OR_EQUAL",
}


def unary_result(writer: Writer, node: Node, value: Value, kind: str, alpha: float = 0.0, beta: float = 0.0) -> Value:
    """Write a function of single floats."""
    if value.array.dtype != np.float32:
        raise UsageError(unsupported(node, f"don't compute this with {value.array.dtype}"))
    source = writer.contiguous(value)
    made = writer.new(value.array.shape, value.array.dtype)
    if made.array.size:
        writer.emit("UNARY", made, source, writer.kernels.unary[kind], made.array.size, float(alpha), float(beta))
    return made


def pair_result(writer: Writer, node: Node, first: Value, second: Value, kind: str, *, compares: bool = False) -> Value:
    """Write a function of two elements, with broadcasting."""
    dims = np.broadcast_shapes(first.array.shape, second.array.shape)
    made = writer.new(dims, np.bool_ if compares else first.array.dtype)
    if made.array.size:
        number = type_number(first, node)
        axes = merged(dims, made.strides, broadcast(first, dims).strides, broadcast(second, dims).strides)
        kinds = writer.kernels.compare if compares else writer.kernels.binary
        operation = "COMPARE" if compares else "BINARY"
        writer.emit(operation, made, first, second, kinds[kind], number, len(axes.sizes), axes.sizes, *axes.strides[1:])
    return made


def _unary(op: str) -> Operator:
    kind, parameters = UNARY[op]

    def written(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
        values = [real(node, name, default) for name, default in parameters]
        value = required(inputs, 0, node)
        if value.constant and op in OF_WHOLE_NUMBERS and value.array.dtype.kind == "i":
            return [writer.constant(OF_WHOLE_NUMBERS[op](value.array))]
        return [unary_result(writer, node, value, kind, *values)]

    return written


def _binary(op: str) -> Operator:
    def written(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
        first = required(inputs, 0, node)
        for index in range(1, len(inputs)):
            first = pair_result(writer, node, first, required(inputs, index, node), BINARY[op])
        return [first]

    return written


def _compare(op: str) -> Operator:
    def written(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
        return [pair_result(writer, node, required(inputs, 0, node), required(inputs, 1, node), COMPARE[op], compares=True)]

    return written


def add(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    first, second = required(inputs, 0, node), required(inputs, 1, node)
    if len(node.inputs) == 2 and writer.add_bias(node.inputs[0], first, second):
        return [first]
    if len(node.inputs) == 2 and writer.add_bias(node.inputs[1], second, first):
        return [second]
    return [pair_result(writer, node, first, second, "ADD")]


def power(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    base, exponent = required(inputs, 0, node), known(inputs[1], node, "the exponent")
    if base.array.dtype != np.float32 and not (exponent == 2).all():
        raise UsageError(unsupported(node, "raise whole numbers to the power of 2 alone"))
    return [pair_result(writer, node, base, writer.constant(exponent.astype(base.array.dtype)), "POWER")]


def modulo(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    first, second = required(inputs, 0, node), required(inputs, 1, node)
    if (first.array.dtype == np.float32) != bool(integer(node, "fmod", 0)):
        raise UsageError(
            unsupported(node, "give remainders of floats the sign of the dividend, and those of whole numbers the divisor's")
        )
    return [pair_result(writer, node, first, second, "MODULO")]


def clip(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    low, high = given(inputs, 1), given(inputs, 2)
    if value.array.dtype == np.float32 and all(one is None or one.constant for one in (low, high)):
        least, most = (float(one.array.reshape(())) if one else far for one, far in ((low, -np.inf), (high, np.inf)))
        return [unary_result(writer, node, value, "CLIP", min(least, most), most)]
    for bound, kind in ((low, "MAXIMUM"), (high, "MINIMUM")):
        value = value if bound is None else pair_result(writer, node, value, bound, kind)
    return [value]


def gelu(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    kind = "GELU_BY_TANH" if node.texts.get("approximate", "none") == "tanh" else "GELU"
    return [unary_result(writer, node, required(inputs, 0, node), kind)]


def not_(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = writer.contiguous(required(inputs, 0, node))
    made = writer.new(value.array.shape, value.array.dtype)
    writer.emit("NOT", made, value, made.array.size)
    return [made]


def where(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    condition, first, second = (required(inputs, index, node) for index in range(3))
    dims = np.broadcast_shapes(condition.array.shape, first.array.shape, second.array.shape)
    made = writer.new(dims, first.array.dtype)
    if made.array.size:
        each = (broadcast(one, dims).strides for one in (condition, first, second))
        axes = merged(dims, made.strides, *each)
        writer.emit("WHERE", made, condition, first, second, made.array.itemsize, len(axes.sizes), axes.sizes, *axes.strides[1:])
    return [made]


def cast(writer: Writer, node: Node, inputs: Inputs) -> Sequence[Value]:
    value = required(inputs, 0, node)
    to = element_type(node.integers["to"][0])
    if value.constant and to in (*DTYPES, "float64"):
        return [writer.constant(value.array.astype(to))]
    if to not in DTYPES:
        raise UsageError(unsupported(node, f"don't cast to {to}"))
    if value.array.dtype == to:
        return [value]
    source = writer.contiguous(value)
    made = writer.new(value.array.shape, to)
    if made.array.size:
        writer.emit("CAST", made, source, type_number(made, node), type_number(source, node), made.array.size)
    return [made]


ELEMENTWISE: dict[str, Operator] = {
    **{op: _unary(op) for op in UNARY},
    **{op: _binary(op) for op in BINARY},
    **{op: _compare(op) for op in COMPARE},
    "Add": add,
    "Mod": modulo,
    "Pow": power,
    "Clip": clip,
    "Gelu": gelu,
    "Not": not_,
    "Where": where,
    "Cast": cast,
}
