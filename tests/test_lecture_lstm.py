"""The LSTM of *Deep Learning*, section 10.10, against its equations in NumPy float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgeseq_runtime
from edgeseq import Cell, LSTMCell, Recurrent
from edgeseq_export import export
from edgeseq_runtime.tensors import distance

FEATURES, H = 5, 7


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def equations(cell, x, h, s, lengths=None, reverse=False):
    """Equations 10.40 to 10.44 with peepholes, one sequence and one step at a time, in float64."""
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in cell.named_parameters()}
    (U_g, U_f, U, U_o), (W_g, W_f, W, W_o) = (np.split(weights[n], 4) for n in ("weight_ih", "weight_hh"))
    b_g, b_f, b, b_o = np.split(weights["bias"], 4)
    p_g, p_f, p_o = weights.get("peephole", np.zeros((3, cell.hidden_size)))
    squash = {"sigmoid": sigmoid, "tanh": np.tanh}[cell.squash]
    T, B, _ = x.shape
    y = np.zeros((T, B, cell.hidden_size))
    h, s = h.astype(np.float64).copy(), s.astype(np.float64).copy()
    for n in range(B):
        steps = range(T if lengths is None else lengths[n])
        for t in reversed(steps) if reverse else steps:
            g = sigmoid(b_g + U_g @ x[t, n] + W_g @ h[n] + p_g * s[n])
            f = sigmoid(b_f + U_f @ x[t, n] + W_f @ h[n] + p_f * s[n])
            s_new = f * s[n] + g * squash(b + U @ x[t, n] + W @ h[n])
            q = sigmoid(b_o + U_o @ x[t, n] + W_o @ h[n] + p_o * s_new)
            h[n], s[n] = np.tanh(s_new) * q, s_new
            y[t, n] = h[n]
    return y, h, s


class Layer(nn.Module):
    def __init__(self, cell, reverse=False):
        super().__init__()
        self.layer = Recurrent(cell, reverse=reverse)

    def forward(self, x, h, s, lengths=None):
        y, (h, s) = self.layer(x, (h, s), lengths)
        return y, h, s


VARIANTS = [("sigmoid", True), ("sigmoid", False), ("tanh", True), ("tanh", False)]


def drawn(T, B, seed=0):
    random = np.random.default_rng(seed)
    x, h, s = random.standard_normal((T, B, FEATURES)), random.standard_normal((B, H)), random.standard_normal((B, H))
    return x.astype(np.float32), 0.5 * h.astype(np.float32), 0.5 * s.astype(np.float32)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("squash", "peepholes"), VARIANTS)
def test_the_layer_is_the_equations(squash, peepholes, reverse):
    cell = LSTMCell(FEATURES, H, squash=squash, peepholes=peepholes).double()
    arrays = [a.astype(np.float64) for a in drawn(6, 3)]
    lengths = np.array([6, 1, 4])
    found_y, found_state = Recurrent(cell, reverse=reverse)(
        torch.from_numpy(arrays[0]), [torch.from_numpy(a) for a in arrays[1:]], torch.from_numpy(lengths)
    )
    for found, expected in zip((found_y, *found_state), equations(cell, *arrays, lengths, reverse), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)


def test_gradients_are_those_of_the_step():
    torch.manual_seed(0)
    cell = LSTMCell(3, 2).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Recurrent(cell)(x, lengths=torch.tensor([4, 2]))[0], (x,))


def test_with_tanh_and_no_peepholes_it_is_pytorchs_lstm():
    cell, lstm = LSTMCell(FEATURES, H, squash="tanh", peepholes=False), nn.LSTM(FEATURES, H)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh"):
            getattr(lstm, f"{name}_l0").copy_(getattr(cell, name))
        lstm.bias_ih_l0.copy_(cell.bias)
        lstm.bias_hh_l0.zero_()
    x = torch.randn(6, 3, FEATURES)
    torch.testing.assert_close(Recurrent(cell)(x)[0], lstm(x)[0])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("squash", "peepholes"), VARIANTS)
def test_the_exported_graph_is_one_lstm_node_that_computes_the_equations(squash, peepholes, reverse, tmp_path):
    torch.manual_seed(1)
    cell = LSTMCell(FEATURES, H, squash=squash, peepholes=peepholes)
    path = export(
        Layer(cell, reverse),
        {"x": torch.randn(5, 2, FEATURES), "h": torch.zeros(2, H), "s": torch.zeros(2, H)},
        tmp_path / "lecture.edgeseq",
        axes={"x": ("T", "B", None), "h": ("B", None), "s": ("B", None)},
        outputs=("y", "h_out", "s_out"),
        state=None if reverse else {"h": "h_out", "s": "s_out"},
    )
    nodes = onnx.load_from_string(edgeseq_runtime.open_bundle(path).model()).graph.node
    (node,) = [n for n in nodes if n.op_type in ("LSTM", "Scan", "Loop")]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert node.op_type == "LSTM"
    assert attributes.get("activations", [b"Sigmoid", b"Tanh", b"Tanh"]) == [b"Sigmoid", squash.capitalize().encode(), b"Tanh"]
    assert (len(node.input) == 8 and node.input[7] != "") == peepholes  # P
    session = edgeseq_runtime.load(path)
    for T, B in ((1, 1), (4, 3), (23, 2), (64, 5)):
        runtime, torch32, exact = [], [], []
        for seed in range(32):
            x, h, s = drawn(T, B, seed)
            result = session.run({"x": x, "h": h, "s": s})
            runtime.append(np.concatenate([result[n].reshape(-1) for n in ("y", "h_out", "s_out")]))
            y, state = Recurrent(cell, reverse=reverse)(torch.from_numpy(x), [torch.from_numpy(h), torch.from_numpy(s)])
            torch32.append(np.concatenate([t.detach().numpy().reshape(-1) for t in (y, *state)]))
            exact.append(np.concatenate([a.reshape(-1) for a in equations(cell, x, h, s, reverse=reverse)]))
        measured = distance(*(np.stack(a) for a in (runtime, torch32, exact)))
        assert measured.k <= 4, (T, B, measured)
        assert measured.k999 <= 8, (T, B, measured)


def test_a_cell_without_a_native_node_becomes_one_scan(tmp_path):
    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Recurrent(LeakyCell())

        def forward(self, x, h, lengths):
            y, (h,) = self.layer(x, (h,), lengths)
            return y, h

    path = export(
        Leaky(),
        {"x": torch.randn(5, 2, 3), "h": torch.zeros(2, 4), "lengths": torch.tensor([5, 2])},
        tmp_path / "leaky.edgeseq",
        axes={"x": ("T", "B", None), "h": ("B", None), "lengths": ("B",)},
        outputs=("y", "h_out"),
    )
    assert edgeseq_runtime.open_bundle(path).manifest.census == {"Scan": 1}
    assert edgeseq_runtime.measure_parity(path).passed


class LeakyCell(Cell):
    """A leaky integrator, which ONNX has no node for."""

    def __init__(self):
        super().__init__()
        self.state_shapes = ((4,),)
        self.input, self.recurrent = nn.Linear(3, 4), nn.Linear(4, 4)

    def project(self, x):
        return self.input(x)

    def step(self, state, projected):
        (h,) = state
        h = 0.9 * h + 0.1 * torch.tanh(projected + self.recurrent(h))
        return (h,), h
