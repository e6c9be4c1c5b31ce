"""Faults planted in the exporter or in an exported graph, each of which a postcondition or parity must catch."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import edgeseq_runtime
from edgeseq import LSTMCell, Recurrent
from edgeseq_export import export, gates, operators, substitution
from edgeseq_export.trace import trace
from edgeseq_runtime.bundle import open_bundle, pack_reference, write_bundle
from edgeseq_runtime.errors import PostconditionError


class Packed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.out = nn.Linear(16 if layer.bidirectional else 8, 3)

    def forward(self, x, lengths):
        y, _ = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return self.out(pad_packed_sequence(y)[0])


class Backwards(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Recurrent(LSTMCell(6, 8), reverse=True)

    def forward(self, x):
        return self.layer(x)[0]


def export_packed(path, layer=None):
    torch.manual_seed(3)
    inputs = {"x": torch.randn(7, 3, 6), "lengths": torch.tensor([7, 2, 5])}
    model = Packed(layer or nn.LSTM(6, 8, 2, bidirectional=True))
    return export(model, inputs, path, axes={"x": ("T", "B", None), "lengths": ("B",)}, outputs=("y",))


def export_backwards(path):
    torch.manual_seed(3)
    return export(Backwards(), {"x": torch.randn(7, 3, 6)}, path, axes={"x": ("T", "B", None)}, outputs=("y",))


def tampered(path, edit):
    """The bundle with its graph edited, and every hash made to match again."""
    bundle = open_bundle(path)
    model = onnx.load_from_string(bundle.model())
    edit(model.graph)
    target = path.with_name("tampered.edgeseq")
    manifest = msgspec.structs.replace(bundle.manifest, sha256={})
    return write_bundle(target, manifest, {"model.onnx": model.SerializeToString()}, pack_reference(bundle.reference()))


def recurrent(graph, operator):
    return [node for node in graph.node if node.op_type == operator]


def initializer(graph, name):
    return next(t for t in graph.initializer if t.name == name)


def change(graph, name, function):
    tensor = initializer(graph, name)
    tensor.CopyFrom(numpy_helper.from_array(function(numpy_helper.to_array(tensor).copy()), name))


def set_attribute(node, name, value):
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


@pytest.fixture
def nothing_written(tmp_path):
    yield tmp_path / "faulty.edgeseq"
    assert list(tmp_path.iterdir()) == []


def test_the_unharmed_modules_pass(tmp_path):
    for path in (export_packed(tmp_path / "a.edgeseq"), export_backwards(tmp_path / "b.edgeseq")):
        assert edgeseq_runtime.measure_parity(path).passed
        assert edgeseq_runtime.measure_parity(tampered(path, lambda graph: None)).passed


# In the exporter: the postconditions refuse, and nothing is written.


@pytest.mark.parametrize("order", ["oifc", "ifoc", "iocf"])
def test_exporter_with_swapped_gates(order, monkeypatch, nothing_written):
    monkeypatch.setitem(gates.ONNX_GATES, "LSTM", order)
    with pytest.raises(PostconditionError, match="does not compute what the module does"):
        export_packed(nothing_written)


def test_exporter_with_swapped_peepholes(monkeypatch, nothing_written):
    monkeypatch.setattr(gates, "ONNX_PEEPHOLES", "ifo")
    with pytest.raises(PostconditionError, match="does not compute"):
        export_backwards(nothing_written)


def test_exporter_that_forgets_to_run_backwards(monkeypatch, nothing_written):
    original = operators._lstm_node
    forwards = lambda *a: original(*a[:8], "forward", a[9])  # noqa: E731
    monkeypatch.setitem(operators.TRANSLATIONS, torch.ops.edgeseq.lstm.default, forwards)
    with pytest.raises(PostconditionError, match="does not compute"):
        export_backwards(nothing_written)


def test_exporter_with_lengths_off_by_one(monkeypatch, nothing_written):
    class OffByOne(substitution.Substitution):
        def pack(self, original, input, lengths, *rest):
            return super().pack(original, input, (lengths - 1).clamp(min=1), *rest)

    monkeypatch.setattr("edgeseq_export.trace.Substitution", OffByOne)
    with pytest.raises(PostconditionError):
        export_packed(nothing_written)


def test_exporter_that_ignores_the_lengths(monkeypatch, nothing_written):
    original = operators._lstm_node
    ignoring = lambda *a: original(*a[:4], None, *a[5:])  # noqa: E731
    monkeypatch.setitem(operators.TRANSLATIONS, torch.ops.edgeseq.lstm.default, ignoring)
    with pytest.raises(PostconditionError, match="does not compute"):
        export_packed(nothing_written)


def test_exporter_that_returns_t_steps_for_max_lengths(monkeypatch, nothing_written):
    untrimmed = lambda y, lengths: operators._op.Identity(y)  # noqa: E731
    monkeypatch.setitem(operators.TRANSLATIONS, torch.ops.edgeseq.trim.default, untrimmed)
    with pytest.raises(PostconditionError, match="shape"):
        export_packed(nothing_written)


def test_exporter_that_freezes_time(monkeypatch, nothing_written):
    traced_at = []

    def noting(subject, sizes):
        traced_at.append(sizes)
        return trace(subject, sizes)

    def frozen(y, directions):
        sizes = traced_at[-1]
        return operators._op.Reshape(y, operators._op.Constant(value_ints=[sizes["T"], sizes["B"], -1]))

    monkeypatch.setattr("edgeseq_export.exporting.trace", noting)
    monkeypatch.setattr(operators, "_merge_directions", frozen)
    with pytest.raises(PostconditionError, match="traced at"):
        export_packed(nothing_written)
    assert len(traced_at) == 2  # at other sizes too, because the first might have been a number of the module's own
    assert not set(traced_at[0].values()) & set(traced_at[1].values())


def test_exporter_that_loses_a_recurrence(monkeypatch, nothing_written):
    dead = lambda x, W, R, *_: (operators._op.Identity(x),) * 3  # noqa: E731
    monkeypatch.setitem(operators.TRANSLATIONS, torch.ops.edgeseq.lstm.default, dead)
    with pytest.raises(PostconditionError, match="recurrent nodes"):
        export_backwards(nothing_written)


# In the graph of a bundle: parity fails.


def swap_gates(graph):
    for node in recurrent(graph, "LSTM"):
        for name in node.input[1:3]:
            change(graph, name, lambda w: np.concatenate([w[:, 8:16], w[:, :8], w[:, 16:]], axis=1))


def biases_off(graph):
    """Every bias of the first layer's forward direction, by 1e-6."""
    change(graph, recurrent(graph, "LSTM")[0].input[3], lambda b: (b + np.float32(1e-6)).astype(np.float32))


