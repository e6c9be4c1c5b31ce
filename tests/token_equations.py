"""Recurrences over tokens in NumPy float64, one sequence and one step at a time: what the models of tokens are held to."""

from __future__ import annotations

import numpy as np
from systems import log_softmax, sigmoid


def rnn(w, x, state):
    (h,) = state
    h = np.tanh(w["bias"] + w["weight_ih"] @ x + w["weight_hh"] @ h)
    return (h,), h


def gru(w, x, state):
    (h,) = state
    U_r, U_z, U_n = np.split(w["weight_ih"], 3)
    W_r, W_z, W_n = np.split(w["weight_hh"], 3)
    b_r, b_z, b_n = np.split(w["bias"], 3)
    r = sigmoid(b_r + U_r @ x + W_r @ h)
    z = sigmoid(b_z + U_z @ x + W_z @ h)
    n = np.tanh(b_n + U_n @ x + r * (W_n @ h + w["bias_hn"]))
    h = z * h + (1 - z) * n
    return (h,), h


def lstm(w, x, state):
    h, s = state
    (U_g, U_f, U, U_o), (W_g, W_f, W, W_o), (b_g, b_f, b, b_o) = (np.split(w[n], 4) for n in ("weight_ih", "weight_hh", "bias"))
    p_g, p_f, p_o = w["peephole"]
    g = sigmoid(b_g + U_g @ x + W_g @ h + p_g * s)
    f = sigmoid(b_f + U_f @ x + W_f @ h + p_f * s)
    s_new = f * s + g * sigmoid(b + U @ x + W @ h)
    h_new = np.tanh(s_new) * sigmoid(b_o + U_o @ x + W_o @ h + p_o * s_new)
    return (h_new, s_new), h_new


CELLS = {"RNNCell": rnn, "GRUCell": gru, "LSTMCell": lstm}


def part(weights, prefix):
    """The weights below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def decoded(weights, cell, previous, state, context=None):
    """log softmax(c + V h_t) of one sequence, (T, V), and the last state.

    Args:
        weights: of a `TokenDecoder`.
        cell: the name of its cell.
        previous: tokens (T,) that stand before each step.
        state: each (H,).
        context: (T, C).
    """
    w = part(weights, "layer.cell.")
    rows = []
    for t, token in enumerate(previous):
        x = weights["embedding.weight"][token]
        x = x if context is None else np.concatenate([x, context[t]])
        state, h = CELLS[cell](w, x, state)
        rows.append(log_softmax(weights["readout.bias"] + weights["readout.weight"] @ h))
    return np.array(rows), state


def scored(weights, cell, y, state, context=None):
    """log p(y_1), log p(y_2 | y_1), ... of one sequence y (n,)."""
    start = weights["readout.bias"].size
    rows, _ = decoded(weights, cell, [start, *y[:-1]], state, context)
    return np.array([row[token] for row, token in zip(rows, y, strict=True)])


def zeros(cell, H):
    return tuple(np.zeros(H) for _ in range(2 if cell == "LSTMCell" else 1))


def chosen(weights, cell, noise, state, context=None, end=None):
    """Tokens (T,) that a decoder chooses when it reads its own choices, with noise (T, V), for one sequence."""
    tokens = []
    for t, g in enumerate(noise):
        if end is not None and tokens and tokens[-1] == end:
            tokens.append(end)
            continue
        previous = tokens[-1] if tokens else noise.shape[1]
        rows, state = decoded(weights, cell, [previous], state, None if context is None else context[t : t + 1])
        tokens.append(int(np.argmax(rows[0] + g)))
    return np.array(tokens)


def assert_drawn_from(counts, probabilities):
    """Pearson's statistic of the counts is within four deviations of its mean under the probabilities."""
    expected = counts.sum() * probabilities
    assert expected.min() >= 5, "too few samples for the statistic"
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    assert statistic <= freedom + 4 * np.sqrt(2 * freedom), (statistic, freedom)
