"""Layers over neighbouring frames: against their equations in NumPy float64, whole and in chunks, in PyTorch and as exported."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import checked_export, float64_of
from torch import nn

import edgeseq_runtime
from edgeseq import GRUCell, Recurrent, RecurrentStack
from edgeseq.streaming import (
    CausalConv1d,
    CausalPool1d,
    Delay,
    FrameStack,
    Framewise,
    Residual,
    StartAfter,
    StreamGraph,
    WindowNorm,
)
from edgeseq_export import ExportRequest
from edgeseq_export.postconditions import _sizes_in
from edgeseq_runtime.tensors import distance

C = 3
T = 131
CHUNKS = (1, 7, 64)


# Each equation takes one sequence x (n, C) up to and with its last frame, and gives the output there.


def convolved(layer, x):
    weights = float64_of(layer)
    W, b = weights["weight"], weights.get("bias", np.zeros(layer.weight.shape[0]))
    (outputs, per_group, K), groups = W.shape, layer.groups
    y = b.copy()
    for o in range(outputs):
        for i in range(per_group):
            channel = o // (outputs // groups) * per_group + i
            for k in range(K):
                t = len(x) - 1 - (K - 1 - k) * layer.dilation
                y[o] += W[o, i, k] * x[t, channel] if t >= 0 else 0
    return y


def highest(layer, x):
    return x[-layer.window :].max(axis=0)


def average(layer, x):
    return x[-layer.window :].mean(axis=0)


def normalised(layer, x):
    weights, seen = float64_of(layer), x[-layer.window :]
    y = (x[-1] - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + layer.eps)
    return y * weights.get("weight", 1) + weights.get("bias", 0)


def stacked(layer, x):
    padded = np.concatenate([np.zeros((layer.window, x.shape[1])), x])
    return np.concatenate(list(padded[-layer.window :]))


def delayed(layer, x):
    steps = layer.history
    return x[-1 - steps] if len(x) > steps else np.zeros(x.shape[1])


class Case(NamedTuple):
    make: object
    last_output: object
    nodes: int


CASES = {
    "conv": Case(lambda: CausalConv1d(C, 5, 4), convolved, 5),
    "conv-one-tap": Case(lambda: CausalConv1d(C, 5, 1), convolved, 3),
    "conv-dilated-grouped": Case(lambda: CausalConv1d(C, 6, 3, dilation=3, groups=C, bias=False), convolved, 5),
    "conv-strided": Case(lambda: CausalConv1d(C, 4, 5, stride=2), convolved, 5),
    "conv-stride-over-window": Case(lambda: CausalConv1d(C, 4, 2, stride=3), convolved, 4),
    "max": Case(lambda: CausalPool1d(C, 5, "max"), highest, 15),
    "max-strided": Case(lambda: CausalPool1d(C, 5, "max", stride=2), highest, 15),
    "mean": Case(lambda: CausalPool1d(C, 5, "mean"), average, 17),
    "mean-strided": Case(lambda: CausalPool1d(C, 7, "mean", stride=3), average, 19),
    "mean-stride-is-window": Case(lambda: CausalPool1d(C, 3, "mean", stride=3), average, 3),
    "norm": Case(lambda: WindowNorm(C, 20), normalised, 36),
    "norm-plain": Case(lambda: WindowNorm(C, 6, eps=1e-3, affine=False), normalised, 34),
    "frames": Case(lambda: FrameStack(C, 4), stacked, 14),
    "frames-strided": Case(lambda: FrameStack(C, 5, stride=3), stacked, 16),
    "frames-stride-over-window": Case(lambda: FrameStack(C, 2, stride=3), stacked, 15),
    "delay": Case(lambda: Delay(C, 3), delayed, 5),
    "no-delay": Case(lambda: Delay(C, 0), delayed, 1),
}
STATEFUL = [name for name, case in CASES.items() if case.make().state_shapes]
UNSTRIDED = [name for name, case in CASES.items() if case.make().stride == 1]
IN_ORT = [name for name in STATEFUL if name not in ("conv", "norm-plain")]


def made(name, dtype=torch.float64):
    """A layer of the case with weights away from where they begin."""
    torch.manual_seed(0)
    layer = CASES[name].make().to(dtype)
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return layer


def outputs_by_hand(name, layer, x):
    """The equation at every output, one sequence and one step at a time."""
    steps = range(layer.stride, len(x) + 1, layer.stride)
    return np.stack([[CASES[name].last_output(layer, x[:t, b]) for b in range(x.shape[1])] for t in steps])


def states_by_hand(layer, x):
    """The frames that the next ones will be joined to, zeros before the start (for a maximum the first frame), and their number."""
    H, (n, B, features) = layer.history, x.shape
    before = np.zeros((H, B, features)) + (x[0] if getattr(layer, "mode", "") == "max" else 0)
    kept = np.concatenate([before, x])[n:].transpose(1, 0, 2)  # (B, H, C)
    frames = kept if layer.time == 1 else kept.transpose(0, 2, 1)
    return [frames, np.full((B, 1), min(n, H))][: len(layer.state_shapes)]


def sound(steps, batch=2, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((steps, batch, C)).astype(dtype)


def multiple(layer, steps):
    return -(-steps // layer.stride) * layer.stride


def in_chunks(layer, x, sizes):
    """Outputs of the pieces, joined, and the state after the last."""
    state, pieces = None, []
    for piece in x.split(sizes):
        y, state = layer(piece, state)
        pieces.append(y)
    return torch.cat(pieces), state


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [1, 2, 12, 30])
def test_layers_are_their_equations(name, steps):
    layer = made(name)
    x = sound(multiple(layer, steps))
    y, state = layer(torch.from_numpy(x))
    close(y, outputs_by_hand(name, layer, x))
    for end, expected in zip(state, states_by_hand(layer, x), strict=True):
        close(end, expected)


@pytest.mark.parametrize("name", UNSTRIDED)
@pytest.mark.parametrize("before", [0, 2, 9])
def test_ragged_lengths_end_each_sequence_by_itself(name, before):
    layer, lengths = made(name), [6, 1, 9, 4]
    x = sound(before + 9, batch=4)
    x[before + 4 :, 3] = np.nan  # what stands past a sequence's end is nothing
    state = layer(torch.from_numpy(x[:before]))[1] if before else None
    y, ends = layer(torch.from_numpy(x[before:]), state, torch.tensor(lengths))
    for b, length in enumerate(lengths):
        own = x[: before + length, b : b + 1]
        close(y[:length, b : b + 1], outputs_by_hand(name, layer, own)[before:])
        assert (y[length:, b] == 0).all()
        for end, expected in zip(ends, states_by_hand(layer, own), strict=True):
            close(end[b : b + 1], expected)


@pytest.mark.parametrize("name", CASES)
def test_chunks_are_the_whole(name):
    layer = made(name)
    x = torch.from_numpy(sound(multiple(layer, T)))
    whole, end = layer(x)
    for size in CHUNKS:
        y, state = in_chunks(layer, x, size * layer.stride)
        close(y, whole.detach().numpy())
        for found, expected in zip(state, end, strict=True):
            close(found, expected.numpy())


@pytest.mark.parametrize("name", STATEFUL)
@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_any_chunks_are_the_whole(name, sizes):
    layer = made(name)
    x = torch.from_numpy(sound(sum(sizes) * layer.stride))
    y, _ = in_chunks(layer, x, [size * layer.stride for size in sizes])
    close(y, layer(x)[0].detach().numpy())


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    layer = made(name)
    x = torch.from_numpy(sound(multiple(layer, 4))).requires_grad_()
    begun = layer(torch.from_numpy(sound(multiple(layer, 24), seed=1)))[1]
    frames = [state.detach().requires_grad_() for state in begun[:1]]

    def from_the_start(x, *_):
        y, end = layer(x)
        return (y, *end[:1])

    def further(x, *rest):
        y, end = layer(x, (*rest[: len(frames)], *begun[1:]))
        return (y, *end[:1])

    assert torch.autograd.gradcheck(from_the_start, [x, *layer.parameters()])
    assert torch.autograd.gradcheck(further, [x, *frames, *layer.parameters()])


def request_of(layer, name, x=None, lengths=None):
    graph = StreamGraph(layer)
    inputs = graph.inputs(torch.randn(12, 2, C) if x is None else x, lengths)
    return ExportRequest(graph, inputs, graph.axes(inputs), graph.state, graph.outputs, name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Makes a case's layer in float32, a session on its export and its bundle's manifest, once."""
    folder, sessions = tmp_path_factory.mktemp("bundles"), {}

    def of(name):
        if name not in sessions:
            layer = made(name, torch.float32)
            session = checked_export(request_of(layer, name), folder, census={})
            sessions[name] = layer, session, edgeseq_runtime.open_bundle(folder / f"{name}.edgeseq").manifest
        return sessions[name]

    return of