def output_bias_off(graph):
    change(graph, recurrent(graph, "Add")[-1].input[1], lambda b: (b + np.float32(1e-6)).astype(np.float32))


def lengths_off_by_one(graph):
    one = numpy_helper.from_array(np.array([1], np.int32), "one")
    graph.initializer.append(one)
    nodes = [
        onnx.helper.make_node("Sub", ["lengths", "one"], ["fewer"]),
        onnx.helper.make_node("Max", ["fewer", "one"], ["shorter"]),
    ]
    for node in recurrent(graph, "LSTM"):
        node.input[4] = "shorter"
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)


def lengths_ignored(graph):
    for node in recurrent(graph, "LSTM"):
        node.input[4] = ""


def one_direction_twice(graph):
    """The reverse direction's weights replaced by the forward direction's."""
    for node in recurrent(graph, "LSTM"):
        for name in node.input[1:4]:
            change(graph, name, lambda w: np.stack([w[0], w[0]]))


def frozen_time(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7


@pytest.mark.parametrize(
    "fault",
    [
        swap_gates,
        biases_off,
        output_bias_off,
        lengths_off_by_one,
        lengths_ignored,
        one_direction_twice,
        frozen_time,
    ],
    ids=lambda fault: fault.__name__,
)
def test_parity_catches_a_faulty_graph(fault, tmp_path):
    report = edgeseq_runtime.measure_parity(tampered(export_packed(tmp_path / "a.edgeseq"), fault))
    assert not report.passed, [(row.k, row.k999) for row in report.rows]


def test_parity_catches_the_other_gru(tmp_path):
    path = export_packed(tmp_path / "a.edgeseq", nn.GRU(6, 8))
    faulty = tampered(path, lambda graph: set_attribute(recurrent(graph, "GRU")[0], "linear_before_reset", 0))
    assert not edgeseq_runtime.measure_parity(faulty).passed


def test_parity_catches_a_missing_reverse(tmp_path):
    path = export_backwards(tmp_path / "a.edgeseq")
    faulty = tampered(path, lambda graph: set_attribute(recurrent(graph, "LSTM")[0], "direction", "forward"))
    assert not edgeseq_runtime.measure_parity(faulty).passed


def test_parity_catches_the_activation_of_another_cell(tmp_path):
    path = export_backwards(tmp_path / "a.edgeseq")
    faulty = tampered(path, lambda graph: set_attribute(recurrent(graph, "LSTM")[0], "activations", ["Sigmoid", "Tanh", "Tanh"]))
    assert not edgeseq_runtime.measure_parity(faulty).passed
