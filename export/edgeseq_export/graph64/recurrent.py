"""LSTM, GRU and RNN, from the equations of ONNX's pages: https://onnx.ai/onnx/operators/."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from edgeseq_export.graph64.elementwise import elu, hard_sigmoid, leaky, sigmoid, softplus
from edgeseq_export.graph64.linear import product
from edgeseq_export.graph64.node import Build, Kernel, Node, UnknownOperator

Activation = Callable[[Any], Any]

# Name in lower case -> the function, and the defaults of those of alpha and beta that it takes.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "elu": (elu, (1.0,)),
    "hardsigmoid": (hard_sigmoid, (0.2, 0.5)),
    "leakyrelu": (leaky, (0.01,)),
    "relu": (lambda x: np.maximum(x, 0), ()),
    "scaledtanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), (1.0, 1.0)),
    "sigmoid": (sigmoid, ()),
    "softplus": (softplus, ()),
    "softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "tanh": (np.tanh, ()),
    "thresholdedrelu": (lambda x, alpha: np.where(x >= alpha, x, 0), (1.0,)),
}


class _Weights(NamedTuple):
    """What one direction computes with: W (G*H, I), R (G*H, H), Wb and Rb (G*H,), P (3*H,) or nothing."""

    W: Any
    R: Any
    Wb: Any
    Rb: Any
    P: Any


# (inputs' part of the gates (B, G*H), states) -> next states; the first is the output
_Cell = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]
_Equations = Callable[[Node, _Weights, list[Activation]], _Cell]


def _activations(node: Node, default: list[str]) -> list[list[Activation]]:
    """The activation functions of each direction. Of alpha and beta, each function takes what it has use for, in turn."""
    directions = 2 if node.get("direction", "forward") == "bidirectional" else 1
    names = node.get("activations") or default * directions
    given = iter(node.get("activation_alpha") or ()), iter(node.get("activation_beta") or ())
    made = [_activation(name, *given) for name in names]
    return [made[at : at + len(default)] for at in range(0, len(made), len(default))]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name.lower() not in _FUNCTIONS:
        raise UnknownOperator(f"the graph can't be evaluated in float64: no equations for the activation {name}")
    function, defaults = _FUNCTIONS[name.lower()]
    chosen = [next(values, float(np.float32(default))) for values, default in zip((alphas, betas), defaults, strict=False)]
    return lambda x: function(x, *chosen)


def _clipped(node: Node) -> Activation:
    bound = node.get("clip")
    return (lambda x: x) if bound is None else (lambda x: np.clip(x, -bound, bound))


def _rnn_cell(node: Node, weights: _Weights, functions: list[Activation]) -> _Cell:
    (f,), clip, R = functions, _clipped(node), weights.R.T
    return lambda a, states: (f(clip(a + product(states[0], R) + weights.Rb)),)


def _gru_cell(node: Node, weights: _Weights, functions: list[Activation]) -> _Cell:
    (f, g), clip = functions, _clipped(node)
    H = weights.R.shape[1]
    R, Rh, Rb, Rbh = weights.R[: 2 * H].T, weights.R[2 * H :].T, weights.Rb[: 2 * H], weights.Rb[2 * H :]
    linear_before_reset = node.get("linear_before_reset", 0)

    def step(a: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        (h,) = states
        gates = f(clip(a[:, : 2 * H] + product(h, R) + Rb))
        z, r = gates[:, :H], gates[:, H:]
        candidate = r * (product(h, Rh) + Rbh) if linear_before_reset else product(r * h, Rh) + Rbh
        return ((1 - z) * g(clip(a[:, 2 * H :] + candidate)) + z * h,)

    return step


def _lstm_cell(node: Node, weights: _Weights, functions: list[Activation]) -> _Cell:
    (f, g, h_of), clip = functions, _clipped(node)
    R, H = weights.R.T, weights.R.shape[1]
    Pi, Po, Pf = np.split(weights.P, 3)  # the order of P is i, o, f; of the gates it is i, o, f, c
    input_forget = node.get("input_forget", 0)

    def step(a: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        h, c = states
        i, o, forget, candidate = np.split(a + product(h, R) + weights.Rb, [H, 2 * H, 3 * H], axis=1)
        i = f(clip(i + Pi * c))
        forget = 1 - i if input_forget else f(clip(forget + Pf * c))
        c = forget * c + i * g(clip(candidate))
        return f(clip(o + Po * c)) * h_of(c), c

    return step


def _sequence(cell: _Cell, a: Any, states: tuple[Any, ...], lengths: Any, backwards: bool) -> tuple[Any, tuple[Any, ...]]:
    """The output (T, B, H) and the last states; behind its length, a sequence's output is 0 and its states stay."""
    T, H = a.shape[0], states[0].shape[1]
    y = np.zeros((T, a.shape[1], H))
    # Backwards, a sequence begins with its own last step: those that are longer are at work before it.
    for t in reversed(range(T)) if backwards else range(T):
        following = cell(a[t], states)
        if lengths is None:
            states = following
            y[t] = states[0]
        else:
            live = (t < lengths)[:, None]
            states = tuple(np.where(live, new, old) for new, old in zip(following, states, strict=True))
            y[t] = np.where(live, states[0], 0)
    return y, states


def _layer(equations: _Equations, gates: int, states: int, default: list[str]) -> Build:
    def build(node: Node) -> Kernel:
        direction, batch_first = node.get("direction", "forward"), bool(node.get("layout", 0))
        functions = _activations(node, default)

        def run(x: Any, W: Any, R: Any, b: Any = None, lengths: Any = None, *further: Any) -> tuple[Any, ...]:
            x = x.swapaxes(0, 1) if batch_first else x
            D, H = R.shape[0], R.shape[2]
            initial = [*further, *[None] * 3][:states]
            initial = [s.swapaxes(0, 1) if s is not None and batch_first else s for s in initial]
            initial = [np.zeros((D, x.shape[1], H)) if s is None else s for s in initial]
            b = np.zeros((D, 2 * gates * H)) if b is None else b
            P = further[states] if len(further) > states and further[states] is not None else np.zeros((D, 3 * H))
            outputs, last = [], []
            for d in range(D):
                weights = _Weights(W[d], R[d], b[d, : gates * H], b[d, gates * H :], P[d])
                cell = equations(node, weights, functions[d])
                backwards = direction == "reverse" or d == 1
                y, ends = _sequence(cell, product(x, weights.W.T) + weights.Wb, tuple(s[d] for s in initial), lengths, backwards)
                outputs.append(y)
                last.append(ends)
            final = [np.stack(ends) for ends in zip(*last, strict=True)]  # each (D, B, H)
            y = np.stack(outputs, axis=1)  # (T, D, B, H)
            if batch_first:
                return y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in final)
            return y, *final

        return run

    return build


RECURRENT: dict[str, Build] = {
    "GRU": _layer(_gru_cell, 3, 1, ["Sigmoid", "Tanh"]),
    "LSTM": _layer(_lstm_cell, 4, 2, ["Sigmoid", "Tanh", "Tanh"]),
    "RNN": _layer(_rnn_cell, 1, 1, ["Tanh"]),
}