@pytest.mark.parametrize("name", IN_ORT)
def test_exported_layers_are_their_equations_whole_and_in_chunks(name, exported):
    layer, session, _ = exported(name)
    found, torch32, exact = {size: [] for size in (*CHUNKS, T)}, [], []
    for seed in range(4):
        x = sound(multiple(layer, T), seed=seed, dtype=np.float32)
        exact.append(outputs_by_hand(name, layer, x.astype(np.float64)))
        with torch.no_grad():
            torch32.append(layer(torch.from_numpy(x))[0].numpy())
        for size, pooled in found.items():
            stream = session.stream(batch=2)
            cuts = range(size * layer.stride, len(x), size * layer.stride)
            pooled.append(np.concatenate([stream.step({"x": piece})["y"] for piece in np.split(x, cuts)]))
            for state, expected in zip(stream.state.values(), states_by_hand(layer, x), strict=True):
                np.testing.assert_array_equal(state, expected)
    for size, pooled in found.items():
        measured = distance(np.stack(pooled), np.stack(torch32), np.stack(exact))
        assert measured.k <= 4, (size, measured)
        assert measured.k999 <= 8, (size, measured)


@pytest.mark.parametrize("name", IN_ORT)
def test_graphs_are_small_and_know_their_chunk(name, exported):
    layer, _, manifest = exported(name)
    assert int(manifest.provenance["nodes"]) <= CASES[name].nodes
    assert manifest.chunk == layer.stride


