"""The diagnostics against analytic values, NumPy loops, finite differences and plain autograd, in float64."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from edgeseq import Cell, IndRNNCell, LSTMCell, ProjectedLSTMCell, Recurrent
from edgeseq.diagnostics import (
    DiagnosticsError,
    LinearRecurrence,
    Recurrence,
    diagnose,
    gradient_norms,
    jacobian_product,
    lyapunov_exponents,
    mean_jacobian,
    output_gradients,
    recurrence,
    recurrences,
    saturation,
    slice_through_rnn,
    spectral_radius,
    state_jacobian,
)

PAGE = Path(__file__).parent.parent / "docs" / "diagnostics.md"


def close(found, expected, tolerance=1e-9):
    """Within a relative tolerance of the largest expected value."""
    expected = np.asarray(expected)
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def scaled(W, radius):
    return W * (radius / np.abs(np.linalg.eigvals(W)).max())


def random_matrix(kind, radius, n=12):
    W = np.random.default_rng(3).standard_normal((n, n))
    return scaled(W + W.T if kind == "symmetric" else W, radius)


def linear_map(W, T=50, B=2):
    """h_t = W h_{t-1} as a recurrence without input."""
    n = len(W)
    weight = torch.tensor(W)
    return Recurrence(lambda s, x: s @ weight.T, torch.zeros(T, B, 1).double(), torch.randn(B, n).double(), torch.full((B,), T))


def tanh_rnn(H=5, gain=1.0):
    layer = nn.RNN(3, H).double()
    nn.init.normal_(layer.weight_hh_l0, std=gain / math.sqrt(H))
    return layer


def numpy_tanh_states(layer, x):
    """States (T+1, B, H) of h_t = tanh(U x + W h + b), and ∂h_t/∂h_{t-1} = diag(1-h_t²) W (T, B, H, H)."""
    U, W, b, c = (p.detach().numpy() for p in layer.parameters())
    states, jacobians = [np.zeros((x.shape[1], len(W)))], []
    for row in x.numpy():
        states.append(np.tanh(row @ U.T + states[-1] @ W.T + b + c))
        jacobians.append((1 - states[-1] ** 2)[:, :, None] * W)
    return np.stack(states), np.stack(jacobians)


def finite_differences(step, state, x, epsilon=1e-6):
    """∂s'/∂s (B, n, n) by central differences."""
    columns = []
    for i in range(state.shape[1]):
        shift = torch.zeros_like(state)
        shift[:, i] = epsilon
        with torch.no_grad():
            columns.append((step(state + shift, x) - step(state - shift, x)) / (2 * epsilon))
    return torch.stack(columns, dim=2)


# The linear recurrence


@pytest.mark.parametrize("kind", ["symmetric", "general"])
@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_the_eigendecomposition_predicts_state_gradient_and_growth(kind, radius):
    W = random_matrix(kind, radius)
    predicted = LinearRecurrence.of(torch.tensor(W))
    h0 = np.random.default_rng(0).standard_normal((4, len(W)))
    h, product = h0, np.eye(len(W))
    for t in range(201):
        if t in (0, 1, 2, 7, 50, 200):
            close(predicted.state(torch.tensor(h0), t), h)
            close(predicted.jacobian(t), product)
            close(predicted.gradient(torch.tensor(h0), t), h0 @ product)
            assert predicted.growth(t) == pytest.approx(np.linalg.svd(product)[1][0], rel=1e-9)
        h, product = h @ W.T, W @ product
    assert predicted.radius == pytest.approx(radius, rel=1e-12)
    assert spectral_radius(torch.tensor(W)) == pytest.approx(radius, rel=1e-12)


def test_the_prediction_is_the_gradient_that_autograd_measures():
    W = torch.tensor(random_matrix("general", 1.05))
    h0 = torch.randn(len(W), dtype=torch.float64, requires_grad=True)
    h = h0
    for _ in range(40):
        h = W @ h
    g = torch.randn(len(W), dtype=torch.float64)
    (measured,) = torch.autograd.grad(h, h0, g)
    close(LinearRecurrence.of(W).gradient(g, 40), measured.numpy())


