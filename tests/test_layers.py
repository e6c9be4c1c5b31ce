"""Cells run over time: fused against step by step, directions, stacking; and what each layer is exported as."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import edgeseq_runtime
from edgeseq import Cell, GRUCell, LayerNormLSTMCell, LSTMCell, Recurrent, RecurrentStack, RNNCell
from edgeseq.fused import fused_cell
from edgeseq_export import export
from edgeseq_export.native_cells import native_cell
from edgeseq_runtime.errors import UnsupportedModule

FEATURES, H = 3, 4
OWN = {
    "rnn": lambda: RNNCell(FEATURES, H),
    "rnn-relu": lambda: RNNCell(FEATURES, H, nonlinearity="relu"),
    "gru": lambda: GRUCell(FEATURES, H),
    "lstm": lambda: LSTMCell(FEATURES, H, squash="tanh", peepholes=False),
}
TORCH = {
    "rnn": lambda: nn.RNN(FEATURES, H),
    "rnn-relu": lambda: nn.RNN(FEATURES, H, nonlinearity="relu"),
    "gru": lambda: nn.GRU(FEATURES, H),
    "lstm": lambda: nn.LSTM(FEATURES, H),
}
NATIVE = OWN | {
    "gru-reset-before": lambda: GRUCell(FEATURES, H, reset_after=False),
    "lecture-lstm": lambda: LSTMCell(FEATURES, H),
    "lstm-softsign": lambda: LSTMCell(FEATURES, H, squash="softsign"),
    "lstm-relu": lambda: LSTMCell(FEATURES, H, squash="relu", peepholes=False),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_step(cell, state, x):
    """The equations of the simple RNN and of both GRUs, one sequence, float64."""
    W, U, b = (getattr(cell, n).detach().numpy().astype(np.float64) for n in ("weight_hh", "weight_ih", "bias"))
    (h,) = state
    if isinstance(cell, RNNCell):
        a = b + W @ h + U @ x
        h = np.tanh(a) if cell.nonlinearity == "tanh" else np.maximum(a, 0)
        return (h,), h
    (W_r, W_z, W_n), (U_r, U_z, U_n), (b_r, b_z, b_n) = np.split(W, 3), np.split(U, 3), np.split(b, 3)
    r, z = sigmoid(b_r + U_r @ x + W_r @ h), sigmoid(b_z + U_z @ x + W_z @ h)
    if cell.reset_after:
        n = np.tanh(b_n + U_n @ x + r * (W_n @ h + cell.bias_hn.detach().numpy()))
    else:
        n = np.tanh(b_n + U_n @ x + W_n @ (r * h))
    h = z * h + (1 - z) * n
    return (h,), h


def by_hand(step, x, state, lengths, reverse):
    """A cell over time, one sequence and one step at a time: y (T, B, H) and the last states."""
    T, B, _ = x.shape
    y, ends = np.zeros((T, B, H)), [s.copy() for s in state]
    for n in range(B):
        own = tuple(s[n] for s in state)
        for t in reversed(range(lengths[n])) if reverse else range(lengths[n]):
            own, y[t, n] = step(own, x[t, n])
        for end, s in zip(ends, own, strict=True):
            end[n] = s
    return y, ends


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["rnn", "rnn-relu", "gru", "gru-reset-before"])
def test_simple_and_gated_cells_are_their_equations(name, reverse):
    cell = NATIVE[name]().double()
    random = np.random.default_rng(0)
    x, h = random.standard_normal((6, 3, FEATURES)), random.standard_normal((3, H))
    lengths = np.array([6, 1, 4])
    y, (end,) = Recurrent(cell, reverse=reverse)(torch.from_numpy(x), [torch.from_numpy(h)], torch.from_numpy(lengths))
    expected, (expected_end,) = by_hand(lambda s, x: numpy_step(cell, s, x), x, [h], lengths, reverse)
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(end.detach().numpy(), expected_end, atol=1e-12)


class Unfused(Cell):
    """The same cell under another class, so that nothing recognises it as PyTorch's own."""

    def __init__(self, cell):
        super().__init__()
        self.inner, self.state_shapes = cell, cell.state_shapes

    def project(self, x):
        return self.inner.project(x)

    def step(self, state, projected):
        return self.inner.step(state, projected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 6, 4])])