class Front(RecurrentStack):
    """Convolution, pooling, normalisation and a GRU, as one stack."""

    def __init__(self):
        super().__init__(
            CausalConv1d(C, 6, 5),
            Framewise(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())),
            CausalPool1d(6, 3, "max"),
            CausalPool1d(6, 4, "mean"),
            WindowNorm(6, 12),
            Recurrent(GRUCell(6, 4)),
            Framewise(nn.Linear(4, 2)),
        )
        self.layers[1].module[0].running_mean.uniform_(-0.2, 0.2)
        self.eval()


def front_by_hand(model, x, lengths):
    """The stack's outputs, one sequence and one step at a time."""
    conv, frames, highest_of, mean_of, norm, gru, out = model.layers
    y = np.zeros((*x.shape[:2], 2))
    weights = float64_of(gru.cell)
    bn, V = float64_of(frames.module[0]), float64_of(out.module)
    for b, length in enumerate(lengths):
        h, convs, highs, means = np.zeros(4), [], [], []
        for t in range(length):
            a = (convolved(conv, x[: t + 1, b]) - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-5)
            convs.append(np.maximum(a * bn["weight"] + bn["bias"], 0))
            highs.append(highest(highest_of, np.stack(convs)))
            means.append(average(mean_of, np.stack(highs)))
            h = gru_step(weights, h, normalised(norm, np.stack(means)))
            y[t, b] = V["bias"] + V["weight"] @ h
    return y


def gru_step(weights, h, x):
    r, z, n = np.split(weights["bias"] + weights["weight_ih"] @ x, 3)
    W_r, W_z, W_n = np.split(weights["weight_hh"], 3)
    r, z = (1 / (1 + np.exp(-(a + W @ h))) for a, W in ((r, W_r), (z, W_z)))
    n = np.tanh(n + r * (W_n @ h + weights["bias_hn"]))
    return z * h + (1 - z) * n


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    torch.manual_seed(0)
    model = Front()
    request = request_of(model, "front", lengths=torch.tensor([12, 7]))
    return model, checked_export(request, tmp_path_factory.mktemp("front"), census={"GRU": 1})


