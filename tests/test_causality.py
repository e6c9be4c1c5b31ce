"""A module that can't be streamed is refused with the layer named, and one that can be is not."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeseq import GRUCell, LayerNormLSTMCell, Recurrent, RecurrentStack
from edgeseq.streaming import CausalConv1d, CausalPool1d, Delay, FrameStack, Framewise, StreamGraph, WindowNorm
from edgeseq_export import ExportRequest, export_request
from edgeseq_export.causality import find_fault
from edgeseq_export.subject import examine
from edgeseq_runtime import open_bundle
from edgeseq_runtime.errors import ExportError, PostconditionError

C = 4
CHUNKS = (1, 3, 1, 4)


class First(nn.Module):
    """The output of a layer that returns more than that, called with the arguments given."""

    def __init__(self, layer, *arguments):
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def forward(self, x):
        return self.layer(x, *self.arguments)[0]


class AlongTime(nn.Module):
    """A layer of PyTorch's over (B, C, T), in a model over (T, B, C)."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.spread = isinstance(layers[0], nn.AdaptiveAvgPool1d)

    def forward(self, x):
        y = self.layers(x.permute(1, 2, 0))
        return (y.expand(-1, -1, x.shape[0]) if self.spread else y).permute(2, 0, 1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(C, 2)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class CausalAttention(Attention):
    def forward(self, x):
        later = torch.ones(x.shape[0], x.shape[0], dtype=torch.bool, device=x.device).triu(1)
        return self.attention(x, x, x, attn_mask=later)[0]


class AttentionByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.out, self.over = nn.Linear(C, C), nn.Linear(C, C), nn.Softmax(dim=-1)

    def forward(self, x):
        q, k = self.query(x).transpose(0, 1), x.transpose(0, 1)  # (B, T, C)
        weights = self.over(q @ k.transpose(1, 2))  # (B, T, T)
        return self.out((weights @ k).transpose(0, 1))


class LessItsMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(C, C)

    def forward(self, x):
        return self.out(x - x.mean(0))


class LessItsMeanInPlace(nn.Module):
    def forward(self, x):
        return x.sub_(x.mean(0))


class PaddedBefore(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(C, C, 3)

    def forward(self, x):
        return self.conv(F.pad(x.permute(1, 2, 0), (2, 0))).permute(2, 0, 1)


class Counting(nn.Module):
    """Adds the number of each step."""

    def forward(self, x):
        return x + 0.1 * torch.arange(x.shape[0], device=x.device).to(x.dtype)[:, None, None]


class BatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(C, C, batch_first=True)

    def forward(self, x):
        return self.lstm(x.transpose(0, 1))[0].transpose(0, 1)


class Carrying(nn.Module):
    """Any part, then a GRU whose state is carried, with the part between layers that are blameless."""

    def __init__(self, part, width=C):
        super().__init__()
        self.before = nn.Sequential(nn.Linear(C, C), nn.ReLU(inplace=True))
        self.part = part
        self.gru = nn.GRU(width, C)

    def forward(self, x, h):
        y, h = self.gru(self.part(self.before(x)), h)
        return y, h


def request_of(model, steps=9):
    axes = {"x": ("T", "B", None), "h": (None, "B", None)}
    return ExportRequest(model, {"x": torch.randn(steps, 2, C), "h": torch.zeros(1, 2, C)}, axes, {"h": "h_out"}, ("y", "h_out"))


FUTURE, PAST = "is not causal", "forgets its past"

REFUSED = {
    "bidirectional": (lambda: First(nn.LSTM(C, C, bidirectional=True)), "part.layer", "nn.LSTM", FUTURE, "one direction"),
    "both-ways": (
        lambda: First(Recurrent(GRUCell(C, C), backward=GRUCell(C, C))),
        "part.layer",
        "edgeseq.Recurrent",
        FUTURE,
        "one direction",
    ),
    "reversed": (
        lambda: First(RecurrentStack(Recurrent(GRUCell(C, C), reverse=True))),
        "part.layer.layers.0",
        "edgeseq.Recurrent",
        FUTURE,
        "one direction",
    ),
    "attention": (Attention, "part.attention", "nn.MultiheadAttention", FUTURE, "given whole"),
    "causal-attention": (CausalAttention, "part.attention", "nn.MultiheadAttention", PAST, "given whole"),
    "attention-by-hand": (AttentionByHand, "part", "AttentionByHand", FUTURE, "calls 'part.over', of class nn.Softmax"),
    "convolution": (
        lambda: AlongTime(nn.Conv1d(C, C, 5, padding=2), nn.ReLU()),
        "part.layers.0",
        "nn.Conv1d",
        FUTURE,
        "CausalConv1d.from_conv1d makes one of this layer, which gives the same outputs 2 steps later",
    ),
    "convolution-of-odd-padding": (
        lambda: AlongTime(nn.Conv1d(C, C, 3, padding=1, padding_mode="replicate")),
        "part.layers.0",
        "nn.Conv1d",
        FUTURE,
        "can't be converted: .*padding_mode='replicate'",
    ),
    "padded-before": (
        PaddedBefore,
        "part",
        "PaddedBefore",
        PAST,
        "calls 'part.conv', of class nn.Conv1d.*Write .*CausalConv1d",
    ),
    "padding-layer": (
        lambda: AlongTime(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(C, C, 3)),
        "part.layers.0",
        "nn.ConstantPad1d",
        PAST,
        "CausalConv1d",
    ),
    "pooling-over-everything": (
        lambda: AlongTime(nn.AdaptiveAvgPool1d(1)),
        "part.layers.0",
        "nn.AdaptiveAvgPool1d",
        "sums up",
        "CausalPool1d",
    ),
    "pooling": (lambda: AlongTime(nn.AvgPool1d(3, 1, padding=1)), "part.layers.0", "nn.AvgPool1d", FUTURE, "CausalPool1d"),
    "normalisation": (lambda: AlongTime(nn.InstanceNorm1d(C)), "part.layers.0", "nn.InstanceNorm1d", FUTURE, "WindowNorm"),
    "mean": (LessItsMean, "part", "LessItsMean", FUTURE, "calls 'part.out', of class nn.Linear.*WindowNorm"),
    "mean-in-place": (LessItsMeanInPlace, "part", "LessItsMeanInPlace", FUTURE, "WindowNorm"),
    "step-numbers": (Counting, "part", "Counting", PAST, "counterparts"),
    "recurrence-without-its-state": (
        lambda: First(nn.LSTM(C, C)),
        "part.layer",
        "nn.LSTM",
        PAST,
        "pair the two in state",
    ),
    "batch-first": (BatchFirst, "part.lstm", "nn.LSTM", PAST, "pair the two in state"),
    "streaming-layer-without-its-state": (
        lambda: First(CausalConv1d(C, C, 3)),
        "part.layer",
        "edgeseq.streaming.CausalConv1d",
        PAST,
        "pair the two in state",
    ),
    "scan-without-its-state": (
        lambda: First(Recurrent(LayerNormLSTMCell(C, C))),
        "part.layer",
        "edgeseq.Recurrent",
        PAST,
        "pair the two in state",
    ),
}


def refused_request(name):
    torch.manual_seed(0)
    return request_of(Carrying(REFUSED[name][0](), 2 * C if name in ("bidirectional", "both-ways") else C))


@pytest.mark.parametrize("name", REFUSED)
def test_the_layer_that_can_not_be_streamed_is_named(name):
    _, layer, kind, found, advice = REFUSED[name]
    unit = 2 if name == "normalisation" else 1  # PyTorch normalises no single step
    message = str(find_fault(examine(refused_request(name)), "T", [unit * steps for steps in CHUNKS]))
    assert message.startswith(f"'{layer}', of class {kind}, ")
    assert found in message
    assert re.search(advice, message)


@pytest.mark.parametrize(
    "name", ["bidirectional", "convolution", "mean", "recurrence-without-its-state", "pooling-over-everything"]
)
def test_the_export_is_refused_with_its_name_and_nothing_is_written(name, tmp_path):
    with pytest.raises(ExportError, match=rf"fed in chunks .*'{REFUSED[name][1]}', of class .*leave state out"):
        export_request(refused_request(name), tmp_path / "a.edgeseq")
    assert list(tmp_path.iterdir()) == []


class Itself(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(C, C)

    def forward(self, x, h):
        y, h = self.gru(x, h)
        return y - y.mean(0), h


class TwoStates(nn.Module):
    """Two layers, whose states come out in the order given."""

    def __init__(self, swapped):
        super().__init__()
        self.low, self.high, self.swapped = nn.GRU(C, C), nn.GRU(C, C), swapped

    def forward(self, x, h, g):
        y, h = self.low(x, h)
        y, g = self.high(y, g)
        return (y, g, h) if self.swapped else (y, h, g)


def two_states(swapped):
    state = torch.zeros(1, 2, C)
    return ExportRequest(
        TwoStates(swapped),
        {"x": torch.randn(9, 2, C), "h": state, "g": state},
        {"x": ("T", "B", None), "h": (None, "B", None), "g": (None, "B", None)},
        {"h": "h_out", "g": "g_out"},
        ("y", "h_out", "g_out"),
    )


def test_what_the_module_does_in_its_own_forward_is_told(tmp_path):
    with pytest.raises(PostconditionError, match="Itself itself is not causal"):
        export_request(request_of(Itself()), tmp_path / "a.edgeseq")


def test_states_that_change_places_are_told_from_a_layer_without_state(tmp_path):
    with pytest.raises(PostconditionError, match=r"'low', of class nn\.GRU, is not given in a chunk the state that it returned"):
        export_request(two_states(swapped=True), tmp_path / "a.edgeseq")
    assert find_fault(examine(two_states(swapped=False)), "T", CHUNKS) is None


def stream_request(*layers, lengths=None):
    graph = StreamGraph(RecurrentStack(*layers))
    inputs = graph.inputs(torch.randn(12, 2, C), lengths)
    return ExportRequest(graph, inputs, graph.axes(inputs), graph.state, graph.outputs)


def test_beside_lengths_the_layer_is_named_too():
    both_ways = Recurrent(GRUCell(C, C), backward=GRUCell(C, C))
    request = stream_request(CausalConv1d(C, C, 3), both_ways, Recurrent(GRUCell(2 * C, C)), lengths=torch.tensor([12, 7]))
    assert str(find_fault(examine(request), "T", CHUNKS)).startswith("'layer.layers.1', of class edgeseq.Recurrent, is not causal")


class Flattening(nn.Module):
    """Steps and sequences as one axis, in either order, around a layer that is batch-first."""

    def __init__(self):
        super().__init__()
        self.norm, self.lstm, self.out = nn.LayerNorm(C), nn.LSTM(C, C, batch_first=True), nn.Linear(C, C)
        self.flat = nn.Flatten(0, 1)

    def forward(self, x, h, c):
        T, B, _ = x.shape
        z = self.norm(x.reshape(T * B, C)).reshape(T, B, C).transpose(0, 1)
        y, (h, c) = self.lstm(z, (h, c))
        return self.out(self.flat(y)).reshape(B, T, C), h, c


def flattening_request():
    state = torch.zeros(1, 2, C)
    return ExportRequest(
        Flattening(),
        {"x": torch.randn(9, 2, C), "h": state, "c": state},
        {"x": ("T", "B", None), "h": (None, "B", None), "c": (None, "B", None)},
        {"h": "h_out", "c": "c_out"},
        ("y", "h_out", "c_out"),
    )


CAUSAL = {
    "recurrent": (lambda: request_of(Carrying(nn.Identity())), 1),
    "flattened": (flattening_request, 1),
    "two states": (lambda: two_states(swapped=False), 1),
    "every layer": (
        lambda: stream_request(
            CausalConv1d(C, C, 5),
            Framewise(nn.ReLU(inplace=True)),
            CausalPool1d(C, 3, "max"),
            CausalPool1d(C, 3, "mean"),
            WindowNorm(C, 7),
            FrameStack(C, 3),
            Delay(3 * C, 2),
            Recurrent(GRUCell(3 * C, C)),
            Recurrent(LayerNormLSTMCell(C, C)),
        ),
        1,
    ),
    "lengths": (lambda: stream_request(CausalConv1d(C, C, 5), Recurrent(GRUCell(C, C)), lengths=torch.tensor([12, 7])), 1),
    "strided": (lambda: stream_request(CausalConv1d(C, C, 4, stride=2), CausalPool1d(C, 5, "mean", stride=3)), 6),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_module_that_can_be_streamed_raises_no_alarm(name):
    make, unit = CAUSAL[name]
    torch.manual_seed(0)
    assert find_fault(examine(make()), "T", [unit * steps for steps in CHUNKS]) is None


def test_a_chunk_is_a_multiple_of_all_strides_together(tmp_path):
    make, unit = CAUSAL["strided"]
    assert open_bundle(export_request(make(), tmp_path / "a.edgeseq")).manifest.chunk == unit


def test_a_layer_that_runs_on_no_short_chunk_is_named(tmp_path):
    with pytest.raises(PostconditionError, match=r"no short chunks.*'part\.layers\.0', of class nn\.Conv1d"):
        export_request(request_of(Carrying(AlongTime(nn.Conv1d(C, C, 90))), steps=100), tmp_path / "a.edgeseq")
