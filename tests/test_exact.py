"""The graph in float64 against the module in float64: what is a little off is caught, what only kernels round is not."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_export import export
from edgeseq_export.cases import MORE_DRAWS
from edgeseq_export.exporting import own_gate
from edgeseq_export.postconditions import UnequalOutput, require_exact
from edgeseq_runtime.bundle import EXACT_GATE, Gate, open_bundle
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.graph_checks import GROUP
from edgeseq_runtime.parity import EXACT, measure_graph, measure_parity


class Network(nn.Module):
    """A normalised recurrence with a slope of its own, and its state."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.layer = nn.GRU(6, 8)
        self.out = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.2), nn.Linear(8, 3))

    def forward(self, x, h):
        y, h = self.layer(self.norm(x), h)
        return self.out(y), h


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    inputs = {"x": torch.randn(5, 2, 6), "h": torch.zeros(1, 2, 8)}
    axes = {"x": ("T", "B", None), "h": (None, "B", None)}
    made = tmp_path_factory.mktemp("exact") / "m.edgeseq"
    return export(Network(), inputs, made, axes=axes, state={"h": "h_out"}, outputs=("y", "h_out"))


def harmed(path, change):
    """The bundle's graph with a change made to its arrays, or to itself."""
    model = onnx.load_from_string(open_bundle(path).model())
    change(model)
    return model.SerializeToString()


def edit(shape, function):
    """Change the one initializer of a shape."""

    def change(model):
        (tensor,) = (tensor for tensor in model.graph.initializer if tuple(tensor.dims) in {shape, shape[::-1]})
        tensor.CopyFrom(onnx.numpy_helper.from_array(function(onnx.numpy_helper.to_array(tensor).copy()), tensor.name))

    return change


def attribute(op, name, value):
    """Set an attribute of the first node of an operator."""

    def change(model):
        node = next(node for node in model.graph.node if node.op_type == op)
        (found,) = (one for one in node.attribute if one.name == name)
        found.f = value

    return change