def test_one_export_of_a_whole_front_end_serves_both_uses(front):
    model, session = front
    found, torch32, exact = {size: [] for size in (*CHUNKS, T)}, [], []
    for seed in range(3):
        x = sound(T, seed=seed, dtype=np.float32)
        exact.append(front_by_hand(model, x.astype(np.float64), [T, T]))
        with torch.no_grad():
            torch32.append(model(torch.from_numpy(x))[0].numpy())
        for size, pooled in found.items():
            stream = session.stream(batch=2)
            pieces = np.split(x, range(size, T, size))
            pooled.append(np.concatenate([stream.step({"x": p, "lengths": np.full(2, len(p))})["y"] for p in pieces]))
    for size, pooled in found.items():
        measured = distance(np.stack(pooled), np.stack(torch32), np.stack(exact))
        assert measured.k <= 4, (size, measured)


def test_a_whole_front_end_takes_ragged_lengths(front):
    model, session = front
    states = {spec.name: np.zeros((3, *spec.shape[1:]), spec.dtype) for spec in session.inputs if spec.name.startswith("state")}

    def drawn(seed):
        lengths = np.random.default_rng(seed).integers(1, 24, 3)
        return {"x": sound(23, batch=3, seed=seed, dtype=np.float32), "lengths": lengths, **states}

    def equations(arrays):
        truth = front_by_hand(model, arrays["x"].astype(np.float64), arrays["lengths"])
        given = {name: torch.from_numpy(a) for name, a in arrays.items()}
        rest = StreamGraph(model)(**given)[1:]  # states are compared with PyTorch's; the layers' tests have their equations
        return {"y": truth, **{f"state{n}_out": s.detach().numpy() for n, s in enumerate(rest)}}

    found = session.run(drawn(0))
    truth = equations(drawn(0))
    np.testing.assert_allclose(found["y"], truth["y"], atol=1e-5)
    for name, value in truth.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_an_integer_input_has_states_like_the_layers_above_it():
    stack = RecurrentStack(Framewise(nn.Embedding(9, C)), Delay(C, 2), CausalConv1d(C, 4, 3)).double()
    tokens = torch.randint(9, (6, 2))
    y, state = stack(tokens)
    close(in_chunks(stack, tokens, 2)[0], y.detach().numpy())
    assert [s.dtype for s in state] == [torch.float64] * 2


def test_a_million_steps_leave_nothing_behind():
    """What the state holds after them is what it holds after the last few, and the outputs with it."""
    for layer in (WindowNorm(C, 6), CausalPool1d(C, 6, "mean"), CausalPool1d(C, 6, "max")):
        state = None
        for n in range(100):
            x = torch.from_numpy(sound(10_000, batch=1, seed=n, dtype=np.float32)) * (1e6 if n == 98 else 1)
            y, state = layer(x, state)
        fresh, end = layer(x[-100:])
        assert torch.equal(y[-50:], fresh[-50:])
        assert all(torch.equal(a, b) for a, b in zip(state, end, strict=True))


def test_a_stream_of_many_steps_counts_no_further_than_its_window(exported):
    _, session, _ = exported("norm")
    stream = session.stream()
    for _ in range(200):
        stream.step({"x": sound(500, batch=1, dtype=np.float32)})
    assert stream.state["state1"].tolist() == [[19]]


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_normalisation_keeps_its_digits_far_from_zero(offset):
    layer = WindowNorm(C, 20, affine=False)
    x = (sound(60) + offset).astype(np.float32)
    exact = outputs_by_hand("norm", layer, x.astype(np.float64))
    y, _ = layer(torch.from_numpy(x))
    rounding = np.finfo(np.float32).eps * offset  # of the input itself, in its standard deviations
    assert np.abs(y.numpy() - exact).max() < 20 * rounding


# From a trained convolution that looks ahead to one that doesn't


