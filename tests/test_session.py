"""Opening a model and running whole sequences."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pytest
import runtime_models
from onnx import helper

import edgeseq_runtime
from edgeseq_runtime.errors import BadManifest, InputError, ProviderError, UsageError
from edgeseq_runtime.plan import plan_for_device

ONE_CASE = ({"T": 4, "B": 2},)
MODELS = [
    runtime_models.lstm(),
    runtime_models.lstm(lengths=True),
    runtime_models.gru(),
    runtime_models.gru(lbr=0),
    runtime_models.bidirectional_rnn(),
    runtime_models.strided_gru(),
]


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    model = runtime_models.lstm(lengths=True)
    return model, edgeseq_runtime.load(model.write(tmp_path_factory.mktemp("b") / "m.edgeseq", ONE_CASE, draws=2))


def drawn(model, T=4, B=2, seed=0):
    return model.draw({"T": T, "B": B}, np.random.default_rng(seed))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (4, 2), (33, 5)])
def test_outputs_equal_the_equations_at_any_size(model, T, B, tmp_path):
    session = edgeseq_runtime.load(model.write(tmp_path / "m.edgeseq", ONE_CASE, draws=2))
    inputs = drawn(model, T, B)
    outputs = session.run(inputs)
    assert list(outputs) == [spec.name for spec in model.outputs]
    for name, expected in model.expect(inputs).items():
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], expected, atol=2e-6)


def test_interface_is_what_the_bundle_declares(lstm):
    model, session = lstm
    assert session.inputs == model.inputs
    assert session.outputs == model.outputs
    assert session.state == {"h": "h_out", "c": "c_out"}
    assert session.providers == ("CPUExecutionProvider",)
    assert session.plan.precision == "fp32"


def test_a_plain_onnx_says_the_same_of_its_tensors(tmp_path):
    model = runtime_models.gru()
    (tmp_path / "m.onnx").write_bytes(model.onnx)
    session = edgeseq_runtime.load(tmp_path / "m.onnx")
    assert session.inputs == model.inputs
    assert session.state == {}
    np.testing.assert_allclose(session.run(drawn(model))["y"], model.expect(drawn(model))["y"], atol=2e-6)


def test_unnamed_axes_of_a_plain_onnx_are_named_after_the_input(tmp_path):
    proto = onnx.load_from_string(runtime_models.gru().onnx)
    proto.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    onnx.save(proto, tmp_path / "m.onnx")
    assert edgeseq_runtime.load(tmp_path / "m.onnx").inputs[0].shape == ("T", "x_1", 3)


def test_a_plain_onnx_finds_its_weights_beside_it(tmp_path):
    model = runtime_models.gru(16, 32)
    proto = onnx.load_from_string(model.onnx)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=256, location="weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    outputs = edgeseq_runtime.load(tmp_path / "m.onnx").run(drawn(model))
    np.testing.assert_allclose(outputs["y"], model.expect(drawn(model))["y"], atol=2e-6)


def test_state_left_out_altogether_is_zeros(lstm):
    model, session = lstm
    inputs = drawn(model, 5, 3)
    zeroed = {name: array * 0 if name in session.state else array for name, array in inputs.items()}
    left_out = {name: array for name, array in inputs.items() if name not in session.state}
    for name, array in session.run(zeroed).items():
        np.testing.assert_array_equal(session.run(left_out)[name], array)


def test_state_left_out_in_part_is_an_error(lstm):
    model, session = lstm
    inputs = drawn(model)
    del inputs["c"]
    with pytest.raises(InputError, match="missing: \\['c'\\]"):
        session.run(inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 2, 3))}, "dtype float64"),
        ({"x": np.zeros((4, 2, 3), ">f4")}, "dtype >f4"),
        ({"x": np.zeros((4, 2), np.float32)}, "2 dimensions"),
        ({"x": np.zeros((4, 2, 5), np.float32)}, "size 5 in dimension 2"),
        ({"x": np.zeros((4, 3, 3), np.float32)}, "axis 'B' has size"),
        ({"x": [[[0.0] * 3] * 2] * 4}, "list; give a numpy array"),
        ({"X": np.zeros(1)}, "unknown: \\['X'\\]"),
        ({"lengths": np.array([0, 4], np.int32)}, "lengths 0..4; they must be in 1..4"),
        ({"lengths": np.array([5, 4], np.int32)}, "lengths 4..5; they must be in 1..4"),
        ({"lengths": np.array([1.0, 4.0])}, "give integers"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(lstm, change, message):
    model, session = lstm
    with pytest.raises(InputError, match=message):
        session.run({**drawn(model), **change})


def test_lengths_of_any_integer_width_are_taken(lstm):
    model, session = lstm
    inputs = drawn(model)
    wide = {**inputs, "lengths": inputs["lengths"].astype(np.int64)}
    np.testing.assert_array_equal(session.run(wide)["y"], session.run(inputs)["y"])


@pytest.mark.parametrize("suffix", ["edgeseq", "onnx"])
@pytest.mark.parametrize(("T", "B"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("model", [runtime_models.lstm(), runtime_models.gru()], ids=lambda model: model.name)
def test_an_empty_batch_or_sequence_is_an_error_and_not_the_end_of_the_process(model, T, B, suffix, tmp_path):
    if suffix == "onnx":
        (tmp_path / "m.onnx").write_bytes(model.onnx)
    else:
        model.write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    session = edgeseq_runtime.load(tmp_path / f"m.{suffix}")
    inputs = {name: array[:T, :B] if name == "x" else array[:, :B] for name, array in drawn(model, 2, 2).items()}
    with pytest.raises(InputError, match="is empty: axis"):
        session.run(inputs)


def test_without_the_check_onnx_runtime_would_end_the_process(tmp_path):
    """What the test above is worth: the same call straight to ONNX Runtime does not come back."""
    (tmp_path / "m.onnx").write_bytes(runtime_models.lstm().onnx)
    code = (
        "import sys, numpy as np, onnxruntime as ort; s = ort.InferenceSession(sys.argv[1]); z = np.zeros;"
        "s.run(None, {'x': z((2, 0, 3), 'f'), 'h': z((1, 0, 8), 'f'), 'c': z((1, 0, 8), 'f')})"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.onnx")], capture_output=True, check=False)
    if ended.returncode == 0:
        pytest.skip("this ONNX Runtime takes an empty batch")
    assert ended.returncode < 0


def test_what_only_the_model_can_see_is_an_input_error(tmp_path):
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    inputs = (edgeseq_runtime.TensorSpec("x", "int32", ("T",)),)
    outputs = (edgeseq_runtime.TensorSpec("y", "float32", ("T", 2)),)
    table = {"table": np.zeros((3, 2), np.float32)}
    (tmp_path / "m.onnx").write_bytes(runtime_models.model_bytes(nodes, table, inputs, outputs))
    session = edgeseq_runtime.load(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"onnxruntime .* can't compute the model on these inputs: .*out of data bounds"):
        session.run({"x": np.array([7], np.int32)})


def test_threads_share_a_session(lstm):
    model, session = lstm
    inputs = [drawn(model, 30, 2, seed) for seed in range(40)]
    alone = [session.run(one)["y"] for one in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: session.run(one)["y"], inputs * 5))
    for index, y in enumerate(together):
        np.testing.assert_array_equal(y, alone[index % 40])


def test_an_unknown_precision_names_those_there_are(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    with pytest.raises(UsageError, match="no precision 'int8'; it has: fp32"):
        edgeseq_runtime.load(path, precision="int8")
    (tmp_path / "m.onnx").write_bytes(runtime_models.gru().onnx)
    with pytest.raises(UsageError, match="precision 'int8' needs a bundle"):
        edgeseq_runtime.load(tmp_path / "m.onnx", precision="int8")


def test_files_that_are_not_there_or_no_model(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        edgeseq_runtime.load(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="No such file"):
        edgeseq_runtime.load(tmp_path / "m.edgeseq")
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(UsageError, match="can't load the model"):
        edgeseq_runtime.load(tmp_path / "m.onnx")


def test_a_provider_that_is_not_there_is_an_error(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ProviderError, match=r"asks for CUDAExecutionProvider; .*edgeseq\[gpu\].*device 'cpu'"):
        edgeseq_runtime.load(path, device="cuda")


def test_a_provider_promised_and_not_got_is_an_error(tmp_path, monkeypatch, capsys):
    """`get_available_providers` names what the machine does not have; only the session tells."""
    from edgeseq_runtime.backends import onnxruntime_backend as backend

    real = backend.ort.InferenceSession

    def silent_fallback(model, options, providers, **others):
        return real(model, options, providers=["CPUExecutionProvider"], **others)

    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(backend.ort, "InferenceSession", silent_fallback)
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    with pytest.raises(ProviderError, match=r"asks for CUDAExecutionProvider; the session got \['CPUExecutionProvider'\]"):
        edgeseq_runtime.load(path, device="cuda")


def test_a_backend_that_is_not_installed_says_which_extra_brings_it(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "edgeseq_runtime.backends.onnxruntime_backend", raising=False)
    monkeypatch.delattr("edgeseq_runtime.backends.onnxruntime_backend", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    with pytest.raises(ProviderError, match=r'pip install "edgeseq\[ort\]"'):
        edgeseq_runtime.load(path)


def test_a_backend_that_is_unknown_is_an_error(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    bundle = edgeseq_runtime.open_bundle(path)
    plan = msgspec.structs.replace(edgeseq_runtime.make_plan(bundle), backend="abacus")
    with pytest.raises(ProviderError, match="backend 'abacus'; this release has: native, onnxruntime"):
        edgeseq_runtime.open_session(bundle, plan)


def test_a_bundle_whose_model_is_another_is_refused(tmp_path):
    model = runtime_models.gru()
    renamed = onnx.load_from_string(model.onnx)
    renamed.graph.input[0].name = runtime_models.node_of(renamed, "GRU").input[0] = "sound"
    path = replace(model, onnx=renamed.SerializeToString()).write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    with pytest.raises(BadManifest, match=r"declares the inputs \[x: .* and its fp32 model has \[sound: "):
        edgeseq_runtime.load(path)


def test_a_tensor_that_numpy_can_not_hold_is_refused(tmp_path):
    proto = onnx.load_from_string(runtime_models.gru().onnx)
    proto.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.STRING, [1]))
    proto.graph.node.append(helper.make_node("Constant", [], ["s"], value_strings=["a"]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UsageError, match=r"'s' of the model is a tensor\(string\)"):
        edgeseq_runtime.load(tmp_path / "m.onnx")


def test_a_plan_is_made_without_touching_the_device(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1, hazards=("rule: text",))
    plan = edgeseq_runtime.make_plan(edgeseq_runtime.open_bundle(path), "cuda")
    assert plan.providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert plan.provider_options["CUDAExecutionProvider"]["use_tf32"] == "0"
    assert plan.hazards[0] == "rule: text"
    assert any(hazard.startswith("cuda-falls-back-per-node: ") for hazard in plan.hazards)
    with pytest.raises(AttributeError):
        plan.threads = 3


def test_one_thread_unless_said():
    assert plan_for_device("cpu").threads == 1
    assert plan_for_device("cpu", threads=3).threads == 3
    with pytest.raises(UsageError, match="threads is 0"):
        plan_for_device("cpu", threads=0)


def test_nothing_is_written_to_the_terminal_by_a_refused_call(tmp_path, capfd):
    test_what_only_the_model_can_see_is_an_input_error(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_plan_is_carried_out(tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    bundle = edgeseq_runtime.open_bundle(path)
    plan = msgspec.structs.replace(
        edgeseq_runtime.make_plan(bundle, threads=2), session_options={"session.disable_prepacking": "1"}
    )
    session = edgeseq_runtime.open_session(bundle, plan)
    options = session._model._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert session.plan == plan
