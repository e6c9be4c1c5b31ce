"""Bidirectional networks against their equations in NumPy float64, and as one bidirectional node a layer."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
import torch
from systems import assert_parity, checked_export, float64_of, sigmoid

import edgeseq_runtime
from edgeseq import GRUCell, LSTMCell, RNNCell
from edgeseq.models import BidirectionalRNN
from edgeseq_export import ExportRequest

FEATURES, H, OUT = 3, 4, 2
CELLS = {"RNN": RNNCell, "LSTM": partial(LSTMCell, squash="tanh", peepholes=False), "GRU": GRUCell}


def rnn_step(weights, h, x):
    return np.tanh(weights["bias"] + weights["weight_ih"] @ x + weights["weight_hh"] @ h[0])[None]


def lstm_step(weights, state, x):
    h, s = state
    i, f, z, o = np.split(weights["bias"] + weights["weight_ih"] @ x + weights["weight_hh"] @ h, 4)
    new = sigmoid(f) * s + sigmoid(i) * np.tanh(z)
    return np.stack([np.tanh(new) * sigmoid(o), new])


def gru_step(weights, h, x):
    from_x = np.split(weights["bias"] + weights["weight_ih"] @ x, 3)
    from_h = np.split(weights["weight_hh"] @ h[0], 3)
    r, z = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
    n = np.tanh(from_x[2] + r * (from_h[2] + weights["bias_hn"]))
    return (z * h[0] + (1 - z) * n)[None]


STEPS = {"RNN": (rnn_step, 1), "LSTM": (lstm_step, 2), "GRU": (gru_step, 1)}


def equations(kind, model, x, lengths):
    """Figure 10.11, layer after layer, one sequence and one step at a time: o (T, B, O)."""
    weights = float64_of(model)
    step, parts = STEPS[kind]
    T, B, _ = x.shape
    o = np.zeros((T, B, OUT)) + weights["readout.bias"]
    for b in range(B):
        L = lengths[b]
        sequence = x[:L, b].astype(np.float64)
        for layer in range(len(model.stack.layers)):
            halves = []
            for cell, order in (("cell", range(L)), ("backward", reversed(range(L)))):
                prefix = f"stack.layers.{layer}.{cell}."
                own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
                state, half = np.zeros((parts, H)), np.zeros((L, H))
                for t in order:
                    state = step(own, state, sequence[t])
                    half[t] = state[0]
                halves.append(half)
            sequence = np.concatenate(halves, axis=1)
        o[:L, b] += sequence @ weights["readout.weight"].T
    return o


def drawn(T, B, seed=0):
    random = np.random.default_rng((T, B, seed))
    return {"x": random.standard_normal((T, B, FEATURES)).astype(np.float32), "lengths": random.integers(1, T + 1, B)}


@pytest.mark.parametrize("kind", CELLS)
def test_every_output_is_the_equations(kind):
    model = BidirectionalRNN(CELLS[kind], FEATURES, H, OUT, layers=2).double()
    assert len(model.stack.layers) == 2
    x, lengths = np.random.default_rng(0).standard_normal((6, 4, FEATURES)), np.array([6, 1, 4, 3])
    found = model(torch.from_numpy(x), torch.from_numpy(lengths)).detach().numpy()
    np.testing.assert_allclose(found, equations(kind, model, x, lengths), atol=1e-12)
    whole = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(whole, equations(kind, model, x, [6] * 4), atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_are_those_of_the_outputs(kind):
    model = BidirectionalRNN(CELLS[kind], 2, 2, 1, layers=2).double()
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: model(x, torch.tensor([4, 2])), (x,))


def test_every_output_sees_every_step_of_its_own_sequence_and_nothing_past_its_end():
    model = BidirectionalRNN(GRUCell, FEATURES, H, OUT).double()
    T, lengths = 5, torch.tensor([5, 3])
    x = torch.randn(T, 2, FEATURES, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x, lengths), x)  # (T, B, OUT, T, B, FEATURES)
    seen = jacobian.abs().sum((2, 5)) > 0  # (T, B, T, B)
    live = torch.arange(T)[:, None] < lengths  # (T, B)
    expected = live[:, :, None, None] & live[None, None] & torch.eye(2, dtype=torch.bool)[None, :, None]
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind == "LSTM" else pytest.mark.slow) for kind in CELLS])
def test_the_exported_graph_is_one_bidirectional_node_a_layer(kind, tmp_path):
    model = BidirectionalRNN(CELLS[kind], FEATURES, H, OUT, layers=2)
    examples = [{"x": torch.randn(T, 3, FEATURES), "lengths": torch.tensor([T, 2, 4])} for T in (5, 40)]
    request = ExportRequest(model, examples[0], {"x": ("T", "B", None), "lengths": ("B",)}, outputs=("o",), name=kind.lower())
    longer = examples[1] if kind == "GRU" else None
    session = checked_export(request, tmp_path, census={kind: 2}, longer=longer)
    graph = onnx.load_from_string(edgeseq_runtime.open_bundle(tmp_path / f"{request.name}.edgeseq").model()).graph
    directions = [onnx.helper.get_attribute_value(a) for n in graph.node for a in n.attribute if a.name == "direction"]
    assert directions == [b"bidirectional"] * 2
    for T, B in ((1, 1), (7, 1), (12, 3)):
        assert_parity(session, model, lambda a: {"o": equations(kind, model, a["x"], a["lengths"])}, partial(drawn, T, B))
