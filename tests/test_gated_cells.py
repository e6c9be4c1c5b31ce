"""Coupled gates, minimal gated unit, LayerNorm-LSTM, projected LSTM, IndRNN: each against its equations, and exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of, sigmoid
from torch import nn

from edgeseq import CoupledLSTMCell, IndRNNCell, LayerNormLSTMCell, MinimalGatedCell, ProjectedLSTMCell, Recurrent
from edgeseq.fused import fused_cell
from edgeseq_export import ExportRequest

FEATURES, H, P = 5, 7, 4


def coupled(w, state, x):
    h, s = state
    (U_f, U_z, U_o), (W_f, W_z, W_o), (b_f, b_z, b_o) = (np.split(w[n], 3) for n in ("weight_ih", "weight_hh", "bias"))
    f = sigmoid(b_f + U_f @ x + W_f @ h)
    s = f * s + (1 - f) * np.tanh(b_z + U_z @ x + W_z @ h)
    h = sigmoid(b_o + U_o @ x + W_o @ h) * np.tanh(s)
    return (h, s), h


def minimal(w, state, x):
    (h,) = state
    (U_f, U_n), (W_f, W_n), (b_f, b_n) = (np.split(w[n], 2) for n in ("weight_ih", "weight_hh", "bias"))
    f = sigmoid(b_f + U_f @ x + W_f @ h)
    n = np.tanh(b_n + U_n @ x + W_n @ (f * h))
    h = (1 - f) * h + f * n
    return (h,), h


def normalised(a, gain, shift=0.0):
    return gain * (a - a.mean()) / np.sqrt(((a - a.mean()) ** 2).mean() + 1e-5) + shift


def layer_norm(w, state, x):
    h, s = state
    a = normalised(w["weight_ih"] @ x, w["norm_x.weight"], w["norm_x.bias"])
    a = a + normalised(w["weight_hh"] @ h, w["norm_h.weight"])
    i, f, z, o = np.split(a, 4)
    s = sigmoid(f) * s + sigmoid(i) * np.tanh(z)
    h = sigmoid(o) * np.tanh(normalised(s, w["norm_s.weight"], w["norm_s.bias"]))
    return (h, s), h


def projected(w, state, x):
    h, s = state
    i, f, z, o = np.split(w["bias"] + w["weight_ih"] @ x + w["weight_hh"] @ h, 4)
    s = sigmoid(f) * s + sigmoid(i) * np.tanh(z)
    h = w["weight_hr"] @ (sigmoid(o) * np.tanh(s))
    return (h, s), h


def independent(w, state, x):
    (h,) = state
    h = np.maximum(w["bias"] + w["weight_ih"] @ x + w["weight_hh"] * h, 0)
    return (h,), h


CELLS = {
    "coupled": (lambda: CoupledLSTMCell(FEATURES, H), coupled, "LSTM"),
    "minimal": (lambda: MinimalGatedCell(FEATURES, H), minimal, "GRU"),
    "layer-norm": (lambda: LayerNormLSTMCell(FEATURES, H), layer_norm, "Scan"),
    "projected": (lambda: ProjectedLSTMCell(FEATURES, H, P), projected, "Scan"),
    "independent": (lambda: IndRNNCell(FEATURES, H), independent, "RNN"),
}


def made(name):
    """The cell with parameters that are none of its initial zeros and ones."""
    cell = CELLS[name][0]()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return cell


def over_time(name, cell, x, state, lengths, reverse=False):
    """The equations, one sequence and one step at a time: y (T, B, O) and the last states."""
    T, B, _ = x.shape
    weights, states = float64_of(cell), [s.astype(np.float64).copy() for s in state]
    y = np.zeros((T, B, state[0].shape[-1]))
    for n in range(B):
        own = tuple(s[n] for s in states)
        for t in reversed(range(lengths[n])) if reverse else range(lengths[n]):
            own, y[t, n] = CELLS[name][1](weights, own, x[t, n])
        for s, end in zip(states, own, strict=True):
            s[n] = end
    return y, states


def drawn(cell, T, B, seed):
    random = np.random.default_rng(seed)
    arrays = {"x": random.standard_normal((T, B, FEATURES)).astype(np.float32)}
    for name, (size,) in zip("hs", cell.state_shapes, strict=False):
        arrays[name] = 0.5 * random.standard_normal((B, size)).astype(np.float32)
    return arrays | {"lengths": random.integers(1, T + 1, B)}


class OneState(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.layer = Recurrent(cell)

    def forward(self, x, h, lengths):
        y, (h,) = self.layer(x, (h,), lengths)
        return y, h


class TwoStates(OneState):
    def forward(self, x, h, s, lengths):
        y, (h, s) = self.layer(x, (h, s), lengths)
        return y, h, s


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_the_layer_is_the_equations(name, reverse):
    cell = made(name).double()
    arrays = drawn(cell, 6, 3, seed=0)
    arrays["lengths"] = np.array([6, 1, 4])
    x, *state, lengths = arrays.values()
    y, ends = Recurrent(cell, reverse=reverse)(
        torch.from_numpy(x).double(), [torch.from_numpy(s).double() for s in state], torch.from_numpy(lengths)
    )
    expected, expected_ends = over_time(name, cell, x, state, lengths, reverse)
    for found, truth in zip((y, *ends), (expected, *expected_ends), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), truth, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_gradients_of_the_step(name):
    cell = made(name).double()
    state = tuple(torch.randn(2, *shape, dtype=torch.float64, requires_grad=True) for shape in cell.state_shapes)
    x = torch.randn(2, FEATURES, dtype=torch.float64, requires_grad=True)
    weights = tuple(cell.parameters())

    def outputs(x, *rest):
        ends, y = cell(rest[: len(state)], x)
        return y, *ends

    assert torch.autograd.gradcheck(outputs, (x, *state, *weights))


@pytest.mark.parametrize("name", CELLS)
def test_the_exported_graph_is_one_node_that_computes_the_equations(name, tmp_path):
    cell = made(name)
    kind = TwoStates if len(cell.state_shapes) == 2 else OneState
    states = dict(zip("hs", cell.state_shapes, strict=False))

    def examples(T, B):
        return {name: torch.from_numpy(array) for name, array in drawn(cell, T, B, seed=1).items()}

    request = ExportRequest(
        kind(cell),
        examples(5, 3),
        {"x": ("T", "B", None), "lengths": ("B",)} | dict.fromkeys(states, ("B", None)),
        outputs=("y", *(f"{name}_out" for name in states)),
        name=name,
    )
    session = checked_export(request, tmp_path, census={CELLS[name][2]: 1}, longer=examples(11, 2))

    def equations(inputs):
        x, *state, lengths = inputs.values()
        y, ends = over_time(name, cell, x, state, lengths)
        return dict(zip(request.outputs, (y, *ends), strict=True))

    for T, B in ((1, 1), (6, 3), (23, 2)):
        assert_parity(session, request.model, equations, lambda seed, T=T, B=B: drawn(cell, T, B, seed))


def test_the_projected_cell_is_pytorchs_layer():
    cell, layer = ProjectedLSTMCell(FEATURES, H, P), nn.LSTM(FEATURES, H, proj_size=P)
    assert fused_cell(cell) is not None
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "weight_hr"):
            getattr(layer, f"{name}_l0").copy_(getattr(cell, name))
        layer.bias_ih_l0.copy_(cell.bias)
        layer.bias_hh_l0.zero_()
    x = torch.randn(6, 3, FEATURES)
    torch.testing.assert_close(Recurrent(cell)(x)[0], layer(x)[0])


def test_a_projection_that_does_not_narrow_is_refused():
    with pytest.raises(ValueError, match="output_size is 7"):
        ProjectedLSTMCell(FEATURES, 7, 7)
