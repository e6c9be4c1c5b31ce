"""Operators that compute each element from the elements at its place."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseq_export.graph64.node import Build, Kernel, Node, UnknownOperator, dtype_of

_erf_of = np.frompyfunc(math.erf, 1, 1)


def erf(x: Any) -> Any:
    """The error function, element by element."""
    return np.asarray(_erf_of(x), np.float64)


def sigmoid(x: Any) -> Any:
    """The logistic function, of which no exponential overflows."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return np.logaddexp(x, 0)


def elu(x: Any, alpha: float) -> Any:
    """As it is above zero, alpha (exp(x) - 1) below."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky(x: Any, alpha: Any) -> Any:
    """As it is above zero, alpha times as much below."""
    return np.where(x >= 0, x, alpha * x)


def hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    """A line between 0 and 1."""
    return np.clip(alpha * x + beta, 0, 1)


def _dropout(x: Any, ratio: Any = 0.5, training: Any = False) -> Any:
    if training and ratio:
        raise ValueError("it draws random numbers: training_mode is true")
    return x, np.ones(x.shape, bool)


def _divide(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    quotient = a // b  # rounded down; ONNX Runtime's rounds towards zero, as C does
    return quotient + ((quotient * b != a) & ((a < 0) != (b < 0))).astype(a.dtype)


def _power(a: Any, b: Any) -> Any:
    return np.power(a.astype(np.float64), b).astype(a.dtype)  # the type is the base's


def _mod(node: Node) -> Kernel:
    return np.fmod if node.get("fmod", 0) else np.mod


def _clip(x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = (None if bound is None else bound.reshape(()) for bound in (low, high))
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)  # where the bounds cross, the upper one


def _gelu(node: Node) -> Kernel:
    if node.get("approximate", "none") == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return lambda x: 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def _selu(node: Node) -> Kernel:
    # The defaults of ONNX's page are those of float32, as numbers of float64.
    alpha, gamma = (
        node.get("alpha", float(np.float32(1.67326319217681884765625))),
        node.get("gamma", float(np.float32(1.05070102214813232421875))),
    )
    return lambda x: gamma * elu(x, alpha)


def _celu(node: Node) -> Kernel:
    alpha = node.get("alpha", 1.0)
    return lambda x: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _cast(node: Node) -> Kernel:
    if node.get("to") > 13:  # past DOUBLE, the last of those that NumPy has: bfloat16 and 8 bits or fewer
        raise UnknownOperator(f"the graph can't be evaluated in float64: no equations for Cast to element type {node.get('to')}")
    dtype = dtype_of(node.get("to"))
    return lambda x: x.astype(dtype)


def _is_infinite(node: Node) -> Kernel:
    positive, negative = node.get("detect_positive", 1), node.get("detect_negative", 1)
    return lambda x: (np.isposinf(x) & bool(positive)) | (np.isneginf(x) & bool(negative))


def _folded(function: Callable[[Any, Any], Any]) -> Kernel:
    return lambda *arrays: functools.reduce(function, arrays)


def _mean(*arrays: Any) -> Any:
    return functools.reduce(np.add, arrays) / len(arrays)


def plain(kernel: Kernel) -> Build:
    """An operator without attributes that matter."""
    return lambda node: kernel


def _with(function: Callable[..., Any], **defaults: float) -> Build:
    """An operator whose float attributes are further arguments."""

    def build(node: Node) -> Kernel:
        chosen = [node.get(name, float(np.float32(value))) for name, value in defaults.items()]
        return lambda x: function(x, *chosen)

    return build


_PLAIN: dict[str, Kernel] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Add": np.add,
    "And": np.logical_and,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "CastLike": lambda x, like: x.astype(like.dtype),
    "Ceil": np.ceil,
    "Clip": _clip,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Div": _divide,
    "Dropout": _dropout,
    "Equal": np.equal,
    "Erf": erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "HardSwish": lambda x: x * hard_sigmoid(x, 1 / 6, 0.5),
    "Identity": lambda x: x,
    "IsNaN": np.isnan,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": _folded(np.maximum),
    "Mean": _mean,
    "Min": _folded(np.minimum),
    "Mish": lambda x: x * np.tanh(softplus(x)),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "PRelu": leaky,
    "Pow": _power,
    "Reciprocal": lambda x: 1 / x,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "Sigmoid": sigmoid,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Sum": _folded(np.add),
    "Tan": np.tan,
    "Tanh": np.tanh,
    "Where": np.where,
    "Xor": np.logical_xor,
}
ELEMENTWISE: dict[str, Build] = {
    **{name: plain(kernel) for name, kernel in _PLAIN.items()},
    "Cast": _cast,
    "Celu": _celu,
    "Elu": _with(elu, alpha=1.0),
    "Gelu": _gelu,
    "HardSigmoid": _with(hard_sigmoid, alpha=0.2, beta=0.5),
    "IsInf": _is_infinite,
    "LeakyRelu": _with(leaky, alpha=0.01),
    "Mod": _mod,
    "Selu": _selu,
    "ThresholdedRelu": _with(lambda x, alpha: np.where(x > alpha, x, 0), alpha=1.0),
}