@pytest.mark.parametrize("name", OWN)
def test_fused_kernels_compute_the_steps_and_their_gradients(name, lengths, reverse):
    cell = OWN[name]().double()
    assert fused_cell(cell) is not None
    assert fused_cell(Unfused(cell)) is None
    x = torch.randn(6, 3, FEATURES, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(3, *shape, dtype=torch.float64, requires_grad=True) for shape in cell.state_shapes)
    results = []
    for layer in (Recurrent(cell, reverse=reverse), Recurrent(Unfused(cell), reverse=reverse)):
        y, ends = layer(x, state, lengths)
        weight = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape).sin()
        loss = (y * weight).sum() + sum((end**2).sum() for end in ends)
        results.append([y, *ends, *torch.autograd.grad(loss, [x, *state, *cell.parameters()])])
    for fused, stepped in zip(*results, strict=True):
        torch.testing.assert_close(fused, stepped)


@pytest.mark.parametrize("name", OWN)
def test_cells_of_pytorchs_own_are_pytorchs_layers(name):
    cell, layer = OWN[name](), TORCH[name]()
    with torch.no_grad():
        layer.weight_ih_l0.copy_(cell.weight_ih)
        layer.weight_hh_l0.copy_(cell.weight_hh)
        layer.bias_ih_l0.copy_(cell.bias)
        layer.bias_hh_l0.zero_()
        if name == "gru":
            layer.bias_hh_l0[2 * H :] = cell.bias_hn
    x = torch.randn(6, 3, FEATURES)
    torch.testing.assert_close(Recurrent(cell)(x)[0], layer(x)[0])


@pytest.mark.parametrize("name", NATIVE)
def test_gradients_of_the_step(name):
    cell = NATIVE[name]().double()
    state = tuple(torch.randn(2, *shape, dtype=torch.float64, requires_grad=True) for shape in cell.state_shapes)
    x = torch.randn(2, FEATURES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *state: cell(state, x)[0], (x, *state))


def test_a_subclass_with_equations_of_its_own_is_neither_fused_nor_native():
    class Doubled(GRUCell):
        def step(self, state, projected):
            return super().step(state, 2 * projected)

    cell, x = Doubled(FEATURES, H), torch.randn(5, 2, FEATURES)
    y, _ = Recurrent(cell)(x)
    expected, _ = by_hand(
        lambda s, x: numpy_step_doubled(cell, s, x), x.numpy().astype(np.float64), [np.zeros((2, H))], [5, 5], reverse=False
    )
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-6)


def test_equations_of_an_instance_are_neither_fused_nor_native():
    cell = GRUCell(FEATURES, H)
    step = cell.step
    cell.step = lambda state, projected: step(state, 2 * projected)
    assert fused_cell(cell) is None
    assert native_cell(cell) is None
    doubled, x = GRUCell(FEATURES, H), torch.randn(5, 2, FEATURES)
    doubled.load_state_dict(cell.state_dict())
    with torch.no_grad():
        doubled.weight_ih.mul_(2)
        doubled.bias.mul_(2)
    torch.testing.assert_close(Recurrent(cell)(x)[0], Recurrent(doubled)(x)[0])


def numpy_step_doubled(cell, state, x):
    twice = GRUCell(FEATURES, H)
    twice.load_state_dict(cell.state_dict())
    with torch.no_grad():
        twice.weight_ih.mul_(2)
        twice.bias.mul_(2)
    return numpy_step(twice, state, x)


def test_a_stack_drops_out_between_its_layers_only_while_training():
    stack = RecurrentStack(Recurrent(GRUCell(FEATURES, H)), Recurrent(GRUCell(H, H)), dropout=0.5)
    x = torch.randn(6, 3, FEATURES)
    lower, _ = stack.layers[0](x)
    assert torch.equal(stack.eval()(x)[0], stack.layers[1](lower)[0])
    torch.manual_seed(0)
    dropped = stack.train()(x)[0]
    torch.manual_seed(0)
    assert torch.equal(dropped, stack.layers[1](nn.functional.dropout(lower, 0.5))[0])


