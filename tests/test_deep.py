"""Deep recurrent networks against their equations in NumPy float64, and as they are exported."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of

from edgeseq.cells import DeepTransitionCell, RNNCell
from edgeseq.models import DeepTransitionRNN, HierarchicalRNN
from edgeseq_export import ExportRequest

FEATURES, H, OUT = 3, 5, 2


def transition(weights, h, x):
    """One step of figure 10.13 b and c, one sequence."""
    u = np.tanh(weights["bias_in"] + weights["weight_in"] @ x)
    W, b = weights["weight_hh"], weights["bias"]
    a = np.tanh(b[0] + weights["weight_ih"] @ u + W[0] @ h) if len(W) > 1 else b[0] + weights["weight_ih"] @ u + W[0] @ h
    for layer in range(1, len(W) - 1):
        a = np.tanh(b[layer] + W[layer] @ a)
    if len(W) > 1:
        a = b[-1] + W[-1] @ a
    if "weight_skip" in weights:
        a = a + weights["weight_skip"] @ h
    return np.tanh(a)


def simple(weights, h, x):
    return np.tanh(weights["bias"] + weights["weight_ih"] @ x + weights["weight_hh"] @ h)


def under(weights, prefix):
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def deep_transition(model, x, h, lengths):
    """Outputs o (T, B, OUT) and states h (B, H), one sequence and one step at a time."""
    weights = float64_of(model)
    V, c, R, r = (weights[n] for n in ("readout.weight", "readout.bias", "hidden.weight", "hidden.bias"))
    o, h = np.zeros((*x.shape[:2], OUT)) + c + V @ np.tanh(r), h.astype(np.float64)
    for b, length in enumerate(lengths):
        for t in range(length):
            h[b] = transition(under(weights, "layer.cell."), h[b], x[t, b])
            o[t, b] = c + V @ np.tanh(r + R @ h[b])
    return {"o": o, "h_out": h}


def hierarchy(model, x, h, lengths):
    """Outputs o (T, B, OUT) and states h (L, B, H), one sequence and one step at a time."""
    weights = float64_of(model)
    V, c = weights["readout.weight"], weights["readout.bias"]
    o, h = np.zeros((*x.shape[:2], OUT)) + c, h.astype(np.float64)
    for b, length in enumerate(lengths):
        for t in range(length):
            below = x[t, b]
            for layer in range(len(h)):
                below = h[layer, b] = simple(under(weights, f"stack.layers.{layer}.cell."), h[layer, b], below)
            o[t, b] = c + V @ below
    return {"o": o, "h_out": h}


def drawn(T, B, layers=None, seed=0):
    random = np.random.default_rng((T, B, seed))
    h = 0.5 * random.standard_normal((B, H) if layers is None else (layers, B, H))
    return {
        "x": random.standard_normal((T, B, FEATURES)).astype(np.float32),
        "h": h.astype(np.float32),
        "lengths": random.integers(1, T + 1, B),
    }


def in_double(inputs):
    return {name: torch.from_numpy(a).double() if a.dtype == np.float32 else torch.from_numpy(a) for name, a in inputs.items()}


@pytest.mark.parametrize(("depth", "skip"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_deep_transitions_are_their_equations(depth, skip):
    model = DeepTransitionRNN(FEATURES, H, OUT, depth=depth, skip=skip).double()
    inputs = drawn(6, 4) | {"lengths": np.array([6, 1, 4, 3])}
    o, h = model(**in_double(inputs))
    expected = deep_transition(model, **inputs)
    np.testing.assert_allclose(o.detach().numpy(), expected["o"], atol=1e-12)
    np.testing.assert_allclose(h.detach().numpy(), expected["h_out"], atol=1e-12)


def test_a_hierarchy_is_its_equations_and_begins_with_zeros():
    model = HierarchicalRNN(RNNCell, FEATURES, H, OUT, layers=3).double()
    inputs = drawn(6, 4, 3) | {"lengths": np.array([6, 1, 4, 3])}
    for h in (inputs["h"], np.zeros_like(inputs["h"])):
        expected = hierarchy(model, inputs["x"], h, inputs["lengths"])
        given = in_double(inputs | {"h": h})
        found = model(given["x"], given["h"] if h.any() else None, given["lengths"])
        for output, (name, exact) in zip(found, expected.items(), strict=True):
            np.testing.assert_allclose(output.detach().numpy(), exact, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("skip", [False, True])
def test_gradients_of_the_step(skip):
    cell = DeepTransitionCell(2, 3, depth=3, skip=skip).double()
    h, x = (torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (3, 2))
    parameters = tuple(cell.parameters())
    assert torch.autograd.gradcheck(lambda h, x, *_: cell((h,), x)[1], (h, x, *parameters))


def test_a_skip_connection_needs_layers_to_skip():
    with pytest.raises(ValueError, match="2 or more"):
        DeepTransitionCell(FEATURES, H, depth=1, skip=True)
    with pytest.raises(ValueError, match="1 or more"):
        DeepTransitionCell(FEATURES, H, depth=0)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("skip", [False, True])
def test_the_shortest_path_between_two_steps_is_depth_matrices_or_the_skip_connection(depth, skip):
    if skip and depth == 1:
        return
    cell = DeepTransitionCell(1, 1, depth=depth, skip=skip).double()
    w, T = 1e-3, 3
    with torch.no_grad():  # every unit is near zero, where tanh is the identity: a path of n weights contributes w to the n
        for name, parameter in cell.named_parameters():
            parameter.fill_(0.0 if "bias" in name else w)
    h = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    end = (h,)
    for _ in range(T):
        end, _ = cell(end, torch.zeros(1, 1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(end[0].sum(), h)
    matrices = 1 if skip else depth
    assert gradient.item() == pytest.approx((w**matrices + (w**depth if skip else 0)) ** T, rel=1e-6)


@pytest.mark.parametrize("skip", [False, True])
def test_a_deep_transition_is_exported_as_one_scan(skip, tmp_path):
    model = DeepTransitionRNN(FEATURES, H, OUT, skip=skip)
    lengths = torch.tensor([5, 2, 4])
    examples = [{"x": torch.randn(T, 3, FEATURES), "h": torch.zeros(3, H), "lengths": lengths} for T in (5, 40)]
    axes = {"x": ("T", "B", None), "h": ("B", None), "lengths": ("B",)}
    request = ExportRequest(model, examples[0], axes, {"h": "h_out"}, ("o", "h_out"), name="transition")
    session = checked_export(request, tmp_path, census={"Scan": 1}, longer=examples[1] if skip else None)
    for T, B in ((1, 1), (7, 1), (12, 3)):
        assert_parity(session, model, lambda a: deep_transition(model, **a), lambda seed, T=T, B=B: drawn(T, B, seed=seed))


def test_a_hierarchy_is_exported_as_a_node_a_group(tmp_path):
    model = HierarchicalRNN(RNNCell, FEATURES, H, OUT, layers=3)
    example = {"x": torch.randn(5, 2, FEATURES), "h": torch.zeros(3, 2, H), "lengths": torch.tensor([5, 2])}
    axes = {"x": ("T", "B", None), "h": (None, "B", None), "lengths": ("B",)}
    request = ExportRequest(model, example, axes, {"h": "h_out"}, ("o", "h_out"), name="hierarchy")
    session = checked_export(request, tmp_path, census={"RNN": 3})
    for T, B in ((1, 1), (12, 3)):
        assert_parity(session, model, lambda a: hierarchy(model, **a), partial(drawn, T, B, 3))