def test_a_symmetric_recurrence_grows_as_its_radius_and_is_real():
    predicted = LinearRecurrence.of(torch.tensor(random_matrix("symmetric", 0.8)))
    assert not predicted.values.is_complex()
    assert predicted.growth(30) == pytest.approx(0.8**30, rel=1e-9)


@pytest.mark.parametrize(
    ("W", "says"), [(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), "not diagonalizable"), (torch.zeros(2, 3), "square")]
)
def test_matrices_without_a_prediction_are_refused(W, says):
    with pytest.raises(DiagnosticsError, match=says):
        LinearRecurrence.of(W)


# Layers as maps of one state


LAYERS = {
    "RNN": lambda: nn.RNN(3, 4, num_layers=2),
    "RNN relu without bias": lambda: nn.RNN(3, 4, nonlinearity="relu", bias=False),
    "GRU batch first": lambda: nn.GRU(3, 4, batch_first=True),
    "LSTM": lambda: nn.LSTM(3, 4, num_layers=2),
    "LSTM with projection": lambda: nn.LSTM(3, 4, num_layers=2, proj_size=2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_as_a_map_of_one_state_ends_where_pytorch_does(name):
    layer = LAYERS[name]().double()
    x = torch.randn(6, 5, 3).double()
    end = layer(x)[1]
    own = recurrence(layer, x)
    start = end if isinstance(end, torch.Tensor) else tuple(end)
    continued = layer(x, start)[1]
    for found, expected in ((own, end), (recurrence(layer, x, start), continued)):
        parts = [expected] if isinstance(expected, torch.Tensor) else list(expected)
        flat = torch.cat([part[number] for part in parts for number in range(len(part))], dim=1)  # h of each layer, then the cells
        close(found.states()[-1], flat.detach().numpy())


@pytest.mark.parametrize("name", LAYERS)
def test_state_jacobians_equal_finite_differences(name):
    own = recurrence(LAYERS[name]().double(), torch.randn(6, 5, 3).double())
    state = torch.randn_like(own.initial)
    expected = finite_differences(own.step, state, own.inputs[0])
    close(state_jacobian(own.step, state, own.inputs[0]), expected.numpy(), 1e-8)


def test_the_jacobian_of_a_cell_equals_finite_differences():
    cell = LSTMCell(3, 4).double()
    h, s, x = torch.randn(2, 4).double(), torch.randn(2, 4).double(), torch.randn(2, 3).double()
    expected = finite_differences(lambda flat, x: torch.cat(cell((flat[:, :4], flat[:, 4:]), x)[0], dim=1), torch.cat([h, s], 1), x)
    close(state_jacobian(cell, (h, s), x), expected.numpy(), 1e-8)


def test_products_of_jacobians_equal_the_formula_of_the_tanh_rnn():
    layer, x = tanh_rnn(), torch.randn(9, 2, 3).double()
    states, jacobians = numpy_tanh_states(layer, x)
    own = recurrence(layer, x)
    close(own.states(), states)
    expected = np.eye(5)
    for t in range(2, 7):
        expected = jacobians[t] @ expected
    close(jacobian_product(own, 2, 7), expected)
    close(mean_jacobian(own), jacobians.mean((0, 1)))
    close(jacobian_product(own, 4, 4), np.tile(np.eye(5), (2, 1, 1)))


def test_the_product_is_what_autograd_sends_back_through_the_whole_layer():
    layer, x = nn.LSTM(3, 4, num_layers=2).double(), torch.randn(7, 2, 3).double()
    h, c = (torch.randn(2, 2, 4).double().requires_grad_() for _ in range(2))
    g = torch.randn(2, 16).double()
    end = torch.cat([part[number] for part in layer(x, (h, c))[1] for number in range(2)], dim=1)
    expected = torch.cat([part[number] for part in torch.autograd.grad(end, (h, c), g) for number in range(2)], dim=1)
    product = jacobian_product(recurrence(layer, x, (h, c)))
    close(torch.einsum("bi,bij->bj", g, product), expected.numpy())


# Gradient against distance


def test_gradient_norms_equal_singular_values_of_numpy_products():
    layer, x = tanh_rnn(), torch.randn(9, 2, 3).double()
    _, jacobians = numpy_tanh_states(layer, x)
    product, expected = np.tile(np.eye(5), (2, 1, 1)), [np.ones(2)]
    for jacobian in jacobians[::-1]:
        product = product @ jacobian
        expected.append(np.linalg.svd(product)[1][:, 0])
    own = recurrence(layer, x)
    close(gradient_norms(own), np.stack(expected))
    close(gradient_norms(own, 4), np.stack(expected[:5]))


def test_gradient_norms_stay_in_range():
    """Products beyond float64's range on the way do not spoil those at other distances."""
    norms = gradient_norms(linear_map(np.diag([1e-9, 1e-10]), T=40))
    close(norms[30].log10(), [-270.0, -270.0], 1e-12)
    assert (norms[40] == 0).all()
    growing = linear_map(np.diag([1e30, 1.0]), T=11)
    growing = Recurrence(growing.step, growing.inputs, torch.zeros(2, 2).double(), growing.lengths)
    assert gradient_norms(growing)[11].isinf().all()


@pytest.mark.parametrize("reverse", [False, True])
def test_ragged_sequences_are_followed_each_by_itself(reverse):
    layer = Recurrent(LSTMCell(3, 4), reverse=reverse).double()
    x, lengths = torch.randn(8, 3, 3).double(), torch.tensor([8, 2, 5])
    own = recurrence(layer, x, lengths=lengths)
    close(own.states()[-1], torch.cat(layer(x, lengths=lengths)[1], dim=1).detach().numpy())
    norms, exponents = gradient_norms(own), lyapunov_exponents(own, 2)
    alone = [mean_jacobian(recurrence(layer, x[:T, b : b + 1])) * T for b, T in enumerate(lengths.tolist())]
    close(mean_jacobian(own), (sum(alone) / lengths.sum()).numpy())
    for b, T in enumerate(lengths.tolist()):
        alone = recurrence(layer, x[:T, b : b + 1])
        close(norms[: T + 1, b], gradient_norms(alone)[:, 0].numpy())
        assert norms[T + 1 :, b].isnan().all()
        close(exponents[b], lyapunov_exponents(alone, 2)[0].numpy())


def test_output_gradients_equal_the_formula_of_the_tanh_rnn():
    layer, x = tanh_rnn(), torch.randn(6, 2, 3).double()
    states, jacobians = numpy_tanh_states(layer, x)
    U = layer.weight_ih_l0.detach().numpy()
    product, expected = np.tile(np.eye(5), (2, 1, 1)), []
    for t in reversed(range(6)):
        into = (1 - states[t + 1] ** 2)[:, :, None] * U
        expected.append(np.linalg.norm(product @ into, axis=(1, 2)))
        product = product @ jacobians[t]
    close(output_gradients(lambda x: layer(x)[0], x), np.stack(expected))
    with pytest.raises(DiagnosticsError, match="must keep T and B"):
        output_gradients(lambda x: layer(x)[1], x)


# Lyapunov exponents


def test_exponents_of_a_linear_map_are_logarithms_of_its_eigenvalues():
    W = np.diag([1.2, 0.9, 0.5, 0.1])
    similar = np.random.default_rng(1).standard_normal((4, 4))
    exponents = lyapunov_exponents(linear_map(similar @ W @ np.linalg.inv(similar), T=400), 4, warm_up=0.5)
    close(exponents[0], np.log([1.2, 0.9, 0.5, 0.1]), 1e-9)


def test_an_orthogonal_map_has_exponents_zero():
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    assert lyapunov_exponents(linear_map(Q, T=30), 6).abs().max() < 1e-13


def test_the_exponent_of_a_scalar_tanh_map():
    """h' = tanh(w h + x): the mean of log |w (1 - h'²)| over the steps after the warm-up."""
    layer = nn.RNN(1, 1, bias=False).double()
    nn.init.constant_(layer.weight_hh_l0, -2.5)
    nn.init.constant_(layer.weight_ih_l0, 1.0)
    x = torch.randn(200, 1, 1).double()
    h, logs = 0.0, []
    for value in x.flatten().tolist():
        h = math.tanh(-2.5 * h + value)
        logs.append(math.log(2.5 * (1 - h * h)))
    assert lyapunov_exponents(recurrence(layer, x), warm_up=0.25).item() == pytest.approx(np.mean(logs[50:]), rel=1e-10)


def test_the_whole_spectrum_sums_to_the_mean_log_determinant():
    layer, x = tanh_rnn(H=6, gain=3.0), 0.1 * torch.randn(300, 2, 3).double()
    _, jacobians = numpy_tanh_states(layer, x)
    expected = np.linalg.slogdet(jacobians)[1].mean(0)
    exponents = lyapunov_exponents(recurrence(layer, x), 6, warm_up=0.0)
    close(exponents.sum(1), expected)
    assert (exponents.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": 3}, {"warm_up": 1.0}])
def test_exponents_that_are_not_there_are_refused(bad):
    with pytest.raises(DiagnosticsError, match=r"there are 1 to 2|share of the steps"):
        lyapunov_exponents(linear_map(np.eye(2)), **bad)


# Saturation


def test_saturation_counts_gates_and_units():
    layer = nn.LSTM(2, 3).double()
    nn.init.normal_(layer.weight_hh_l0, std=3.0)
    x = 3 * torch.randn(7, 4, 2).double()
    U, W, b, c = (p.detach().numpy() for p in layer.parameters())
    h = s = np.zeros((4, 3))
    gates, units = [], []
    for row in x.numpy():
        i, f, g, o = np.split(row @ U.T + h @ W.T + b + c, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        s = f * s + i * np.tanh(g)
        h = o * np.tanh(s)
        gates += [i, f, o]
        units += [np.tanh(g), np.tanh(s)]
    found = saturation(recurrence(layer, x))
    assert found.closed == np.mean(np.stack(gates) < 0.1)
    assert found.open == np.mean(np.stack(gates) > 0.9)
    assert found.units == np.mean(np.abs(np.stack(units)) > 0.9)
    assert 0.05 < found.closed < 0.5
    assert saturation(recurrence(nn.RNN(2, 3, nonlinearity="relu").double(), x)).units is None


# The whole diagnosis


class Tagger(nn.Module):
    """A user's network: packed sequences, a stack in both directions, a unidirectional layer, dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 3)
        self.both = nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.5, batch_first=True)
        self.top = nn.GRU(8, 5)
        self.unused = nn.RNN(1, 1)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embed(tokens), lengths, enforce_sorted=False, batch_first=True)
        y, _ = pad_packed_sequence(self.both(packed)[0])
        return self.top(input=y)[0]


def test_every_layer_and_direction_of_a_users_network_is_diagnosed():
    model = Tagger().train()
    before = copy.deepcopy(model.state_dict())
    tokens, lengths = torch.randint(20, (3, 9)), torch.tensor([4, 9, 6])
    found = diagnose(model, tokens, lengths=lengths)
    assert [len(d.gradient_norms) for d in found.values()] == [10] * 5
    assert list(found) == ["both.l0", "both.l0_reverse", "both.l1", "both.l1_reverse", "top"]
    assert [d.state_size for d in found.values()] == [8, 8, 8, 8, 5]
    assert [len(d.weight_radii) for d in found.values()] == [4, 4, 4, 4, 3]
    assert model.training
    assert model.both.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())

    # The reverse direction of the upper layer, by hand: sequence 0, its own four steps from last to first.
    x = model.embed(tokens[0, :4])[:, None].detach().double()
    lower = nn.LSTM(3, 4, bidirectional=True).double()
    lower.load_state_dict({name: p for name, p in model.both.state_dict().items() if "_l0" in name})
    upper = nn.LSTM(8, 4).double()
    upper.load_state_dict(
        {n.replace("l1_reverse", "l0"): p for n, p in model.both.state_dict().items() if n.endswith("l1_reverse")}
    )
    alone = gradient_norms(recurrence(upper, lower(x)[0].flip(0)))[:, 0]
    mine = diagnose(model, tokens, lengths=lengths, sequences=1)["both.l1_reverse"]
    close(mine.gradient_norms, alone.numpy())
    close(mine.weight_radii, [np.abs(np.linalg.eigvals(W)).max() for W in upper.weight_hh_l0.detach().numpy().reshape(4, 4, 4)])


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_layer_by_itself_is_diagnosed_on_its_last_steps(make):
    layer, x, h = make(3, 4), torch.randn(30, 6, 3), torch.randn(1, 6, 4)
    state = (h, h) if make is nn.LSTM else h
    (found,) = diagnose(layer, x, state, sequences=2, steps=10, exponents=3).values()
    assert (found.name, found.steps, found.sequences) == (make.__name__, 10, 2)
    layer = layer.double()
    cut = tuple(s[:, :2].double() for s in state) if make is nn.LSTM else h[:, :2].double()
    own = recurrence(layer, x[:, :2].double(), cut)
    close(found.gradient_norms, gradient_norms(own, 10).mean(1).numpy())
    late = recurrence(layer, x[20:, :2].double(), layer(x[:20, :2].double(), cut)[1])
    close(found.lyapunov, lyapunov_exponents(late, 3).mean(0).numpy())
    assert found.jacobian_radius == pytest.approx(spectral_radius(mean_jacobian(late)))


def test_the_recurrent_weight_of_a_projection_is_block_times_projection_and_a_units_own_is_its_magnitude():
    projected, independent = ProjectedLSTMCell(3, 4, 2), IndRNNCell(3, 4)
    with torch.no_grad():
        independent.weight_hh.copy_(torch.tensor([0.1, -0.9, 0.5, 0.0]))
    found = diagnose(Recurrent(projected, backward=independent), torch.randn(5, 2, 3))
    W, V = projected.weight_hh.detach().numpy().reshape(4, 4, 2), projected.weight_hr.detach().numpy()
    close(found["Recurrent.cell"].weight_radii, [np.abs(np.linalg.eigvals(block @ V)).max() for block in W], 1e-5)
    close(found["Recurrent.backward"].weight_radii, [0.9], 1e-6)


class Outer(Cell):
    """A cell whose state is a matrix: M' = 0.8 M + x xᵀ / 2."""

    state_shapes = ((3, 3),)

    def initial_state(self, x):
        return (x.new_zeros(x.shape[1], 3, 3),)

    def project(self, x):
        return x

    def step(self, state, projected):
        M = 0.8 * state[0] + 0.5 * projected[:, :, None] * projected[:, None, :]
        return (M,), M.flatten(1)


def test_cells_of_your_own_are_diagnosed_in_both_directions():
    found = diagnose(Recurrent(Outer(), backward=LSTMCell(3, 2)), torch.randn(12, 3, 3))
    assert list(found) == ["Recurrent.cell", "Recurrent.backward"]
    outer, lstm = found.values()
    close(outer.gradient_norms, 0.8 ** np.arange(13.0))
    assert outer.lyapunov[0] == pytest.approx(math.log(0.8))
    assert outer.weight_radii == ()
    assert outer.jacobian_radius == pytest.approx(0.8)
    assert len(lstm.weight_radii) == 4


def test_two_directions_are_taken_apart():
    x, lengths = torch.randn(7, 2, 3).double(), torch.tensor([7, 3])
    layer = Recurrent(LSTMCell(3, 4), backward=LSTMCell(3, 2)).double()
    ends = layer(x, lengths=lengths)[1]
    own = recurrences(layer, x, lengths=lengths)
    close(own["cell"].states()[-1], torch.cat(ends[:2], 1).detach().numpy())
    close(own["backward"].states()[-1], torch.cat(ends[2:], 1).detach().numpy())
    for both in (layer, nn.GRU(3, 4, bidirectional=True).double()):
        with pytest.raises(DiagnosticsError, match=r"recurrences\(\)"):
            recurrence(both, x)


def relu_rnn(W):
    """h' = relu(W h + 1): linear on the positive states that a positive W keeps."""
    layer = nn.RNN(1, len(W), nonlinearity="relu")
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.as_tensor(W))
        layer.weight_ih_l0.zero_()
        layer.bias_ih_l0.fill_(1.0)
        layer.bias_hh_l0.zero_()
    return layer


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "vanishing"), (1.0, "balanced"), (1.5, "exploding")])
def test_verdicts_of_maps_whose_gradients_are_known(factor, verdict):
    (found,) = diagnose(relu_rnn(factor * np.eye(3)), torch.zeros(40, 1, 1)).values()
    assert found.verdict == verdict
    close(found.gradient_norms, factor ** np.arange(41.0))
    assert found.lyapunov[0] == pytest.approx(math.log(factor), abs=1e-12)
    assert f"{verdict} over 40 steps" in str(found)


