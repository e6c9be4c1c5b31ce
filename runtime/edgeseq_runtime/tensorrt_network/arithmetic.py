"""Layers that compute values: element by element, along axes, and products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeseq_runtime.tensorrt_network.kernel import Kernel, axes_of, choose, mask_rank
from edgeseq_runtime.tensorrt_network.network import Layer

_erf = np.frompyfunc(math.erf, 1, 1)


def _elementwise(layer: Layer) -> Kernel:
    compute = choose(layer, "op", _ELEMENTWISE)
    return lambda inputs: (compute(inputs[0], inputs[1]),)


def _divide(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    quotient = a // b  # rounded down; TensorRT's rounds towards zero, as C does
    return quotient + ((quotient * b != a) & ((a < 0) != (b < 0))).astype(a.dtype)


def _floor_divide(a: Any, b: Any) -> Any:
    return np.floor(a / b) if a.dtype.kind == "f" else a // b


_ELEMENTWISE: dict[str, Callable[[Any, Any], Any]] = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "SUB": np.subtract,
    "DIV": _divide,
    "POW": np.power,
    "FLOOR_DIV": _floor_divide,
    "AND": np.logical_and,
    "OR": np.logical_or,
    "XOR": np.logical_xor,
    "EQUAL": np.equal,
    "GREATER": np.greater,
    "LESS": np.less,
}


def _unary(layer: Layer) -> Kernel:
    compute = choose(layer, "op", _UNARY)
    return lambda inputs: (_in_float32(compute, inputs[0]),)


def _erf_of(x: Any) -> Any:
    return _erf(x).astype(x.dtype)


_UNARY: dict[str, Callable[[Any], Any]] = {
    "EXP": np.exp,
    "LOG": np.log,
    "SQRT": np.sqrt,
    "RECIP": np.reciprocal,
    "ABS": np.abs,
    "NEG": np.negative,
    "SIN": np.sin,
    "COS": np.cos,
    "TAN": np.tan,
    "SINH": np.sinh,
    "COSH": np.cosh,
    "ASIN": np.arcsin,
    "ACOS": np.arccos,
    "ATAN": np.arctan,
    "ASINH": np.arcsinh,
    "ACOSH": np.arccosh,
    "ATANH": np.arctanh,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "ROUND": np.rint,
    "ERF": _erf_of,
    "NOT": np.logical_not,
    "SIGN": np.sign,
    "ISINF": np.isinf,
    "ISNAN": np.isnan,
}


def _activation(layer: Layer) -> Kernel:
    compute = choose(layer, "type", _ACTIVATIONS)
    alpha, beta = np.float32(layer.settings["alpha"]), np.float32(layer.settings["beta"])
    return lambda inputs: (_in_float32(lambda x: compute(x, alpha, beta), inputs[0]),)


def _in_float32(compute: Callable[[Any], Any], x: Any) -> Any:
    """Half precision is rounded once, after the whole function."""
    return compute(x.astype(np.float32)).astype(x.dtype) if x.dtype == np.float16 else compute(x)


def _sigmoid(x: Any, alpha: Any, beta: Any) -> Any:
    return np.reciprocal(1 + np.exp(-x))


def _selu(x: Any, alpha: Any, beta: Any) -> Any:
    return np.where(x > 0, beta * x, beta * (alpha * np.exp(np.minimum(x, 0)) - alpha))


def _gelu_erf(x: Any, alpha: Any, beta: Any) -> Any:
    half = x.dtype.type(0.5)
    return half * x * (1 + _erf_of(x * x.dtype.type(math.sqrt(0.5))))


def _gelu_tanh(x: Any, alpha: Any, beta: Any) -> Any:
    of = x.dtype.type
    return of(0.5) * x * (1 + np.tanh(of(math.sqrt(2 / math.pi)) * (x + of(0.044715) * x * x * x)))


_ACTIVATIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "RELU": lambda x, alpha, beta: np.maximum(x, 0),
    "SIGMOID": _sigmoid,
    "TANH": lambda x, alpha, beta: np.tanh(x),
    "LEAKY_RELU": lambda x, alpha, beta: np.where(x >= 0, x, alpha * x),
    "ELU": lambda x, alpha, beta: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "SELU": _selu,
    "SOFTSIGN": lambda x, alpha, beta: x / (1 + np.abs(x)),
    "SOFTPLUS": lambda x, alpha, beta: alpha * np.logaddexp(beta * x, x.dtype.type(0)),
    "CLIP": lambda x, alpha, beta: np.maximum(alpha, np.minimum(beta, x)),
    "HARD_SIGMOID": lambda x, alpha, beta: np.maximum(0, np.minimum(1, alpha * x + beta)),
    "SCALED_TANH": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "THRESHOLDED_RELU": lambda x, alpha, beta: np.where(x > alpha, x, x.dtype.type(0)),
    "GELU_ERF": _gelu_erf,
    "GELU_TANH": _gelu_tanh,
}


def _parametric_relu(layer: Layer) -> Kernel:
    return lambda inputs: (np.where(inputs[0] < 0, inputs[1] * inputs[0], inputs[0]),)


def _select(layer: Layer) -> Kernel:
    return lambda inputs: (np.where(inputs[0], inputs[1], inputs[2]),)


def _cast(layer: Layer) -> Kernel:
    dtype = np.dtype(layer.outputs[0].dtype)
    return lambda inputs: (inputs[0].astype(dtype, copy=False),)


def _reduce(layer: Layer) -> Kernel:
    axes, keep = axes_of(layer.settings["axes"], mask_rank(layer)), layer.settings["keep_dims"]
    if layer.settings["op"] == "NONE":
        return lambda inputs: (inputs[0],)
    compute = choose(layer, "op", _REDUCTIONS)
    return lambda inputs: (compute(inputs[0], axes, keep),)


_REDUCTIONS: dict[str, Callable[[Any, tuple[int, ...], bool], Any]] = {
    "SUM": lambda x, axes, keep: x.sum(axes, dtype=_sum_dtype(x), keepdims=keep).astype(x.dtype),
    "AVG": lambda x, axes, keep: x.mean(axes, dtype=_sum_dtype(x), keepdims=keep).astype(x.dtype),
    "PROD": lambda x, axes, keep: x.prod(axes, dtype=x.dtype, keepdims=keep),
    "MAX": lambda x, axes, keep: x.max(axes, keepdims=keep),
    "MIN": lambda x, axes, keep: x.min(axes, keepdims=keep),
}


def _sum_dtype(x: Any) -> Any:
    return np.float32 if x.dtype == np.float16 else x.dtype


def _softmax(layer: Layer) -> Kernel:
    axes = axes_of(layer.settings["axes"], mask_rank(layer))

    def softmax(inputs: Sequence[Any]) -> Sequence[Any]:
        x = inputs[0].astype(_sum_dtype(inputs[0]), copy=False)
        raised = np.exp(x - x.max(axes, keepdims=True))
        return ((raised / raised.sum(axes, keepdims=True)).astype(inputs[0].dtype, copy=False),)

    return softmax


def _cumulative(layer: Layer) -> Kernel:
    choose(layer, "op", {"SUM": None})
    exclusive, reverse = layer.settings["exclusive"], layer.settings["reverse"]

    def cumulative(inputs: Sequence[Any]) -> Sequence[Any]:
        x, axis = inputs[0], int(inputs[1].item())
        x = np.flip(x, axis) if reverse else x
        summed = np.cumsum(x, axis, dtype=x.dtype)
        summed = summed - x if exclusive else summed
        return (np.flip(summed, axis) if reverse else summed,)

    return cumulative


def _normalization(layer: Layer) -> Kernel:
    axes, groups = axes_of(layer.settings["axes"], mask_rank(layer)), layer.settings["num_groups"]
    epsilon = np.float32(layer.settings["epsilon"])

    def normalization(inputs: Sequence[Any]) -> Sequence[Any]:
        x, scale, bias = (array.astype(np.float32, copy=False) for array in inputs)
        shape, over = x.shape, axes
        if groups > 1:
            scale, bias = (_by_channel(array, shape[1]) for array in (scale, bias))
            x = x.reshape(shape[0], groups, shape[1] // groups, *shape[2:])
            over = tuple(range(2, x.ndim))
        centred = x - x.mean(over, keepdims=True)
        variance = np.square(centred).mean(over, keepdims=True)
        normal = (centred / np.sqrt(variance + epsilon)).reshape(shape)
        return ((normal * scale + bias).astype(inputs[0].dtype, copy=False),)

    return normalization


def _by_channel(x: Any, channels: int) -> Any:
    """A factor (1, groups, 1, ...), which each channel of a group shares, as one a channel."""
    return x.repeat(channels // x.shape[1], 1)


def _scale(layer: Layer) -> Kernel:
    choose(layer, "mode", {"UNIFORM": None, "CHANNEL": None, "ELEMENTWISE": None})
    given, channel = layer.settings, layer.settings["channel_axis"]

    def weights(name: str, rank: int) -> Any:
        found = given[name]
        return found.reshape(-1, *[1] * (rank - channel - 1)) if given["mode"] == "CHANNEL" else found

    def scale(inputs: Sequence[Any]) -> Sequence[Any]:
        x = inputs[0]
        if given["mode"] == "ELEMENTWISE":
            factors = {name: given[name].reshape(x.shape[channel:]) if given[name].size else given[name] for name in _SCALE}
        else:
            factors = {name: weights(name, x.ndim) for name in _SCALE}
        x = x * factors["scale"] if factors["scale"].size else x
        x = x + factors["shift"] if factors["shift"].size else x
        return (x ** factors["power"] if factors["power"].size else x,)

    return scale


_SCALE = ("scale", "shift", "power")


def _matrix_multiply(layer: Layer) -> Kernel:
    first, second = layer.settings["op0"], layer.settings["op1"]

    def matrix_multiply(inputs: Sequence[Any]) -> Sequence[Any]:
        a, b = _operand(inputs[0], first), _operand(inputs[1], second)
        if first == "VECTOR":
            a = a[..., np.newaxis, :]
        if second == "VECTOR":
            b = b[..., np.newaxis]
        product = _product(a, b)
        product = product[..., 0] if second == "VECTOR" else product
        product = product[..., 0, :] if first == "VECTOR" and second != "VECTOR" else product
        product = product[..., 0] if first == "VECTOR" and second == "VECTOR" else product
        return (product.astype(inputs[0].dtype, copy=False),)

    return matrix_multiply


def _operand(x: Any, operation: str) -> Any:
    x = x.astype(_sum_dtype(x), copy=False)
    return x.swapaxes(-1, -2) if operation == "TRANSPOSE" else x


def _product(a: Any, b: Any) -> Any:
    if a.ndim > 2 and math.prod(b.shape[:-2]) == 1 and b.ndim <= a.ndim:
        flat = np.ascontiguousarray(a).reshape(-1, a.shape[-1]) @ b.reshape(b.shape[-2:])  # one product in place of many small
        return flat.reshape(*a.shape[:-1], b.shape[-1])
    return a @ b


def _einsum(layer: Layer) -> Kernel:
    equation = layer.settings["equation"]
    return lambda inputs: (
        np.einsum(equation, *(x.astype(_sum_dtype(x), copy=False) for x in inputs)).astype(inputs[0].dtype, copy=False),
    )


KERNELS: dict[str, Callable[[Layer], Kernel]] = {
    "ACTIVATION": _activation,
    "CAST": _cast,
    "CUMULATIVE": _cumulative,
    "EINSUM": _einsum,
    "ELEMENTWISE": _elementwise,
    "IDENTITY": _cast,
    "MATRIX_MULTIPLY": _matrix_multiply,
    "NORMALIZATION": _normalization,
    "PARAMETRIC_RELU": _parametric_relu,
    "REDUCE": _reduce,
    "SCALE": _scale,
    "SELECT": _select,
    "SOFTMAX": _softmax,
    "UNARY": _unary,
}
