"""Parity from the bundle alone: right models pass, planted faults fail."""

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import runtime_models
from onnx import helper
from runtime_models import edit_weight, faulty, node_of

import edgeseq_runtime
from edgeseq_runtime import TensorSpec
from edgeseq_runtime.bundle import Gate
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.stream import Stream

MODELS = [
    runtime_models.lstm(),
    runtime_models.lstm(state=False),
    replace(runtime_models.lstm(lengths=True), name="lstm-lengths"),
    runtime_models.gru(),
    replace(runtime_models.gru(lbr=0), name="gru-lbr0"),
    replace(runtime_models.gru(lengths=True), name="gru-lengths"),
    runtime_models.bidirectional_rnn(),
    runtime_models.strided_gru(),
]


def measured(model, folder, **options):
    return edgeseq_runtime.measure_parity(model.write(folder / "m.edgeseq", **options))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_right_model_passes_with_room(model, tmp_path):
    report = measured(model, tmp_path)
    assert report.passed
    assert {row.verdict for row in report.rows} == {"pass"}
    assert max(row.k for row in report.rows) < 2
    assert {(row.output, tuple(row.sizes.values())) for row in report.rows if row.mode == "whole"} == {
        (spec.name, (case["B"], case["T"])) for spec in model.outputs for case in runtime_models.SIZES
    }
    streamed = {row.output for row in report.rows if row.mode == "stream"}
    assert streamed == ({spec.name for spec in model.outputs if "T" in spec.shape or spec.name != "y"} if model.state else set())


def swapped_gates(proto):
    """Rows of the input and output gates of an LSTM the wrong way round."""
    edit_weight(proto, "W", lambda W: W[:, np.r_[8:16, 0:8, 16:32]])


def one_bias_off(proto):
    """One bias of 64 off by 1e-5: far below what `allclose` sees."""
    edit_weight(proto, "b", lambda b: b + np.float32(1e-5) * (np.arange(b.size) == 3))


def small_bias_everywhere(proto):
    """Every input bias off by 1e-6."""
    edit_weight(proto, "b", lambda b: b + np.float32(1e-6))


def other_reset(proto):
    attribute = next(one for one in node_of(proto, "GRU").attribute if one.name == "linear_before_reset")
    attribute.i = 1 - attribute.i


def forward_only(proto):
    """The backward direction reads its input forwards: both directions get a node that runs forward."""
    rnn = node_of(proto, "RNN")
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for direction in range(2):
        for name in ("W", "R", "b"):
            part = onnx.numpy_helper.from_array(weights[name][direction : direction + 1], f"{name}{direction}")
            proto.graph.initializer.append(part)
        proto.graph.node.insert(
            0,
            helper.make_node("RNN", ["x", *(f"{name}{direction}" for name in ("W", "R", "b"))], [f"Y{direction}"], hidden_size=4),
        )
    proto.graph.node.remove(rnn)
    proto.graph.node.insert(2, helper.make_node("Concat", ["Y0", "Y1"], ["Y"], axis=1))


def ignored_lengths(proto):
    recurrent = node_of(proto, "LSTM")
    recurrent.input[4] = ""


def lengths_off_by_one(proto):
    recurrent = node_of(proto, "LSTM")
    recurrent.input[4] = "fewer"
    one = onnx.numpy_helper.from_array(np.array(1, np.int32), "one32")
    proto.graph.initializer.append(one)
    proto.graph.node.insert(0, helper.make_node("Sub", ["lengths", "one32"], ["less"]))
    proto.graph.node.insert(1, helper.make_node("Max", ["less", "one32"], ["fewer"]))


def ignored_cell_state(proto):
    node_of(proto, "LSTM").input[6] = ""


def swapped_state_outputs(proto):
    recurrent = node_of(proto, "LSTM")
    recurrent.output[1], recurrent.output[2] = "c_out", "h_out"


def frozen_time(proto):
    """The output reshaped to the 7 steps of the example."""
    node_of(proto, "Squeeze").output[0] = "every"
    shape = onnx.numpy_helper.from_array(np.array([7, -1, 8], np.int64), "frozen")
    proto.graph.initializer.append(shape)
    proto.graph.node.append(helper.make_node("Reshape", ["every", "frozen"], ["y"]))


def batch_first(proto):
    """Batch and time the wrong way round in the output."""
    node_of(proto, "Squeeze").output[0] = "every"
    proto.graph.node.append(helper.make_node("Transpose", ["every"], ["y"], perm=[1, 0, 2]))


def not_a_number(proto):
    node_of(proto, "Squeeze").output[0] = "every"
    proto.graph.node.append(helper.make_node("Div", ["every", "every"], ["ones"]))
    proto.graph.node.append(helper.make_node("Sub", ["ones", "ones"], ["zeros"]))
    proto.graph.node.append(helper.make_node("Div", ["zeros", "zeros"], ["y"]))


