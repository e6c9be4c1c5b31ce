"""Recurrent layers whose products are of integers, in NumPy: what the operators are defined to compute, whichever kernel does.

`rows_product` is MatMulNBits with integer products (every row and block of it rounded by itself), `tensor_product` is what
DynamicQuantizeLSTM does (one scale for all that is multiplied at once). `exact_product` rounds nothing. Weights come in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Product = Callable[[Array, Array], Array]  # of rows (..., K) and a matrix (N, K): (..., N)

ACTIVATIONS = {"Tanh": np.tanh, "Relu": lambda x: np.maximum(x, 0)}


class Weights(NamedTuple):
    """Of a layer, in ONNX's layout: W (directions, gates*H, K), R (directions, gates*H, H), b (directions, 2*gates*H)."""

    W: Array
    R: Array
    b: Array


def exact_product(rows: Array, matrix: Array) -> Array:
    return rows.astype(np.float64) @ matrix.T.astype(np.float64)


def rows_product(bits: int, block: int) -> Product:
    """Each block of a row of either factor has a scale of its own; the integers are symmetric about zero."""

    def product(rows: Array, matrix: Array) -> Array:
        total = np.zeros((*rows.shape[:-1], len(matrix)))
        for start in range(0, rows.shape[-1], block):
            x, x_unit = rounded(rows[..., start : start + block].astype(np.float32), 127)
            w, w_unit = rounded(matrix[:, start : start + block], 2 ** (bits - 1) - 1)
            total += (x @ w.T) * x_unit * w_unit.T
        return total

    return product


def rounded(values: Array, steps: int) -> tuple[Array, Array]:
    """Whole numbers of -steps to steps, and their unit, along the last axis."""
    unit = (np.abs(values).max(-1, keepdims=True) / steps).astype(np.float32)
    unit = np.where(unit == 0, np.float32(1), unit)
    return np.rint(values / unit).astype(np.int64), unit.astype(np.float64)


def tensor_product(rows: Array, matrix: Array) -> Array:
    """Rows are 0 to 255 with one scale and zero point for all; weights -63 to 63 with a scale a column."""
    rows = rows.astype(np.float32)
    low, high = min(np.float32(0), rows.min()), max(np.float32(0), rows.max())
    unit = np.float32(high - low) / np.float32(255) if high > low else np.float32(1)
    zero = np.rint(-low / unit)
    x = np.clip(np.rint(rows / unit) + zero, 0, 255).astype(np.int64) - int(zero)
    w, w_unit = rounded(matrix, 63)
    return (x @ w.T) * (np.float64(unit) * w_unit.T)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def layer(
    op: str,
    weights: Weights,
    x: Array,
    *,
    of_input: Product = exact_product,
    of_state: Product = exact_product,
    ways: Sequence[int] = (0,),
    lengths: Array | None = None,
    states: Sequence[Array] = (),
    reset_first: bool = False,
    activations: Sequence[str] = ("Tanh",),
) -> tuple[Array, ...]:
    """Y (T, directions, B, H), then the last states (directions, B, H).

    Args:
        op: LSTM, GRU or RNN.
        weights: in ONNX's layout and order of gates.
        x: (T, B, K).
        of_input: how the input is multiplied.
        of_state: how the state is multiplied.
        ways: 0 forward, 1 reverse, of each direction.
        lengths: of the sequences; full unless given.
        states: the first ones, (directions, B, H) each; zeros unless given.
        reset_first: GRU with linear_before_reset=0.
        activations: of an RNN, one a direction.
    """
    T, B, _ = x.shape
    H, count = weights.R.shape[2], 2 if op == "LSTM" else 1
    lengths = np.full(B, T) if lengths is None else lengths
    outputs, last = [], []
    for at, reverse in enumerate(ways):
        W, R, b = (part[at] for part in weights)
        gates = len(R) // H
        projected = of_input(x, W) + b[: gates * H]
        carried = tuple(states[index][at] if states else np.zeros((B, H)) for index in range(count))
        y = np.zeros((T, B, H))
        for t in range(T - 1, -1, -1) if reverse else range(T):
            activation = ACTIVATIONS[activations[min(at, len(activations) - 1)]]
            new = _step(op, projected[t], carried, R, b[gates * H :], of_state, reset_first, activation)
            live = (t < lengths)[:, None]
            carried = tuple(np.where(live, after, before) for after, before in zip(new, carried, strict=True))
            y[t] = np.where(live, new[0], 0)
        outputs.append(y)
        last.append(carried)
    return (np.stack(outputs, 1), *(np.stack(parts) for parts in zip(*last, strict=True)))


def _step(
    op: str,
    x: Array,
    carried: tuple[Array, ...],
    R: Array,
    b: Array,
    product: Product,
    reset_first: bool,
    activation: Callable[[Array], Array],
) -> tuple[Array, ...]:
    h, H = carried[0], R.shape[1]
    if op == "RNN":
        return (activation(x + product(h, R) + b),)
    if op == "LSTM":
        i, o, f, g = np.split(x + product(h, R) + b, 4, axis=-1)
        c = sigmoid(f) * carried[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    xz, xr, xn = np.split(x, 3, axis=-1)
    if reset_first:
        hz, hr = np.split(product(h, R[: 2 * H]) + b[: 2 * H], 2, axis=-1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        n = np.tanh(xn + product(r * h, R[2 * H :]) + b[2 * H :])
    else:
        hz, hr, hn = np.split(product(h, R) + b, 3, axis=-1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        n = np.tanh(xn + r * hn)
    return ((1 - z) * n + z * h,)


def relative(found: Array, expected: Array) -> float:
    """Rms error over the rms of what is expected."""
    error = found.astype(np.float64) - expected
    return float(np.sqrt((error**2).mean() / (expected.astype(np.float64) ** 2).mean()))
