"""Recurrent networks over grids against their equations in NumPy float64, and as nodes over rows and columns."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from systems import assert_parity, checked_export, float64_of

from edgeseq import GRUCell, RNNCell
from edgeseq.models import GridClassifier, GridRNN
from edgeseq_export import ExportRequest

C, F, K = 2, 3, 4


def step(weights, name, h, x):
    W, U, b = (weights[f"{name}.{part}"] for part in ("weight_hh", "weight_ih", "bias"))
    return np.tanh(b + U @ x + W @ h)


def outputs(weights, x):
    """O (H, W, 2F) of one grid x (H, W, C), from the recursions of the class, a grid point at a time."""
    H, W, _ = x.shape
    right, left, down, up = (np.zeros((H + 2, W + 2, F)) for _ in range(4))  # a border of zeros is every first step's state
    at = [(i, j) for i in range(1, H + 1) for j in range(1, W + 1)]
    for i, j in at:
        right[i, j] = step(weights, "along_rows.cell", right[i, j - 1], x[i - 1, j - 1])
    for i, j in reversed(at):
        left[i, j] = step(weights, "along_rows.backward", left[i, j + 1], x[i - 1, j - 1])
    across = np.concatenate([right, left], axis=-1)
    for i, j in at:
        down[i, j] = step(weights, "along_columns.cell", down[i - 1, j], across[i, j])
    for i, j in reversed(at):
        up[i, j] = step(weights, "along_columns.backward", up[i + 1, j], across[i, j])
    return np.concatenate([down, up], axis=-1)[1:-1, 1:-1]


def logits(model, x):
    """Logits (B, K) of images x (H, W, B, C)."""
    weights = float64_of(model)
    grid = {name.removeprefix("grid."): w for name, w in weights.items()}
    means = [outputs(grid, x[:, :, b].astype(np.float64)).mean((0, 1)) for b in range(x.shape[2])]
    return np.stack(means) @ weights["readout.weight"].T + weights["readout.bias"]


def drawn(H, W, B, seed=0):
    return {"x": np.random.default_rng((H, W, B, seed)).standard_normal((H, W, B, C)).astype(np.float32)}


def test_every_output_is_the_equations():
    grid = GridRNN(RNNCell, C, F).double()
    x = np.random.default_rng(0).standard_normal((4, 5, 3, C))
    found = grid(torch.from_numpy(x)).detach().numpy()
    expected = np.stack([outputs(float64_of(grid), x[:, :, b]) for b in range(3)], axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_images_logits_are_the_mean_of_every_points():
    model = GridClassifier(GridRNN(RNNCell, C, F), K).double()
    x = torch.randn(4, 5, 3, C, dtype=torch.float64)
    np.testing.assert_allclose(model(x).detach().numpy(), logits(model, x.numpy()), atol=1e-12)


def test_gradients_are_those_of_the_outputs():
    grid = GridRNN(GRUCell, 1, 2).double()
    x = torch.randn(3, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(grid, (x,))


@pytest.mark.parametrize("both_ways", [True, False])
def test_every_output_sees_the_whole_grid_of_its_own_image(both_ways):
    H, W, B = 4, 3, 2
    grid = GridRNN(GRUCell, C, F, both_ways=both_ways).double()
    x = torch.randn(H, W, B, C, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(grid, x)  # (H, W, B, 2F, H, W, B, C)
    seen = (jacobian.abs().sum((3, 7)) > 0).numpy()  # (H, W, B, H, W, B)
    for i, j, b, row, column, image in np.ndindex(seen.shape):
        reached = both_ways or (row <= i and column <= j)
        assert seen[i, j, b, row, column, image] == (image == b and reached), (i, j, b, row, column, image)


def test_the_exported_graph_is_a_node_over_rows_and_one_over_columns(tmp_path):
    model = GridClassifier(GridRNN(RNNCell, C, F), K)
    request = ExportRequest(model, {"x": torch.randn(7, 8, 3, C)}, {"x": ("H", "W", "B", None)}, outputs=("logits",), name="grid")
    session = checked_export(request, tmp_path, census={"RNN": 2})
    for H, W, B in ((1, 1, 1), (8, 8, 1), (3, 6, 2)):
        assert_parity(session, model, lambda a: {"logits": logits(model, a["x"])}, partial(drawn, H, W, B))