FAULTS = [
    (runtime_models.lstm(), swapped_gates, "k .* exceeds 4"),
    (runtime_models.lstm(), one_bias_off, "k(999)? .* exceeds"),
    (runtime_models.lstm(), small_bias_everywhere, "k .* exceeds 4"),
    (runtime_models.gru(), other_reset, "k .* exceeds 4"),
    (runtime_models.gru(lbr=0), other_reset, "k .* exceeds 4"),
    (runtime_models.bidirectional_rnn(), forward_only, "k .* exceeds 4"),
    (runtime_models.lstm(lengths=True), ignored_lengths, "k .* exceeds 4"),
    (runtime_models.lstm(lengths=True), lengths_off_by_one, "k .* exceeds 4"),
    (runtime_models.lstm(), ignored_cell_state, "k .* exceeds 4"),
    (runtime_models.lstm(), swapped_state_outputs, "k .* exceeds 4"),
    (runtime_models.lstm(), frozen_time, "shape|can't compute"),
    (runtime_models.lstm(state=False), batch_first, r"shape \(3, 7, 8\), PyTorch's is \(7, 3, 8\)"),
    (runtime_models.lstm(), not_a_number, "holds NaN"),
]


@pytest.mark.parametrize(("model", "fault", "reason"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_fault_fails_and_says_how(model, fault, reason, tmp_path):
    report = measured(faulty(model, fault), tmp_path)
    assert not report.passed
    failed = [row for row in report.rows if row.verdict == "fail"]
    assert failed
    assert all(row.reason for row in failed)
    assert re.search(reason, failed[0].reason)


def test_a_bias_off_by_a_millionth_is_below_what_allclose_sees(tmp_path):
    """Why parity counts in units of PyTorch's own rounding error."""
    model = runtime_models.lstm()
    wrong = edgeseq_runtime.load(faulty(model, small_bias_everywhere).write(tmp_path / "m.edgeseq", draws=1))
    inputs = model.draw({"T": 20, "B": 2}, np.random.default_rng(0))
    assert np.allclose(wrong.run(inputs)["y"], model.expect(inputs)["y"], rtol=1e-5, atol=1e-5)


def test_a_frozen_time_passes_only_at_the_time_it_froze_at(tmp_path):
    report = measured(faulty(runtime_models.lstm(), frozen_time), tmp_path)
    whole = {row.sizes["T"]: row.verdict for row in report.rows if row.mode == "whole" and row.output == "y"}
    assert whole == {1: "fail", 7: "pass", 20: "fail"}


def test_a_fault_that_only_streaming_shows_is_found(tmp_path):
    """Whole sequences from the reference's states are right; the state that comes out is the one that went in."""

    def stuck_state(proto):
        node_of(proto, "GRU").output[1] = "unused"
        proto.graph.node.append(helper.make_node("Identity", ["h"], ["h_out"]))

    model = runtime_models.gru()
    report = measured(faulty(model, stuck_state), tmp_path)
    verdicts = {(row.output, row.mode): row.verdict for row in report.rows if row.sizes["T"] == 20}
    assert verdicts[("y", "whole")] == "pass"
    assert verdicts[("y", "stream")] == "fail"


def test_a_fault_beyond_the_horizon_is_not_gated_and_one_before_it_is(tmp_path):
    def late(start):
        def fault(proto):
            node_of(proto, "Squeeze").output[0] = "every"
            values = {"late_from": [start], "late_to": [99], "from0": [0], "axis0": [0]}
            for name, value in values.items():
                proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
            proto.graph.node.append(helper.make_node("Slice", ["every", "from0", "late_from", "axis0"], ["early"]))
            proto.graph.node.append(helper.make_node("Slice", ["every", "late_from", "late_to", "axis0"], ["late"]))
            proto.graph.node.append(helper.make_node("Neg", ["late"], ["wrong"]))
            proto.graph.node.append(helper.make_node("Concat", ["early", "wrong"], ["y"], axis=0))

        return fault

    model, at = runtime_models.lstm(state=False), ({"T": 20, "B": 2},)
    beyond = measured(faulty(model, late(10)), tmp_path, sizes=at, horizon={"y": 10})
    assert beyond.passed
    assert "first 10 steps" in next(row for row in beyond.rows if row.output == "y").reason
    assert not measured(faulty(model, late(9)), tmp_path, sizes=at, horizon={"y": 10}).passed
    assert not measured(faulty(model, late(10)), tmp_path, sizes=at).passed


def test_a_horizon_where_there_is_no_time_to_cut_is_skipped_and_proves_nothing(tmp_path):
    model = runtime_models.gru()
    report = measured(model, tmp_path, horizon={"y": 3, "h_out": 3}, sizes=({"T": 20, "B": 1},))
    verdicts = {(row.output, row.mode): row.verdict for row in report.rows}
    assert verdicts[("h_out", "whole")] == "skip"
    assert report.passed
    only_skipped = edgeseq_runtime.ParityReport(
        **{field: getattr(report, field) for field in report.__struct_fields__ if field != "rows"},
        rows=tuple(row for row in report.rows if row.verdict == "skip"),
    )
    assert not only_skipped.passed


def test_the_gate_is_the_bundles(tmp_path):
    report = measured(runtime_models.gru(), tmp_path, tolerances={"fp32": Gate(k=1e-3, k999=8)})
    assert not report.passed
    assert "exceeds 0.001" in report.rows[0].reason
    assert "k999" in measured(runtime_models.gru(), tmp_path, tolerances={"fp32": Gate(k=4, k999=1e-3)}).rows[0].reason


def test_inputs_without_the_time_axis_are_given_at_every_step(tmp_path):
    """A context that the whole sequence shares."""
    base = runtime_models.gru()
    proto = onnx.load_from_string(base.onnx)
    node_of(proto, "GRU").input[0] = "mixed"
    proto.graph.node.insert(0, helper.make_node("Add", ["x", "context"], ["mixed"]))
    context = TensorSpec("context", "float32", ("B", 3))
    proto.graph.input.append(runtime_models.value_info(context))

    def equations(inputs, dtype):
        mixed = inputs["x"].astype(dtype) + inputs["context"].astype(dtype)
        return base.equations({**inputs, "x": mixed}, dtype)

    model = replace(base, onnx=proto.SerializeToString(), equations=equations, inputs=(*base.inputs, context))
    report = measured(model, tmp_path)
    assert report.passed
    assert any(row.mode == "stream" for row in report.rows)


def test_time_may_have_another_name_and_place(tmp_path):
    base = runtime_models.gru()
    proto = onnx.load_from_string(base.onnx)
    node_of(proto, "GRU").input[0] = "time_major"
    node_of(proto, "Squeeze").output[0] = "y_time_major"
    proto.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["time_major"], perm=[1, 0, 2]))
    proto.graph.node.append(helper.make_node("Transpose", ["y_time_major"], ["y"], perm=[1, 0, 2]))
    inputs = (TensorSpec("x", "float32", ("B", "frames", 3)), *base.inputs[1:])
    outputs = (TensorSpec("y", "float32", ("B", "frames", 8)), *base.outputs[1:])
    for declared, spec in ((proto.graph.input, inputs[0]), (proto.graph.output, outputs[0])):
        declared[0].CopyFrom(runtime_models.value_info(spec))

    def equations(arrays, dtype):
        expected = base.equations({**arrays, "x": arrays["x"].swapaxes(0, 1)}, dtype)
        return {**expected, "y": expected["y"].swapaxes(0, 1)}

    model = replace(base, onnx=proto.SerializeToString(), equations=equations, inputs=inputs, outputs=outputs)
    report = measured(model, tmp_path, sizes=({"frames": 12, "B": 2},))
    assert report.passed
    assert {row.mode for row in report.rows if row.output == "y"} == {"whole", "stream"}