CONVOLUTIONS = {
    "symmetric": {"kernel_size": 5, "padding": 2},
    "unpadded": {"kernel_size": 4},
    "padded-before": {"kernel_size": 4, "padding": 3},
    "same": {"kernel_size": 5, "padding": "same"},
    "same-even": {"kernel_size": 4, "padding": "same"},
    "same-dilated": {"kernel_size": 4, "dilation": 3, "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid", "bias": False},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 3, "out_channels": 6},
    "strided": {"kernel_size": 4, "stride": 2, "padding": 1},
    "strided-odd": {"kernel_size": 5, "stride": 3, "padding": 1},
    "strided-dilated": {"kernel_size": 3, "stride": 3, "dilation": 2, "padding": 2},
    "strided-beyond-its-window": {"kernel_size": 2, "stride": 4},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_that_looks_ahead_comes_its_look_ahead_later(name):
    torch.manual_seed(0)
    conv = nn.Conv1d(**{"in_channels": C, "out_channels": 4, **CONVOLUTIONS[name]}).double()
    causal, look_ahead = CausalConv1d.from_conv1d(conv)
    x = torch.from_numpy(sound(24))
    expected = conv(x.permute(1, 2, 0)).permute(2, 0, 1)  # outputs of PyTorch's own
    ended = torch.cat([x, x.new_zeros(look_ahead * causal.stride, *x.shape[1:])])
    y = in_chunks(causal, ended, causal.stride)[0][look_ahead:]
    n = min(len(y), len(expected))
    assert n >= len(expected) - (causal.window - 1)
    close(y[:n], expected[:n].detach().numpy())
    if isinstance(conv.padding, str) or 2 * conv.padding[0] < conv.dilation[0] * (conv.kernel_size[0] - 1) + 1:
        assert n == len(expected)
    least = math.ceil((conv.dilation[0] * (conv.kernel_size[0] - 1) + 1 - causal_padding(conv)) / causal.stride) - 1
    assert look_ahead == least  # no output comes later than it has to


def causal_padding(conv):
    """Zeros that PyTorch puts before the first frame, seen from the outputs of an impulse there."""
    if not isinstance(conv.padding, str):
        return conv.padding[0]
    return 0 if conv.padding == "valid" else conv.dilation[0] * (conv.kernel_size[0] - 1) // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, "padding_mode='reflect'"),
        ({"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, "padding_mode='circular'"),
        ({"kernel_size": 3, "padding": 3}, "padding of 2 or less"),
        ({"kernel_size": 2, "dilation": 2, "stride": 2, "padding": 0}, "multiple of its stride 2"),
    ],
)
def test_a_convolution_that_no_stream_can_compute_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CausalConv1d.from_conv1d(nn.Conv1d(C, 4, **options))


def test_the_state_dict_of_a_convolution_loads():
    conv, layer = nn.Conv1d(C, 4, 3, dilation=2), CausalConv1d(C, 4, 3, dilation=2)
    layer.load_state_dict(conv.state_dict())
    x = torch.randn(9, 2, C)
    torch.testing.assert_close(layer(x)[0][4:], conv(x.permute(1, 2, 0)).permute(2, 0, 1))