def test_a_state_of_another_layer_is_refused():
    with pytest.raises(ValueError, match="state has 1 tensors, the layer has 2"):
        Recurrent(GRUCell(FEATURES, H), backward=GRUCell(FEATURES, H))(torch.randn(4, 2, FEATURES), [torch.zeros(2, H)])
    with pytest.raises(ValueError, match="single cell"):
        Recurrent(GRUCell(FEATURES, H), reverse=True, backward=GRUCell(FEATURES, H))


@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: Unfused(cell)], ids=["fused", "stepped"])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_lengths_and_states_that_do_not_fit_the_input_are_refused(name, wrap):
    layer, x = Recurrent(wrap(OWN[name]())), torch.randn(6, 3, FEATURES)
    for lengths, found in (
        ([0, 2, 6], "are 0 to 6; .* in 1..6"),
        ([1, 2, 7], "are 1 to 7; .* in 1..6"),
        ([2, 6], r"\(3,\) integers"),
    ):
        with pytest.raises(ValueError, match=found):
            layer(x, lengths=torch.tensor(lengths))
    with pytest.raises(ValueError, match=r"float32; it has to be \(3,\) integers"):
        layer(x, lengths=torch.ones(3))
    for shape in ((1, H), (5, H), (1, 3, H)):
        with pytest.raises(ValueError, match=r"state tensor 0 has shape .* has to be \(3, 4\)"):
            layer(x, [torch.zeros(shape) for _ in layer.state_shapes])
    with pytest.raises(ValueError, match=r"x has shape \(0, 3, 3\)"):
        layer(x[:0])


@pytest.mark.parametrize("name", OWN)
def test_sizes_that_a_fused_kernel_would_read_past_are_refused(name):
    layer = Recurrent(OWN[name]())
    for features in (FEATURES - 1, FEATURES + 2):
        with pytest.raises(ValueError, match=r"has to be \(T, B, 3\)"):
            layer(torch.randn(6, 3, features))
    with pytest.raises(ValueError, match=r"x has shape \(6, 3\)"):
        layer(torch.randn(6, 3))
    for size in (H - 2, H + 5):
        with pytest.raises(ValueError, match="state tensors have shapes"):
            layer(torch.randn(6, 3, FEATURES), [torch.zeros(3, size) for _ in layer.state_shapes])


def test_a_stack_refuses_a_state_of_more_tensors_than_it_has():
    stack = RecurrentStack(Recurrent(GRUCell(FEATURES, H)), Recurrent(GRUCell(H, H)))
    with pytest.raises(ValueError, match="state has 3 tensors, the layer has 2"):
        stack(torch.randn(6, 3, FEATURES), [torch.zeros(3, H)] * 3)


class Layers(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x, lengths):
        y, ends = self.layers(x, None, lengths)
        return y, *ends


def exported(layers, path):
    export(
        Layers(layers),
        {"x": torch.randn(5, 3, FEATURES), "lengths": torch.tensor([5, 2, 4])},
        path,
        axes={"x": ("T", "B", None), "lengths": ("B",)},
    )
    return edgeseq_runtime.open_bundle(path).manifest.census


# One gated cell with an own form of its equations is among the first tests; the others differ in weights and activations alone.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in (*OWN, "lecture-lstm") else pytest.mark.slow) for name in NATIVE]
)
def test_two_directions_of_a_native_cell_are_one_node(name, tmp_path):
    census = exported(Recurrent(NATIVE[name](), backward=NATIVE[name]()), tmp_path / "two.edgeseq")
    assert list(census.values()) == [1]
    assert "Scan" not in census
    assert edgeseq_runtime.measure_parity(tmp_path / "two.edgeseq").passed