def test_the_report_names_what_was_measured_where_and_is_json(tmp_path):
    path = runtime_models.lstm().write(tmp_path / "m.edgeseq")
    report = edgeseq_runtime.measure_parity(path, threads=2)
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["passed"] is True
    assert found["sha256"] == edgeseq_runtime.open_bundle(path).sha256
    assert found["threads"] == 2
    assert set(found["versions"]) == {"edgeseq", "onnxruntime", "numpy", "python", "machine"}
    assert found["device"].startswith("cpu-")
    bad = measured(faulty(runtime_models.lstm(), not_a_number), tmp_path)
    assert json.loads(json.dumps(bad.to_json(), allow_nan=False))["rows"][0]["k"] is None


def test_another_session_can_be_measured(tmp_path):
    right = runtime_models.lstm().write(tmp_path / "right.edgeseq")
    wrong = edgeseq_runtime.load(faulty(runtime_models.lstm(), swapped_gates).write(tmp_path / "wrong.edgeseq"))
    assert not edgeseq_runtime.measure_parity(right, session=wrong).passed


def test_progress_counts_every_draw(tmp_path):
    seen = []
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", draws=3)
    edgeseq_runtime.measure_parity(path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 18) for done in range(1, 19)]


def test_what_holds_no_reference_proves_nothing(tmp_path):
    (tmp_path / "m.onnx").write_bytes(runtime_models.gru().onnx)
    with pytest.raises(UsageError, match="holds no reference values"):
        edgeseq_runtime.measure_parity(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="holds no reference values"):
        measured(runtime_models.gru(), tmp_path, sizes=())


def test_a_stream_that_forgets_its_state_fails_where_the_model_keeps_to_its_lengths(monkeypatch, tmp_path):
    """Its state is at the length, so a stream of the sequence alone must have it, and there is nothing to skip."""
    step = Stream.step

    def forgetful(self, inputs):
        outputs = step(self, inputs)
        self.reset()
        return outputs

    monkeypatch.setattr(Stream, "step", forgetful)
    path = runtime_models.lstm(lengths=True).write(tmp_path / "m.edgeseq", [{"T": 20, "B": 2}])
    states = [row for row in edgeseq_runtime.measure_parity(path).rows if row.mode == "stream" and row.output == "h_out"]
    assert [row.verdict for row in states] == ["fail"]