def test_bounded_states_that_part_are_chaotic():
    layer = tanh_rnn(H=40, gain=4.0)
    (found,) = diagnose(layer, 0.1 * torch.randn(80, 2, 3).double()).values()
    assert found.lyapunov[0] > 0
    assert found.verdict == "chaotic"


def test_the_horizon_is_the_last_distance_above_the_level():
    (found,) = diagnose(relu_rnn(0.9 * np.eye(2)), torch.zeros(60, 1, 1)).values()
    assert found.horizon(1 / math.e) == 9  # 0.9^9 = 0.387, 0.9^10 = 0.349
    assert found.horizon(0.01) == 43  # 0.9^43 = 0.0108, 0.9^44 = 0.0097
    assert "9 steps to 1/e, 43 steps to 1 %" in str(found)
    (balanced,) = diagnose(relu_rnn(np.eye(2)), torch.zeros(20, 1, 1)).values()
    assert balanced.horizon() == 20
    assert "at least 20 steps" in str(balanced)


def test_the_longest_of_several_calls_is_diagnosed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(2, 3)

        def forward(self, x):
            self.rnn(x[:2])
            self.rnn(x)
            return self.rnn(x[:4])

    assert diagnose(Twice(), torch.randn(9, 1, 2))["rnn"].steps == 9