class Trained(nn.Module):
    """A model that looks ahead: two convolutions, the second beside a skip connection, and a GRU."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(C, 6, 5, padding=2), nn.Conv1d(6, 6, 3, padding=1)
        self.gru, self.out = Recurrent(GRUCell(6, 4)), nn.Linear(4, 2)

    def forward(self, x):
        z = torch.relu(self.first(x.permute(1, 2, 0)))
        z = z + self.second(z)
        return self.out(self.gru(z.permute(2, 0, 1))[0])


def streaming_form(model):
    """The trained model as a stack, and how many steps later its outputs come."""
    (first, a), (second, b) = CausalConv1d.from_conv1d(model.first), CausalConv1d.from_conv1d(model.second)
    above = StartAfter(a, Residual(second, features=6, look_ahead=b))
    return RecurrentStack(first, Framewise(nn.ReLU()), above, StartAfter(a + b, model.gru), Framewise(model.out)), a + b


def test_a_trained_model_that_looks_ahead_streams_from_its_first_output_on():
    torch.manual_seed(0)
    model = Trained().double()
    stack, look_ahead = streaming_form(model)
    x = torch.from_numpy(sound(30))
    expected = model(x).detach().numpy()[: 30 - look_ahead]
    for sizes in (30, 1, 2, [1, 1, 5, 2, 21]):
        y, _ = in_chunks(stack, x, sizes)
        close(y[look_ahead:], expected)


@pytest.mark.parametrize(
    "make", [lambda: StartAfter(2, CausalConv1d(C, 2, 3)), lambda: Residual(CausalConv1d(C, C, 3), features=C)]
)
def test_gradients_through_other_layers(make):
    torch.manual_seed(0)
    layer = make().double()
    x = torch.from_numpy(sound(5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: layer(x)[0], [x, *layer.parameters()])


def test_what_starts_later_takes_ragged_lengths():
    torch.manual_seed(0)
    layer = StartAfter(4, CausalConv1d(C, 5, 3), Recurrent(GRUCell(5, 4))).double()
    x, lengths = torch.from_numpy(sound(9, batch=4)), [9, 4, 5, 2]
    y, ends = layer(x, lengths=torch.tensor(lengths))
    for b, length in enumerate(lengths):
        alone, state = (
            layer.stack(x[4:length, b : b + 1]) if length > 4 else (x.new_zeros(0, 1, 4), layer.stack.initial_state(x[:, :1]))
        )
        close(y[4:length, b : b + 1], alone.detach().numpy())
        assert (y[:4, b] == 0).all()
        assert (y[length:, b] == 0).all()
        for end, own in zip(ends, (*state, torch.tensor([[min(length, 4)]])), strict=True):
            close(end[b : b + 1], own.detach().numpy())


def test_a_trained_model_that_looks_ahead_is_exported_and_streams(tmp_path):
    torch.manual_seed(0)
    model = Trained()
    stack, look_ahead = streaming_form(model)
    session = checked_export(request_of(stack, "ahead"), tmp_path, census={"GRU": 1})
    x = sound(40, batch=1, dtype=np.float32)
    with torch.no_grad():
        expected = model.double()(torch.from_numpy(x).double()).numpy()[: 40 - look_ahead]
    for size in (1, 7, 40):
        stream = session.stream()
        y = np.concatenate([stream.step({"x": piece})["y"] for piece in np.split(x, range(size, 40, size))])
        np.testing.assert_allclose(y[look_ahead:], expected, atol=1e-6)


# What is refused


@pytest.mark.parametrize("name", ["conv-strided", "max-strided", "frames-strided"])
def test_a_stride_asks_for_multiples_and_takes_no_lengths(name):
    layer = made(name)
    with pytest.raises(ValueError, match=rf"10 steps; .* multiples of its stride {layer.stride}|7 steps"):
        layer(torch.zeros(10 if layer.stride == 3 else 7, 1, C, dtype=torch.float64))
    with pytest.raises(ValueError, match=f"lengths // {layer.stride}"):
        layer(torch.zeros(6, 1, C, dtype=torch.float64), lengths=torch.tensor([4]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Delay(C, -1), "before it came"),
        (lambda: StartAfter(-1), "0 or more"),
        (lambda: Framewise(nn.Sequential(nn.ReLU(), nn.Conv1d(C, C, 1))), "Conv1d '1' does not treat each frame by itself"),
        (lambda: CausalConv1d.from_conv1d(nn.ConvTranspose1d(C, C, 3)), r"is no nn\.Conv1d"),
        (lambda: WindowNorm(C, 1), "2 or more"),
        (lambda: CausalPool1d(C, 3, "sum"), "'max' or 'mean'"),
        (lambda: FrameStack(C, 0), "1 or more"),
        (lambda: CausalPool1d(C, 3, "max", stride=0), "1 or more"),
        (lambda: CausalConv1d(C, 4, 3, groups=2), "divisible"),
    ],
)
def test_sizes_that_make_no_layer_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_inputs_and_states_that_do_not_fit_are_refused():
    layer, x = FrameStack(C, 3), torch.zeros(4, 2, C)
    with pytest.raises(ValueError, match=r"takes \(T, B, 3\)"):
        layer(torch.zeros(4, 2, C + 1))
    with pytest.raises(ValueError, match="state tensor 0"):
        layer(x, [torch.zeros(3, 2, C)])
    with pytest.raises(ValueError, match="state has 2 tensors"):
        layer(x, [torch.zeros(2, 2, C)] * 2)
    with pytest.raises(ValueError, match=r"1\.\.4"):
        layer(x, lengths=torch.tensor([5, 1]))
    with pytest.raises(ValueError, match="state has 1 tensors"):
        Framewise(nn.ReLU())(x, [torch.zeros(2, C)])


def test_of_a_range_only_its_size_may_be_a_frozen_axis():
    assert _sizes_in(range(17)) == {17}
    assert _sizes_in([0, 1, 3]) == {0, 1, 3}
    assert _sizes_in([13]) == {13}
