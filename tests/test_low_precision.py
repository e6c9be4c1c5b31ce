"""Precisions below float32: their gates, in manifests and in parity, and how each report shows them."""

from __future__ import annotations

import hashlib
import json
import re
from xml.etree import ElementTree

import msgspec
import numpy as np
import onnx
import pytest
import runtime_models
import torch
from low_precision_models import ONE_CASE, halved, nudged, quantised, scale_doubled, tokens_too, write
from runtime_models import edit_weight, faulty
from test_bundle import members_of, rebuilt
from test_parity import not_a_number
from test_parity_suite import edgeseq
from torch import nn

import edgeseq_export
import edgeseq_runtime
from edgeseq_runtime.bundle import (
    DEFAULT_GATES,
    LOW_PRECISION_GATES,
    Gate,
    RelativeGate,
    judge,
    open_bundle,
    with_precision,
    write_bundle,
)
from edgeseq_runtime.errors import BadManifest, UsageError
from edgeseq_runtime.pytest_plugin.items import failure_text
from edgeseq_runtime.report import measure_report
from edgeseq_runtime.report.page import page_html
from edgeseq_runtime.report.sections.headline import sentence
from edgeseq_runtime.suite.record import read_record

INT8 = LOW_PRECISION_GATES["int8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bundles of an exported LSTM with int8 variants, a right and a wrong one, and of one that gives tokens."""
    root = tmp_path_factory.mktemp("low")
    torch.manual_seed(0)
    edgeseq_export.export(
        nn.LSTM(6, 24, num_layers=2), {"input": torch.randn(7, 2, 6)}, root / "fp32.edgeseq", axes={"input": ("T", "B", None)}
    )
    bundle = open_bundle(root / "fp32.edgeseq")
    right = quantised(bundle.model())
    with_precision(bundle, "int8", right, INT8, root / "right.edgeseq")
    with_precision(bundle, "int8", scale_doubled(right), INT8, root / "wrong.edgeseq")
    model = tokens_too(runtime_models.lstm(state=False))
    noisy = faulty(model, lambda proto: edit_weight(proto, "R", nudged(0.2)))
    write(root / "tokens.edgeseq", model, noisy.onnx, gate=RelativeGate(relative=1, relative999=4, unequal=0.5))
    return root


# The gate


def outputs(seed=0, shape=(32, 4, 3), dtype=np.float32, error=0.0):
    """Of a runtime, of PyTorch in float32, and in float64."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(shape)
    return (truth + error * rng.standard_normal(shape)).astype(dtype), truth.astype(np.float32), truth


def test_the_error_is_a_share_of_the_outputs_rms():
    got, own, truth = outputs(error=0.01)
    error = np.abs(got - truth)
    rms = np.sqrt((truth**2).mean())
    found = judge(got, own, truth, INT8).distance
    assert found.relative == pytest.approx(np.sqrt((error**2).mean()) / rms, rel=1e-12)
    assert found.relative999 == pytest.approx(np.quantile(error, 0.999) / rms, rel=1e-12)
    assert judge(1000 * got, 1000 * own, 1000 * truth, INT8).distance.relative == pytest.approx(found.relative, rel=1e-6)


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        (RelativeGate(0.02, 0.1, 0), ""),
        (RelativeGate(0.005, 0.1, 0), r"relative 0\.0\d+ exceeds 0\.005"),
        (RelativeGate(0.02, 0.01, 0), r"relative999 0\.0\d+ exceeds 0\.01"),
        (Gate(4, 8), r"k \S+ exceeds 4"),
    ],
)
def test_each_bound_of_a_gate_is_held(gate, reason):
    verdict = judge(*outputs(error=0.01), gate)
    assert verdict.passed == (not reason)
    assert re.fullmatch(reason, verdict.reason)


@pytest.mark.parametrize("dtype", [np.int32, np.bool_])
def test_of_whole_numbers_the_unequal_ones_are_counted(dtype):
    truth = np.zeros((50, 2), dtype)
    got = truth.copy()
    got[:3, 0] = 1
    assert judge(got, truth, truth, RelativeGate(0, 0, 0.03)).passed
    verdict = judge(got, truth, truth, RelativeGate(1, 1, 0.029))
    assert (verdict.passed, verdict.distance.relative) == (False, 0.03)
    assert "relative 0.03 exceeds 0.029" in verdict.reason
    assert not judge(got, truth, truth, DEFAULT_GATES["fp32"]).passed


def test_what_comes_before_any_distance_holds_for_every_gate():
    got, own, truth = outputs()
    assert "shape" in judge(got[:, :2], own, truth, INT8).reason
    assert "dtype float16" in judge(got.astype(np.float16), own, truth, INT8).reason
    for value in (np.nan, np.inf):
        wrong = got.copy()
        wrong[0, 0, 0] = value
        assert judge(wrong, own, truth, INT8).reason == "holds NaN or infinity"
    assert not judge(got, own, np.zeros_like(truth), INT8).passed
    assert judge(0 * got, own, 0 * truth, INT8).passed


# The bundle


def test_a_precision_is_added_and_all_else_is_as_it_was(tmp_path):
    path = runtime_models.lstm().write(tmp_path / "m.edgeseq", ONE_CASE)
    before = open_bundle(path)
    gate = RelativeGate(relative=0.03, relative999=0.2, unequal=0.01)
    added = with_precision(before, "int8", b"a model", gate, tmp_path / "n.edgeseq", provenance={"tool": "mine"})
    bundle = open_bundle(added)
    assert bundle.model("int8") == b"a model"
    assert bundle.model() == before.model()
    assert bundle.reference_bytes == before.reference_bytes
    assert bundle.manifest.gate("int8") == gate
    assert bundle.manifest.gate("fp32") == Gate(4, 8)
    assert bundle.manifest.provenance == {**before.manifest.provenance, "int8.tool": "mine"}
    same = ("name", "inputs", "outputs", "state", "lengths", "census", "reference", "tolerances")
    assert all(getattr(bundle.manifest, name) == getattr(before.manifest, name) for name in same)
    members = members_of(added.read_bytes())
    assert json.loads(members["manifest.json"])["sha256"]["model.int8.onnx"] == hashlib.sha256(b"a model").hexdigest()
    assert open_bundle(path).sha256 == before.sha256


def test_the_same_addition_gives_the_same_bytes_in_place_too(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE)
    with_precision(open_bundle(path), "fp16", b"half", LOW_PRECISION_GATES["fp16"], tmp_path / "n.edgeseq")
    with_precision(open_bundle(path), "fp16", b"other", LOW_PRECISION_GATES["fp16"], path, provenance={"tool": "old"})
    with_precision(open_bundle(path), "fp16", b"half", LOW_PRECISION_GATES["fp16"], path)
    assert path.read_bytes() == (tmp_path / "n.edgeseq").read_bytes()
    with_precision(open_bundle(path), "int8", b"small", INT8, path)
    bundle = open_bundle(path)
    assert [bundle.model(name) for name in ("fp16", "int8")] == [b"half", b"small"]
    assert bundle.manifest.gate("fp16") == LOW_PRECISION_GATES["fp16"]
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_only_what_has_the_new_gates_has_the_new_format(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE)
    manifest = json.loads(members_of(path.read_bytes())["manifest.json"])
    assert manifest["format"] == 2
    assert "relative_tolerances" not in manifest
    with_precision(open_bundle(path), "tf32", b"model", Gate(2000, 4000), path)
    assert open_bundle(path).manifest.format == 2
    with_precision(open_bundle(path), "int8", b"model", INT8, path)
    manifest = json.loads(members_of(path.read_bytes())["manifest.json"])
    assert manifest["format"] == 3
    assert manifest["tolerances"] == {"fp32": {"k": 4.0, "k999": 8.0}, "tf32": {"k": 2000.0, "k999": 4000.0}}
    assert manifest["relative_tolerances"] == {"int8": msgspec.to_builtins(INT8)}
    with_precision(open_bundle(path), "int8", b"model", Gate(1e4, 1e4), path)
    assert open_bundle(path).manifest.gate("int8") == Gate(1e4, 1e4)


@pytest.mark.parametrize("name", ["fp32", "INT8", "../int8", "", "int 8", "int8\n", "x" * 33])
def test_a_precision_that_can_not_be_added(name, tmp_path):
    bundle = open_bundle(runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1))
    with pytest.raises(UsageError, match="can't be given precision"):
        with_precision(bundle, name, b"model", INT8, tmp_path / "n.edgeseq")
    with pytest.raises(UsageError, match=r"int8 model for .* is empty"):
        with_precision(bundle, "int8", b"", INT8, tmp_path / "n.edgeseq")
    assert not (tmp_path / "n.edgeseq").exists()


RELATIVE = {"relative": 0.1, "relative999": 0.5, "unequal": 0.1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "relative_tolerances belong to format 3, and this is 2"),
        ({"tolerances": {}, "relative_tolerances": {"fp32": RELATIVE, "int8": RELATIVE}}, "its gate is relative"),
        ({"tolerances": {"fp32": {"k": 4, "k999": 8}, "int8": {"k": 4, "k999": 8}}}, "'int8' has two gates"),
        ({"relative_tolerances": {}}, "'int8' has no gate"),
        ({"relative_tolerances": {"int8": {**RELATIVE, "unequal": -0.1}}}, "gate of 'int8' has a negative bound"),
        ({"tolerances": {"fp32": {"k": -1, "k999": 8}}}, "gate of 'fp32' has a negative bound"),
        ({"relative_tolerances": {"int8": {"relative": 0.1, "relative999": 0.5}}}, "missing required field `unequal`"),
        ({"relative_tolerances": {"int8": {**RELATIVE, "k": 4}}}, "unknown field `k`"),
        ({"tolerances": {"fp32": RELATIVE}}, "unknown field `relative`"),
    ],
)
def test_gates_that_contradict_the_format_or_each_other(changes, problem, tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    good = with_precision(open_bundle(path), "int8", b"model", INT8, path).read_bytes()
    (tmp_path / "bad.edgeseq").write_bytes(rebuilt(good, manifest=changes))
    with pytest.raises(BadManifest, match=problem):
        open_bundle(tmp_path / "bad.edgeseq")


def test_a_gate_that_would_not_be_read_back_is_not_written(tmp_path):
    bundle = open_bundle(runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1))
    manifest = msgspec.structs.replace(bundle.manifest, relative_tolerances={"int8": INT8})
    with pytest.raises(BadManifest, match="belong to format 3"):
        write_bundle(tmp_path / "n.edgeseq", manifest, {"model.onnx": bundle.model()}, bundle.reference_bytes)
    for gate in (RelativeGate(float("nan"), 1, 1), RelativeGate(-1, 1, 1)):
        with pytest.raises(BadManifest):
            with_precision(bundle, "int8", b"model", gate, tmp_path / "n.edgeseq")
    assert not (tmp_path / "n.edgeseq").exists()


# Parity


def test_an_int8_lstm_passes_its_gate_and_not_that_of_fp32(folder):
    report = edgeseq_runtime.measure_parity(folder / "right.edgeseq", precision="int8")
    assert report.passed
    assert report.gate == INT8
    assert {row.verdict for row in report.rows} == {"pass"}
    assert 1e-4 < report.worst("relative") < report.worst("relative999")
    assert min(row.k for row in report.rows) > 100
    assert edgeseq_runtime.measure_parity(folder / "right.edgeseq").passed


def test_a_wrong_scale_of_one_tensor_fails(folder):
    report = edgeseq_runtime.measure_parity(folder / "wrong.edgeseq", precision="int8")
    assert not report.passed
    assert report.count("fail") > report.count("pass")
    assert edgeseq_runtime.measure_parity(folder / "wrong.edgeseq").passed


def test_the_command_measures_a_precision(folder):
    shown = edgeseq("parity", folder / "right.edgeseq", "--precision", "int8").stdout
    assert f"relative <= {INT8.relative:g}, relative999 <= {INT8.relative999:g}, unequal <= {INT8.unequal:g}" in shown
    assert "relative999" in shown
    assert " k " not in shown
    shown = edgeseq("parity", folder / "wrong.edgeseq", "--precision", "int8", code=1).stdout
    assert re.search(r"fail: .*: relative(999)? \S+ exceeds \S+", shown)


@pytest.mark.parametrize("model", [runtime_models.lstm(), runtime_models.gru()], ids=lambda model: model.name)
def test_a_float16_model_keeps_the_interface_and_passes_streamed_too(model, tmp_path):
    path = write(tmp_path / "m.edgeseq", model, halved(model.onnx), "fp16", sizes=({"T": 40, "B": 2},))
    report = edgeseq_runtime.measure_parity(path, precision="fp16")
    assert report.passed
    assert {row.mode for row in report.rows} == {"whole", "stream"}
    assert 1e-5 < report.worst("relative") < 2e-3
    spoiled = faulty(model, lambda proto: edit_weight(proto, "b", lambda b: b + np.float32(0.05)))
    path = write(path, model, halved(spoiled.onnx), "fp16")
    assert not edgeseq_runtime.measure_parity(path, precision="fp16").passed


def test_a_float16_model_that_changes_the_interface_is_refused(tmp_path):
    model = runtime_models.gru()
    path = write(tmp_path / "m.edgeseq", model, halved(model.onnx, keep_interface=False), "fp16")
    with pytest.raises(BadManifest, match=r"its fp16 model has \[x: float16.*cast inside the graph, so that it keeps"):
        edgeseq_runtime.load(path, precision="fp16")
    edgeseq_runtime.load(path)


def test_tokens_are_judged_by_the_share_of_unequal_ones(folder, tmp_path):
    report = edgeseq_runtime.measure_parity(folder / "tokens.edgeseq", precision="int8")
    (row,) = [row for row in report.rows if row.output == "tokens"]
    (case,) = open_bundle(folder / "tokens.edgeseq").reference()
    session = edgeseq_runtime.load(folder / "tokens.edgeseq", precision="int8")
    got = np.stack([session.run(case.draw_inputs(draw))["tokens"] for draw in range(32)])
    share = np.mean(got != case.float64["tokens"])
    assert 0 < share < 0.5
    assert (row.verdict, row.relative, row.discrete) == ("pass", share, True)
    bundle = open_bundle(folder / "tokens.edgeseq")
    strict = RelativeGate(relative=1, relative999=4, unequal=float(share) / 2)
    path = with_precision(bundle, "int8", bundle.model("int8"), strict, tmp_path / "m.edgeseq")
    report = edgeseq_runtime.measure_parity(path, precision="int8")
    assert [row.output for row in report.rows if row.verdict == "fail"] == ["tokens"]
    assert f"differs in {100 * share:.2g} % of its elements" in sentence(report)


def test_only_the_steps_before_chaos_are_gated(tmp_path):
    """The reference beyond the horizon is spoiled: who looked there would fail."""
    model = runtime_models.gru()
    path = model.write(tmp_path / "m.edgeseq", ({"T": 20, "B": 1},), horizon={"y": 6})
    good = edgeseq_runtime.measure_parity(write(path, model, halved(model.onnx), "fp16", horizon={"y": 6}), precision="fp16")
    assert "first 6 steps; the rest is chaotic" in next(row.reason for row in good.rows if row.output == "y")
    assert good.passed


# What shows it


def test_json_names_the_gate_and_every_figure(folder):
    found = json.loads(edgeseq("parity", folder / "right.edgeseq", "--precision", "int8", "--json").stdout)
    assert found["gate"] == msgspec.to_builtins(INT8)
    assert found["metric"] is None
    report = edgeseq_runtime.measure_parity(folder / "right.edgeseq", precision="int8")
    for row, expected in zip(found["rows"], report.rows, strict=True):
        assert {name: row[name] for name in ("relative", "relative999", "k", "discrete")} == {
            "relative": expected.relative,
            "relative999": expected.relative999,
            "k": expected.k,
            "discrete": False,
        }


def test_junit_and_the_table_of_many_have_the_figures_of_the_gate(folder, tmp_path):
    bundles = [folder / f"{name}.edgeseq" for name in ("right", "wrong", "tokens")]
    shown = edgeseq("parity", *bundles, "--precision", "int8", "--junit", tmp_path / "p.xml", code=1).stdout
    assert "relative" in shown.splitlines()[2] or "worst" in shown
    assert "worst k" not in shown
    assert re.search(r"fail: .*: relative(999)? \S+ exceeds", shown)
    root = ElementTree.parse(tmp_path / "p.xml").getroot()
    suites = root.findall("testsuite")
    gates = {one.find("properties/property[@name='gate']").get("value") for one in suites}
    assert str(INT8) in gates
    passed = next(case.find("system-out").text for case in suites[0].findall("testcase"))
    assert re.search(rf"relative \S+ \(gate {INT8.relative:g}\), relative999 \S+ \(gate {INT8.relative999:g}\), max abs", passed)
    tokens = next(case for case in root.iter("testcase") if case.get("name").endswith("tokens"))
    assert "(gate 0.5)" in tokens.find("system-out").text


def test_records_of_both_kinds_of_gate_are_one_table(folder, tmp_path):
    for name, options in (("fp32", ()), ("int8", ("--precision", "int8"))):
        edgeseq("parity", folder / "right.edgeseq", *options, "--record", tmp_path / f"{name}.json")
    edgeseq("parity", folder / "wrong.edgeseq", "--precision", "int8", "--record", tmp_path / "wrong.json", code=1)
    fp32, int8, wrong = (read_record(tmp_path / f"{name}.json") for name in ("fp32", "int8", "wrong"))
    report = edgeseq_runtime.measure_parity(folder / "right.edgeseq", precision="int8")
    assert int8.worst("relative") == report.worst("relative")
    assert np.isnan(int8.worst("k"))
    assert np.isnan(fp32.worst("relative"))
    assert (int8.verdict, wrong.verdict) == ("pass", "fail")
    shown = edgeseq("records", tmp_path / "fp32.json", tmp_path / "int8.json").stdout
    assert "2 pass" in shown
    found = json.loads(edgeseq("records", tmp_path / "int8.json", "--json").stdout)["records"][0]
    assert (found["k"], found["relative"]) == (None, report.worst("relative"))
    assert "relative" not in edgeseq("records", tmp_path / "fp32.json").stdout


def test_the_page_has_the_figures_of_the_gate(folder):
    page = page_html(measure_report(folder / "right.edgeseq", precision="int8", seconds=None))
    assert "k999" not in page.split("</style>")[1].split("<script>")[0]
    assert f"relative ≤ {INT8.relative:g} and relative999 ≤ {INT8.relative999:g}" in page
    assert "worst relative999" in page
    assert "as a share of the rms" in page
    right = edgeseq_runtime.measure_parity(folder / "right.edgeseq", precision="int8")
    assert re.search(r"error is at most \S+ % of its outputs' rms", sentence(right).replace("&#x27;", "'"))
    wrong = edgeseq_runtime.measure_parity(folder / "wrong.edgeseq", precision="int8")
    assert re.search(r"does not compute .* of its rms, and up to \S+ % is allowed", sentence(wrong))
    tokens = edgeseq_runtime.measure_parity(folder / "tokens.edgeseq", precision="int8")
    assert "and its whole numbers differ in at most" in sentence(tokens)
    page = page_html(measure_report(folder / "tokens.edgeseq", precision="int8", seconds=None))
    assert "0.5 of unequal whole numbers" in page


def test_a_variant_that_gives_nan_is_no_error_but_a_fail(tmp_path):
    model = runtime_models.lstm()
    path = write(tmp_path / "m.edgeseq", model, faulty(model, not_a_number).onnx)
    report = edgeseq_runtime.measure_parity(path, precision="int8")
    assert {row.reason for row in report.rows if row.verdict == "fail"} == {"holds NaN or infinity"}
    assert report.worst("relative") == np.inf
    assert "can't be equal" in sentence(report).replace("&#x27;", "'")


def test_the_pytest_plugin_names_the_gate_and_its_figures(folder):
    report = edgeseq_runtime.measure_parity(folder / "wrong.edgeseq", precision="int8")
    shown = failure_text(report)
    assert f"(int8, gate {INT8})" in shown
    assert re.search(r"worst relative \S+, relative999 \S+; sha256", shown)


def test_inspect_shows_both_gates(folder):
    shown = edgeseq("inspect", folder / "right.edgeseq").stdout
    assert "k <= 4" in shown
    assert f"relative <= {INT8.relative:g}" in " ".join(shown.split())
    assert "format" in shown


def test_the_models_here_are_quantised(folder):
    operators = {node.op_type for node in onnx.load_from_string(open_bundle(folder / "right.edgeseq").model("int8")).graph.node}
    assert "DynamicQuantizeLSTM" in operators
    assert "LSTM" not in operators