def test_one_sequence_without_a_batch_is_a_batch_of_one():
    layer, x = nn.LSTM(2, 3, batch_first=True), torch.randn(9, 2)
    alone, batched = (diagnose(layer, given)["LSTM"] for given in (x, x[None]))
    assert alone == batched
    assert alone.steps == 9


@pytest.mark.parametrize(
    ("module", "x", "says"),
    [
        (nn.Linear(2, 2), torch.randn(3, 2), "Linear holds no nn.RNN"),
        (nn.LSTM(2, 3), torch.randn(1, 2, 2), "at least 2"),
        (relu_rnn(1e200 * np.eye(2)), torch.zeros(5, 1, 1), "no longer finite after step 1"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_with_the_reason(module, x, says):
    with pytest.raises(DiagnosticsError, match=says):
        diagnose(module, x)


def test_wrong_use_is_refused():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(2, 3)

        def forward(self, x):
            return x

    with pytest.raises(DiagnosticsError, match="called none of the recurrent layers: rnn"):
        diagnose(Idle(), torch.zeros(3, 1, 2))
    with pytest.raises(DiagnosticsError, match="sequences=0"):
        diagnose(nn.RNN(2, 3), torch.zeros(3, 1, 2), sequences=0)
    own = linear_map(np.eye(2), T=5)
    with pytest.raises(DiagnosticsError, match="distance 6 was asked for; the input has 5"):
        gradient_norms(own, 6)
    with pytest.raises(DiagnosticsError, match="start comes first"):
        jacobian_product(own, 3, 2)


# The slice


def test_the_slice_is_the_composition_of_the_map():
    found = slice_through_rnn(4, size=7, gain=2.0, reach=3.0, points=11, seed=5)
    generator = torch.Generator().manual_seed(5)
    W, u, v = (torch.randn(*shape, generator=generator, dtype=torch.float64).numpy() for shape in ((7, 7), (7,), (7,)))
    W, u, v = W * 2 / math.sqrt(7), u / np.linalg.norm(u), v / np.linalg.norm(v)
    for column, a in enumerate(np.linspace(-3, 3, 11)):
        h = a * u
        for t in range(5):
            assert found.outputs[t, column].item() == pytest.approx(v @ h, rel=1e-9, abs=1e-12)
            h = np.tanh(W @ h)


def test_turns_count_changes_of_direction():
    found = slice_through_rnn(0, points=9)
    assert found.turns(0) == 0
    zigzag = type(found)(found.coordinates, torch.tensor([[0.0, 1.0, 1.0, 0.0, 2.0, 3.0, 1.0]]))
    assert zigzag.turns(0) == 3


def test_the_example_of_the_page_runs(capsys):
    page = PAGE.read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {"__name__": "page"})
    printed = capsys.readouterr().out.splitlines()
    # Figures may differ in the last digit between machines.
    assert printed[0] in page
    assert [line[:19].strip() for line in printed[1:6]] == [
        line[:19].strip() for line in page.split(printed[0])[1].splitlines()[1:6]
    ]
