"""Timing."""

import json
import time

import numpy as np
import pytest
import runtime_models

import edgeseq_runtime
from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.interface import Interface, interface_of

FAST = {"seconds": 0.02}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return runtime_models.lstm(lengths=True).write(tmp_path_factory.mktemp("b") / "m.edgeseq", draws=1)


def test_a_model_with_state_is_timed_by_the_step_and_whole(bundle):
    report = edgeseq_runtime.measure_bench(bundle, steps=50, batch=2, **FAST)
    assert [(row.mode, row.T, row.B, row.who) for row in report.rows] == [
        ("step", 1, 2, "edgeseq"),
        ("sequence", 50, 2, "edgeseq"),
    ]
    for row in report.rows:
        assert 0 < row.median <= row.p90 <= row.p99 < 1e6
        assert row.calls >= 40
        assert row.ratio == 1
    assert json.loads(json.dumps(report.to_json()))["rows"][0]["mode"] == "step"


def test_a_model_without_state_is_timed_whole(tmp_path):
    path = runtime_models.bidirectional_rnn().write(tmp_path / "m.edgeseq", draws=1)
    assert [row.mode for row in edgeseq_runtime.measure_bench(path, **FAST).rows] == ["sequence"]


def test_a_plain_onnx_is_timed_on_zeros(tmp_path):
    (tmp_path / "m.onnx").write_bytes(runtime_models.gru().onnx)
    assert [row.T for row in edgeseq_runtime.measure_bench(tmp_path / "m.onnx", steps=7, **FAST).rows] == [7]


def test_microseconds_are_microseconds_and_ratios_are_to_edgeseq(bundle):
    def peer(inputs):
        time.sleep(0.002)
        return {}

    rows = {(row.mode, row.who): row for row in edgeseq_runtime.measure_bench(bundle, peers={"sleeper": peer}, **FAST).rows}
    slept = rows[("step", "sleeper")]
    assert 2000 <= slept.median < 20_000
    assert slept.ratio == pytest.approx(slept.median / rows[("step", "edgeseq")].median)
    assert slept.ratio > 5


def test_candidates_take_turns_and_a_peer_gets_back_its_state(bundle):
    model, seen = runtime_models.lstm(lengths=True), []

    def peer(inputs):
        seen.append({name: array.copy() for name, array in inputs.items()})
        return model.expect(inputs, "float32")

    progress = []
    edgeseq_runtime.measure_bench(
        bundle, peers={"numpy": peer}, seconds=0.002, steps=3, progress=lambda done, total: progress.append((done, total))
    )
    first, second = seen[:2]
    assert set(first) == {"x", "lengths", "h", "c"}
    assert first["x"].shape == (1, 1, 3)
    np.testing.assert_array_equal(second["h"], model.expect(first, "float32")["h_out"])
    assert seen[-1]["x"].shape == (3, 1, 3)
    assert progress == [(done, 40) for done in range(1, 41)]


def test_inputs_repeat_the_reference_along_time_and_batch(bundle):
    opened = edgeseq_runtime.open_bundle(bundle)
    (case, *_) = opened.reference()[1:]
    example = case.draw_inputs(0)
    T, B = example["x"].shape[:2]
    made = inputs_at(interface_of(opened.manifest), example, 2 * T + 1, B + 1)
    assert made["x"].shape == (2 * T + 1, B + 1, 3)
    np.testing.assert_array_equal(made["x"][T : 2 * T, :B], example["x"])
    np.testing.assert_array_equal(made["x"][:T, B], example["x"][:, 0])
    assert made["lengths"].tolist() == [2 * T + 1] * (B + 1)
    assert made["lengths"].dtype == np.int32


def test_inputs_of_an_unknown_model_are_zeros_and_ones():
    specs = (
        edgeseq_runtime.TensorSpec("x", "float32", ("B", "T", 3)),
        edgeseq_runtime.TensorSpec("ids", "int64", ("T", "width")),
        edgeseq_runtime.TensorSpec("flag", "bool", (2,)),
    )
    made = inputs_at(Interface(specs, ()), {}, 4, 2)
    assert {name: (array.shape, array.dtype.name, array.max()) for name, array in made.items()} == {
        "x": ((2, 4, 3), "float32", 0),
        "ids": ((4, 1), "int64", 1),
        "flag": ((2,), "bool", False),
    }


@pytest.mark.parametrize("option", [{"steps": 0}, {"batch": 0}, {"seconds": 0}])
def test_an_empty_measurement_is_refused(bundle, option):
    with pytest.raises(UsageError, match="give 1 or more"):
        edgeseq_runtime.measure_bench(bundle, **option)