SMALL = {
    "a bias by 1e-6": edit((3,), lambda b: b + np.float32(1e-6)),
    "one bias by 1e-6": edit((8,), lambda b: b + np.float32(2e-6) * (np.arange(b.size) == 2)),
    "weights scaled by 1e-5": edit((3, 8), lambda W: W * np.float32(1 + 1e-5)),
    "epsilon": attribute("LayerNormalization", "epsilon", 1.2e-5),
    "alpha": attribute("LeakyRelu", "alpha", 0.20001),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_change_of_the_function_is_caught(path, name):
    rows = measure_graph(path, model=harmed(path, SMALL[name]))
    assert "fail" in {row.verdict for row in rows}
    assert max(row.k for row in rows if row.verdict == "fail") > EXACT_GATE.k
    bundle = open_bundle(path)
    with pytest.raises(UnequalOutput, match="both in float64"):
        require_exact(harmed(path, SMALL[name]), bundle.outputs, bundle.reference())


def test_the_graph_as_it_was_exported_is_exact(path):
    rows = measure_graph(path)
    assert {(row.mode, row.verdict) for row in rows} == {(EXACT, "pass")}
    assert {(row.output, *row.sizes.values()) for row in rows} == {
        (output, *case.sizes.values()) for output in ("y", "h_out") for case in open_bundle(path).manifest.reference
    }
    assert max(row.k for row in rows) < EXACT_GATE.k / 2
    bundle = open_bundle(path)
    require_exact(bundle.model(), bundle.outputs, bundle.reference())
    assert bundle.manifest.notes == ()


def test_the_figure_is_the_change_over_pytorchs_own_error(path):
    rows = measure_graph(path, model=harmed(path, SMALL["a bias by 1e-6"]), draws=32)
    for row, case in zip((row for row in rows if row.output == "y"), open_bundle(path).reference(), strict=True):
        own, scale = case.float32["y"] - case.float64["y"], case.float64["y"]
        unit = max(np.sqrt(np.mean(own**2)), 2 * 2.0**-23 * np.sqrt(np.mean(scale**2)))
        assert row.k == pytest.approx(1e-6 / unit, rel=0.03)


def test_rows_join_the_others_where_they_are_asked_for(path):
    plain, report = measure_parity(path), measure_parity(path, exact=True)
    assert report.passed
    assert plain.exact_gate is None
    assert report.exact_gate == EXACT_GATE
    assert [row.mode for row in report.rows][: len(plain.rows)] == [row.mode for row in plain.rows]
    assert {row.mode for row in report.rows[len(plain.rows) :]} == {EXACT}


def test_an_output_of_another_shape_or_a_node_that_fails_is_a_row_that_fails(path):
    def flattened(model):
        model.graph.node.append(onnx.helper.make_node("Flatten", ["y"], ["flat"]))
        rename(model, "y", "unflattened")
        rename(model, "flat", "y")

    def wrong_shape(model):
        edit((3, 8), lambda W: W[:2, :2])(model)

    def rename(model, old, new):
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    rows = [row for row in measure_graph(path, model=harmed(path, flattened)) if row.output == "y"]
    assert all(row.verdict == "fail" and "shape" in row.reason for row in rows)
    rows = measure_graph(path, model=harmed(path, wrong_shape))
    assert all(row.verdict == "fail" and "can't be evaluated in float64" in row.reason for row in rows)


def test_the_command_line(path):
    told = CliRunner().invoke(app, ["parity", str(path), "--exact"])
    assert told.exit_code == 0
    assert "exact gate" in told.output
    found = json.loads(CliRunner().invoke(app, ["parity", str(path), "--exact", "--json"]).output)
    assert found["passed"]
    assert found["exact_gate"] == msgspec.to_builtins(EXACT_GATE)
    assert EXACT in {row["mode"] for row in found["rows"]}


def test_below_float32_there_is_nothing_exact(path):
    session = edgeseq_runtime.load(path)
    session.plan = msgspec.structs.replace(session.plan, precision="fp16")
    with pytest.raises(UsageError, match="fp16"):
        measure_parity(path, session=session, exact=True)


def test_without_the_exporter_the_extra_is_named(path, monkeypatch):
    monkeypatch.setattr("edgeseq_runtime.graph_checks.entry_points", lambda group, name: [] if group == GROUP else None)
    with pytest.raises(UsageError, match=r"edgeseq\[export\]"):
        measure_parity(path, exact=True)


class Determinant(nn.Module):
    """Of every matrix of a sequence."""

    def forward(self, x):
        return torch.linalg.det(x @ x.transpose(-1, -2) + torch.eye(x.shape[-2]).to(x))


def test_what_is_not_evaluated_is_noted(tmp_path):
    axes = {"x": ("T", "B", None, None)}
    with pytest.warns(UserWarning, match="not proved in float64: .*Det"):
        made = export(Determinant(), {"x": torch.randn(4, 2, 3, 3)}, tmp_path / "m.edgeseq", axes=axes)
    (note,) = open_bundle(made).manifest.notes
    assert "no equations for Det" in note
    with pytest.raises(edgeseq_runtime.errors.EdgeseqError, match="Det"):
        measure_parity(made, exact=True)


def test_a_gate_of_a_bundles_own_is_half_as_much_again_to_one_digit():
    usual = Gate(4, 8)
    assert own_gate(Gate(4, 8), usual) == (usual, ())
    assert own_gate(Gate(4.79, 5.11), usual)[0] == Gate(8, 8)
    assert own_gate(Gate(7.9, 15.0), usual)[0] == Gate(20, 30)
    assert own_gate(Gate(1.0, 8.2), usual)[0] == Gate(4, 20)
    (note,) = own_gate(Gate(4.79, 5.11), usual)[1]
    assert "k 4.79, k999 5.11" in note


@pytest.mark.slow
def test_a_runtime_that_rounds_more_widens_the_gate_of_an_exact_graph(tmp_path):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    from random_modules import random_module

    from edgeseq_export import export_request

    with pytest.warns(UserWarning, match="wider than the usual"):
        made = export_request(random_module(156).request, tmp_path / "m.edgeseq")
    bundle = open_bundle(made)
    assert bundle.manifest.tolerances["fp32"].k > 4
    assert {case.draws for case in bundle.manifest.reference} == {MORE_DRAWS}
    assert measure_parity(made, exact=True).passed
