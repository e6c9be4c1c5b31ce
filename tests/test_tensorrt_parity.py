"""`tensorrt-network` as a device: sessions, streams, parity; and the compiler. The reference is NumPy's equations."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
import runtime_models
from onnx import helper
from runtime_models import faulty, node_of
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_quantize.half import in_half
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, open_bundle, with_precision
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.errors import BadModel, UsageError
from edgeseq_runtime.forecast import AxisRange
from edgeseq_runtime.tensors import TensorSpec

pytest.importorskip("tensorrt_rtx", reason='needs TensorRT\'s importer, no GPU: pip install "edgeseq[tensorrt-rtx]"')
pytestmark = pytest.mark.tensorrt

DEVICE = "tensorrt-network"
RANGES = {"T": AxisRange(1, 8, 32), "B": AxisRange(1, 1, 4)}
MODELS = {
    "lstm": runtime_models.lstm(),
    "lstm with lengths": runtime_models.lstm(lengths=True),
    "gru": runtime_models.gru(),
    "gru, reset before": runtime_models.gru(lbr=0),
    "gru with lengths": runtime_models.gru(lengths=True),
    "bidirectional rnn": runtime_models.bidirectional_rnn(),
    "strided gru": runtime_models.strided_gru(),
}
SIZES = {"strided gru": ({"T": 2, "B": 1}, {"T": 8, "B": 3}, {"T": 20, "B": 2})}


def written(name, folder):
    return MODELS[name].write(folder / "model.edgeseq", SIZES.get(name, runtime_models.SIZES))


@pytest.mark.parametrize("name", MODELS)
def test_the_parsed_network_is_at_parity(name, tmp_path):
    path = written(name, tmp_path)
    report = edgeseq_runtime.measure_parity(path, device=DEVICE)
    assert report.passed, report.to_json()
    assert report.providers == ("TensorRTNetwork",)
    assert {row.mode for row in report.rows} == ({"whole", "stream"} if MODELS[name].state else {"whole"})


def selu(attributes):
    """y = Selu(x), its constants written out or not."""
    alpha, gamma = np.float32(1.67326319217681884765625), np.float32(1.05070102214813232421875)
    spec = TensorSpec("x", "float32", ("T", "B", 3)), TensorSpec("y", "float32", ("T", "B", 3))

    def equations(inputs, dtype):
        x = inputs["x"].astype(dtype)
        return {"y": dtype.type(gamma) * np.where(x > 0, x, dtype.type(alpha) * np.expm1(x))}

    node = helper.make_node("Selu", ["x"], ["y"], **attributes)
    return runtime_models.Model("selu", runtime_models.model_bytes([node], {}, spec[:1], spec[1:]), equations, spec[:1], spec[1:])


def test_a_difference_of_the_importer_is_a_failure_there_alone(tmp_path):
    left_out = selu({}).write(tmp_path / "left-out.edgeseq")
    assert edgeseq_runtime.measure_parity(left_out, device="cpu").passed
    assert not edgeseq_runtime.measure_parity(left_out, device=DEVICE).passed
    schema = onnx.defs.get_schema("Selu", 20).attributes
    constants = {name: schema[name].default_value.f for name in ("alpha", "gamma")}
    assert edgeseq_runtime.measure_parity(selu(constants).write(tmp_path / "out.edgeseq"), device=DEVICE).passed


def test_a_fault_in_the_graph_is_caught_there_too(tmp_path):
    def swap(proto):
        node_of(proto, "LSTM").attribute.append(helper.make_attribute("activations", ["Sigmoid", "Tanh", "Relu"]))

    path = faulty(MODELS["lstm"], swap).write(tmp_path / "model.edgeseq")
    assert not edgeseq_runtime.measure_parity(path, device=DEVICE).passed


def test_the_command_line_takes_the_device(tmp_path):
    good, bad = written("gru", tmp_path), selu({}).write(tmp_path / "selu.edgeseq")
    finished = [CliRunner().invoke(app, ["parity", str(path), "--device", DEVICE]) for path in (good, bad)]
    assert [one.exit_code for one in finished] == [0, 1]
    assert "tensorrt-network" in finished[0].output


def test_a_stream_keeps_its_state_and_equals_the_whole(tmp_path):
    session = edgeseq_runtime.load(written("lstm", tmp_path), device=DEVICE)
    x = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    stream = session.stream(batch=2)
    pieces = [stream.step({"x": x[a:b]})["y"].copy() for a, b in ((0, 1), (1, 4), (4, 9))]
    whole = session.run({"x": x})
    np.testing.assert_allclose(np.concatenate(pieces), whole["y"], atol=1e-6)
    np.testing.assert_allclose(stream.state["h"], whole["h_out"], atol=1e-6)


def test_sessions_run_in_several_threads(tmp_path):
    session = edgeseq_runtime.load(written("gru", tmp_path), device=DEVICE)
    x = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    alone = session.run({"x": x})["y"]
    results = [None] * 4

    def work(at):
        results[at] = [session.run({"x": x + at})["y"] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(y, alone) for y in results[0])
    assert all(np.array_equal(y, results[3][0]) for y in results[3])


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_parsed_and_at_parity(name, tmp_path):
    bundle = open_bundle(written(name, tmp_path))
    path = with_precision(bundle, "fp16", in_half(bundle.model()), LOW_PRECISION_GATES["fp16"], tmp_path / "both.edgeseq")
    report = edgeseq_runtime.measure_parity(path, device=DEVICE, precision="fp16")
    assert report.passed, report.to_json()
    # Half precision it is: float32 would be a thousand times closer.
    if not MODELS[name].lengths:
        assert report.worst("relative") > 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_built_for_three_generations_of_gpus(name, precision, tmp_path):
    from edgeseq_runtime.backends.tensorrt_builder import build_engine
    from edgeseq_runtime.backends.tensorrt_network_backend import LIBRARY

    model = open_bundle(written(name, tmp_path)).model()
    model = in_half(model) if precision == "fp16" else model
    built = build_engine(LIBRARY, model, [RANGES], precision=precision, capabilities=("8.6", "8.9", "12.0"))
    assert len(built.engine) > 10_000


def test_what_the_compiler_refuses_says_why(tmp_path):
    from edgeseq_runtime.backends.tensorrt_builder import build_engine, known_capabilities
    from edgeseq_runtime.backends.tensorrt_network_backend import LIBRARY

    model = open_bundle(written("gru", tmp_path)).model()
    assert {"8.0", "8.6", "8.9", "12.0", "12.1"} <= set(known_capabilities(LIBRARY))
    with pytest.raises(UsageError, match=r"does not compile for compute capability '8\.7'; for .*'8\.6'"):
        build_engine(LIBRARY, model, [RANGES], capabilities=["8.7"])
    with pytest.raises(UsageError, match=r"input 'x' has axes \['B'\] without a range; given are \['T'\]"):
        build_engine(LIBRARY, model, [{"T": RANGES["T"]}], capabilities=["8.6"])
    text = '<ir_version: 10, opset_import: ["" : 20]> agraph (float[2] x) => (float[2] y) { y = com.none.Such(x) }'
    with pytest.raises(UsageError, match="can't parse the model"):
        build_engine(LIBRARY, onnx.parser.parse_model(text).SerializeToString(), [RANGES], capabilities=["8.6"])
    with pytest.raises(BadModel):
        build_engine(LIBRARY, b"no model", [RANGES], capabilities=["8.6"])


def test_what_cannot_be_built_is_refused_with_the_builder_s_reason():
    from edgeseq_runtime.backends.tensorrt_builder import build_engine
    from edgeseq_runtime.backends.tensorrt_network_backend import LIBRARY

    text = """<ir_version: 10, opset_import: ["" : 20]> agraph (float[T,3] x, int64 axis) => (float[T,3] y) {
        y = CumSum(x, axis)
    }"""
    model = onnx.parser.parse_model(text).SerializeToString()
    with pytest.raises(UsageError, match=r"can't build the model: (?!it gives no reason)"):
        build_engine(LIBRARY, model, [{**RANGES, "axis": AxisRange(0, 0, 1)}], capabilities=["8.6"])


def test_the_compiler_tells_its_progress(tmp_path):
    from edgeseq_runtime.backends.tensorrt_builder import build_engine
    from edgeseq_runtime.backends.tensorrt_network_backend import LIBRARY

    told = []
    model = open_bundle(written("gru", tmp_path)).model()
    build_engine(LIBRARY, model, [RANGES], capabilities=["8.6"], progress=lambda *step: told.append(step))
    assert told
    assert all(0 <= done <= total for _, done, total in told)