def test_directions_that_no_node_holds_together_are_two_nodes(tmp_path):
    assert exported(Recurrent(RNNCell(FEATURES, H), backward=GRUCell(FEATURES, H)), tmp_path / "a.edgeseq") == {"RNN": 1, "GRU": 1}
    mixed = Recurrent(LayerNormLSTMCell(FEATURES, H), backward=LSTMCell(FEATURES, 5))
    assert exported(mixed, tmp_path / "b.edgeseq") == {"Scan": 1, "LSTM": 1}
    written_out = Recurrent(Unfused(GRUCell(FEATURES, H)), backward=LSTMCell(FEATURES, 5))
    assert exported(written_out, tmp_path / "c.edgeseq") == {"GRU": 1, "LSTM": 1}


def test_a_stack_is_a_node_a_layer(tmp_path):
    stack = RecurrentStack(
        Recurrent(GRUCell(FEATURES, H), backward=GRUCell(FEATURES, H)), Recurrent(LSTMCell(2 * H, 5), reverse=True), dropout=0.5
    )
    assert exported(stack, tmp_path / "stack.edgeseq") == {"GRU": 1, "LSTM": 1}


class Odd(Cell):
    """Zeros that are one tensor for two states, states that are one tensor and its view, a state and an output of booleans."""

    def __init__(self):
        super().__init__()
        self.state_shapes = ((FEATURES,), (FEATURES,), (2,), ())

    def initial_state(self, x):
        zeros = x.new_zeros(x.shape[1], FEATURES)
        return zeros, zeros, zeros[:, :2], zeros[:, 0] > 0

    def project(self, x):
        return x

    def step(self, state, projected):
        h, s, _, odd = state
        h = torch.tanh(h - s + projected)
        odd = odd ^ (projected[:, 0] > 0)
        return (h, 0.5 * h, h[:, :2], odd), odd


def test_states_that_are_one_tensor_and_booleans_are_exported(tmp_path):
    assert exported(Recurrent(Odd()), tmp_path / "odd.edgeseq") == {"Scan": 1}


class Shifted(Recurrent):
    def initial_state(self, x):
        return tuple(s + 0.5 for s in super().initial_state(x))


def test_a_layer_with_an_initial_state_of_its_own_is_exported_with_it(tmp_path):
    assert exported(Shifted(GRUCell(FEATURES, H), backward=GRUCell(FEATURES, H)), tmp_path / "shifted.edgeseq") == {"GRU": 1}


class MadeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = GRUCell(FEATURES, H)

    def forward(self, x, state=None, lengths=None):
        return Recurrent(self.cell)(x, state, lengths)


def test_a_layer_made_in_forward_is_refused(tmp_path):
    with pytest.raises(UnsupportedModule, match=r"around GRUCell is made in forward.*make it in __init__"):
        exported(MadeInForward(), tmp_path / "made.edgeseq")


class Counting(Cell):
    """A state of three axes, a projection of two parts in a list, an initial state that is no zero, an integer output."""

    def __init__(self):
        super().__init__()
        self.state_shapes = ((2, H), (1,))
        self.input = nn.Linear(FEATURES, H)

    def initial_state(self, x):
        memory, count = super().initial_state(x)
        return memory + 0.5, count

    def project(self, x):
        return [self.input(x), x.sum(-1, keepdim=True)]

    def step(self, state, projected):
        memory, count = state
        row, total = projected
        memory = torch.stack([torch.tanh(memory[:, 1] + row), 0.5 * memory[:, 0]], dim=1)
        return (memory, count + total), (memory.sum((1, 2)) * 100).round().long()


def test_states_and_outputs_of_any_shape_are_exported(tmp_path):
    census = exported(Recurrent(Counting()), tmp_path / "counting.edgeseq")
    assert census == {"Scan": 1}
    session = edgeseq_runtime.load(tmp_path / "counting.edgeseq")
    assert [(spec.dtype, spec.shape) for spec in session.outputs] == [
        ("int64", ("T", "B")),
        ("float32", ("B", 2, H)),
        ("float32", ("B", 1)),
    ]
