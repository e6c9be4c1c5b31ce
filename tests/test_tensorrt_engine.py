"""Engines on an emulated GPU: a CUDA runtime in C and bindings of TensorRT's versions, whose engines ONNX Runtime computes.

The reference is NumPy's equations. What only a GPU can show is in tests/test_gpu.py.
"""

from __future__ import annotations

import gc
import itertools
import threading

import msgspec
import numpy as np
import onnx
import pytest
import runtime_models
from emulated_cuda import COMPILER, EmulatedCuda
from emulated_tensorrt import Emulation
from onnx import TensorProto, helper, numpy_helper

from edgeseq_runtime import measure_parity, open_bundle
from edgeseq_runtime.backends import tensorrt_backend
from edgeseq_runtime.backends.cuda import Cuda, CudaFailed, open_cuda
from edgeseq_runtime.backends.engine_store import read_engine
from edgeseq_runtime.backends.tensorrt_backend import compile_engine, opened_engine
from edgeseq_runtime.backends.tensorrt_library import Library
from edgeseq_runtime.detect.libraries import find_library
from edgeseq_runtime.device import load_device
from edgeseq_runtime.errors import InputError, ProviderError, UsageError
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.plan import make_plan, plan_for_device
from edgeseq_runtime.session import Session

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler to make the emulated CUDA runtime with")

VERSIONS = {
    "8.5": ("8.5.2", "tensorrt"),
    "8.6": ("8.6.1", "tensorrt"),
    "10": ("10.3.0", "tensorrt"),
    "11": ("11.4.1", "tensorrt"),
    "rtx": ("1.7.1", "tensorrt_rtx"),
}
MODELS = {
    "lstm": runtime_models.lstm(),
    "lstm with lengths": runtime_models.lstm(lengths=True),
    "gru": runtime_models.gru(),
    "bidirectional rnn": runtime_models.bidirectional_rnn(),
    "strided gru": runtime_models.strided_gru(),
}
SIZES = {"strided gru": ({"T": 2, "B": 1}, {"T": 8, "B": 3}, {"T": 20, "B": 2})}
NEW = ["8.6", "10", "11", "rtx"]  # versions that have several contexts at once, and graphs


def emulated(which="10", **changes):
    cuda = EmulatedCuda(**changes)
    version, name = VERSIONS[which]
    return Emulation(version, cuda, name=name)


def opened(bundle, emulation, base, axes=(), precision="fp32", progress=lambda *step: None):
    """A session on an engine of the emulation."""
    plan = make_plan(bundle, "tensorrt", axes=axes, precision=precision)
    model = opened_engine(Library(emulation.bindings), emulation.cuda, bundle.model(precision), plan, base, progress)
    return Session(model, interface_of(bundle.manifest), plan, bundle.sha256)


@pytest.fixture
def base(tmp_path):
    return tmp_path / "engines"


def bundle_of(name, tmp_path):
    return open_bundle(MODELS[name].write(tmp_path / "model.edgeseq", SIZES.get(name, runtime_models.SIZES)))


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    return bundle_of("lstm", tmp_path_factory.mktemp("lstm"))


@pytest.mark.parametrize(("name", "which"), [("lstm", which) for which in VERSIONS] + [(name, "10") for name in list(MODELS)[1:]])
def test_every_version_is_at_parity_whole_and_streamed(name, which, tmp_path, base):
    bundle = bundle_of(name, tmp_path)
    report = measure_parity(bundle.path, session=opened(bundle, emulated(which), base))
    assert report.passed, report.to_json()
    assert report.providers == ("TensorRTEngine",)
    assert {row.mode for row in report.rows} == ({"whole", "stream"} if bundle.state else {"whole"})


@pytest.mark.parametrize(
    ("which", "precision", "expected"),
    [
        ("8.5", "fp32", {"network EXPLICIT_BATCH", "WORKSPACE 1073741824"}),
        ("8.5", "fp16", {"network EXPLICIT_BATCH", "builder FP16", "builder TF32", "WORKSPACE 1073741824"}),
        ("8.6", "fp32", {"network EXPLICIT_BATCH", "WORKSPACE 1073741824"}),
        ("10", "fp32", {"network STRONGLY_TYPED", "WORKSPACE 1073741824"}),
        ("10", "fp16", {"network STRONGLY_TYPED", "builder TF32", "WORKSPACE 1073741824"}),
        ("11", "fp32", {"WORKSPACE 1073741824"}),
        ("11", "fp16", {"builder TF32", "WORKSPACE 1073741824"}),
        ("rtx", "fp32", {"network STRONGLY_TYPED", "builder REQUIRE_USER_ALLOCATION", "WORKSPACE 1073741824"}),
    ],
)
def test_a_network_is_typed_as_the_version_does_it_and_tf32_is_off_in_float32(which, precision, expected, lstm, base):
    emulation = emulated(which)
    plan = msgspec.structs.replace(make_plan(lstm, "tensorrt"), precision=precision)
    opened_engine(Library(emulation.bindings), emulation.cuda, lstm.model(), plan, base, lambda *step: None)
    assert {line for line in emulation.log if not line.startswith("kernels")} == expected


def chunks(T, sizes):
    """Where pieces of these sizes in turn begin and end."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= T:
            return
        yield slice(at, min(at + size, T))
        at += size


@pytest.mark.parametrize("which", VERSIONS)
def test_a_stream_of_pieces_of_any_size_is_the_whole_sequence(which, lstm, base):
    session = opened(lstm, emulated(which), base)
    inputs = MODELS["lstm"].draw({"T": 40, "B": 2}, np.random.default_rng(1))
    inputs = {name: np.zeros_like(array) if name in session.state else array for name, array in inputs.items()}
    expected = MODELS["lstm"].expect(inputs)
    stream = session.stream(batch=2)
    pieces = [stream.step({"x": inputs["x"][piece]})["y"] for piece in chunks(40, (1, 1, 1, 3, 1, 5))]
    np.testing.assert_allclose(np.concatenate(pieces), expected["y"], atol=1e-6)
    for name, output in session.state.items():
        np.testing.assert_allclose(stream.state[name], expected[output], atol=1e-6)


@pytest.mark.parametrize("which", VERSIONS)
def test_the_state_never_leaves_the_device_between_steps(which, lstm, base):
    emulation = emulated(which)
    stream = opened(lstm, emulation, base).stream()
    x = np.random.default_rng(0).standard_normal((30, 1, 3)).astype(np.float32)
    stream.step({"x": x[:1]})
    before, allocated = emulation.cuda.copies, emulation.cuda.live
    for t in range(1, 30):
        stream.step({"x": x[t : t + 1]})
    after = emulation.cuda.copies
    assert {way: after[way] - before[way] for way in after} == {"in": 29, "out": 29}  # x in, y out, and nothing else
    if which != "8.5":
        assert emulation.cuda.live == allocated


@pytest.mark.parametrize("which", NEW)
def test_a_step_is_captured_once_for_each_shape_and_turn_and_replayed(which, lstm, base):
    emulation = emulated(which)
    cuda = emulation.cuda
    stream = opened(lstm, emulation, base).stream()
    x = np.random.default_rng(0).standard_normal((100, 1, 3)).astype(np.float32)
    for t in range(10):
        stream.step({"x": x[t : t + 1]})
    # Each of the two calls runs once, and is then recorded, which enqueues once more.
    assert (cuda.count("cudaStreamBeginCapture"), emulation.enqueued, cuda.count("cudaGraphLaunch")) == (2, 4, 8)
    for t in range(10, 30, 4):
        stream.step({"x": x[t : t + 4]})
    assert (cuda.count("cudaStreamBeginCapture"), emulation.enqueued) == (4, 8)
    for t in range(30, 40):
        stream.step({"x": x[t : t + 1]})
    assert (cuda.count("cudaStreamBeginCapture"), emulation.enqueued) == (4, 8)
    assert cuda.count("cudaGraphInstantiateWithFlags") == cuda.count("cudaGraphDestroy") == 4
    # A graph keeps the kernels that were there when it was captured: TensorRT-RTX's final ones.
    assert emulation.eager == (4 if which == "rtx" else 0)


def test_a_version_with_one_context_a_profile_takes_turns_and_captures_nothing(lstm, base):
    emulation = emulated("8.5")
    session = opened(lstm, emulation, base)
    inputs = MODELS["lstm"].draw({"T": 12, "B": 1}, np.random.default_rng(2))
    x = {0: inputs["x"], 1: -inputs["x"]}
    streams = {which: session.stream() for which in x}
    got = {which: [] for which in x}
    for t in range(12):
        for which, stream in streams.items():
            got[which].append(stream.step({"x": x[which][t : t + 1]})["y"])
        session.run({"x": x[0][: t + 1]})
    for which, pieces in got.items():
        expected = session.run({"x": x[which]})["y"]
        np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-6)
    assert emulation.contexts == 1
    assert emulation.cuda.count("cudaStreamBeginCapture") == 0


@pytest.mark.parametrize("which", VERSIONS)
def test_streams_and_runs_in_several_threads_do_not_meet(which, lstm, base):
    session = opened(lstm, emulated(which), base)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 60, 1, 3)).astype(np.float32)
    zeros = {name: np.zeros(array.shape, array.dtype) for name, array in MODELS["lstm"].draw({"T": 1, "B": 1}, rng).items()}
    expected = [MODELS["lstm"].expect({**zeros, "x": one})["y"] for one in x]
    wrong = []

    def streamed(number):
        stream = session.stream()
        pieces = [stream.step({"x": x[number, piece]})["y"] for piece in chunks(60, (1, 2))]
        if not np.allclose(np.concatenate(pieces), expected[number], atol=1e-6):
            wrong.append(number)

    def whole(number):
        if not all(np.allclose(session.run({"x": x[number]})["y"], expected[number], atol=1e-6) for _ in range(10)):
            wrong.append(-number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4) for work in (streamed, whole)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("which", ["8.5", "10"])
def test_the_state_can_be_read_set_cleared_and_rearranged(which, lstm, base):
    session = opened(lstm, emulated(which), base)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6, 3, 3)).astype(np.float32)
    stream = session.stream(batch=3)
    first = stream.step({"x": x[:3]})["y"]
    snapshot, state = stream.snapshot(), stream.state
    after = stream.step({"x": x[3:]})["y"]
    np.testing.assert_allclose(np.concatenate([first, after]), session.run({"x": x})["y"], atol=1e-6)
    stream.restore(snapshot)
    np.testing.assert_array_equal(stream.step({"x": x[3:]})["y"], after)
    stream.state = state
    np.testing.assert_array_equal(stream.step({"x": x[3:]})["y"], after)
    stream.state = state
    stream.select(np.array([2, 2, 0]))
    np.testing.assert_allclose(stream.step({"x": x[3:][:, [2, 2, 0]]})["y"], after[:, [2, 2, 0]], atol=1e-6)
    stream.reset()
    np.testing.assert_array_equal(stream.step({"x": x[:3]})["y"], first)


def test_sizes_beyond_every_profile_are_refused_and_the_narrowest_profile_is_taken(lstm, base):
    emulation = emulated("10")
    session = opened(lstm, emulation, base, axes=["T=1:4:20", "B=1:1:2"])
    model = session._model
    zeros = {spec.name: np.zeros([1 if size == "B" else size for size in spec.shape], np.float32) for spec in session.inputs[1:]}
    assert model.record.facts.profiles == ("B=1:1:2 T=1:4:20", "B=1:1:2 T=1")
    assert model.profile_for({**zeros, "x": np.zeros((1, 1, 3), np.float32)}) == 1
    assert model.profile_for({**zeros, "x": np.zeros((2, 1, 3), np.float32)}) == 0
    with pytest.raises(InputError, match=r"T is 21, the engine allows 1:4:20; T is 21, the engine allows 1; plan for wider"):
        session.run({"x": np.zeros((21, 1, 3), np.float32)})
    with pytest.raises(InputError, match=r"B is 3, the engine allows 1:1:2"):
        session.stream(batch=3).step({"x": np.zeros((1, 3, 3), np.float32)})


def whole_numbers(lengthy=False):
    """tokens (int64) by a table, cut to the longest of `lengths`; or the first `longest` of them."""
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    vi = helper.make_tensor_value_info
    size = "max(lengths)" if lengthy else "value(longest)"
    extra = vi("lengths", TensorProto.INT32, ["B"]) if lengthy else vi("longest", TensorProto.INT64, [])
    found = [helper.make_node("ReduceMax", ["lengths"], ["most"], keepdims=0), helper.make_node("Cast", ["most"], ["end"], to=7)]
    nodes = [
        *(found if lengthy else [helper.make_node("Identity", ["longest"], ["end"])]),
        helper.make_node("Unsqueeze", ["end", "zero"], ["ends"]),
        helper.make_node("Slice", ["tokens", "zero", "ends", "zero"], ["kept"]),
        helper.make_node("Gather", ["table", "kept"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "numbers",
        [vi("tokens", TensorProto.INT64, ["T", "B"]), extra],
        [vi("y", TensorProto.FLOAT, [size, "B", 2]), vi("kept", TensorProto.INT64, [size, "B"])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([0], np.int64), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString(), table


def plain(model, emulation, base):
    plan = plan_for_device(load_device("tensorrt"))
    return opened_engine(Library(emulation.bindings), emulation.cuda, model, plan, base, lambda *step: None)


@pytest.mark.parametrize("which", VERSIONS)
def test_an_output_whose_size_the_data_tell_is_allocated_by_the_engine(which, base):
    model, table = whole_numbers(lengthy=True)
    emulation = emulated(which)
    loaded = plain(model, emulation, base)
    tokens = np.random.default_rng(5).integers(0, 10, (9, 2))
    call = None
    for longest in (4, 9, 1, 7):
        lengths = np.array([1, longest], np.int32)
        results = loaded.run({"tokens": tokens, "lengths": lengths})
        np.testing.assert_array_equal(results["y"], table[tokens[:longest]])
        np.testing.assert_array_equal(results["kept"], tokens[:longest])
        assert results["kept"].dtype == np.int64
        if call is None:
            bound = {"tokens": tokens, "lengths": lengths.copy()}
            call = loaded.bind(bound, {"y": None, "kept": None})
        bound["lengths"][:] = lengths
        call()
        np.testing.assert_array_equal(call.computed()["y"], table[tokens[:longest]])
    assert not call.captured
    assert "known only when it is computed" in call.why_not_captured or which == "8.5"


@pytest.mark.parametrize("which", VERSIONS)
def test_an_input_that_sets_a_size_has_a_range_of_values_and_is_read_on_the_host(which, base):
    model, table = whole_numbers()
    emulation = emulated(which)
    loaded = plain(model, emulation, base)
    assert loaded.record.facts.profiles == ("B=1:1:8 T=1:100:1000 longest=1:100:1000",)
    tokens = np.random.default_rng(6).integers(0, 10, (9, 2))
    longest = np.array(0)
    call = loaded.bind({"tokens": tokens, "longest": longest}, {"y": None, "kept": None})
    for value in (4, 9, 2):
        results = loaded.run({"tokens": tokens, "longest": np.array(value)})
        np.testing.assert_array_equal(results["y"], table[tokens[:value]])
        longest[...] = value
        call()
        np.testing.assert_array_equal(call.computed()["kept"], tokens[:value])
    assert not call.captured
    with pytest.raises(InputError, match=r"longest is 0, the engine allows 1:100:1000"):
        loaded.run({"tokens": tokens, "longest": np.array(0)})


def test_whole_numbers_that_an_older_version_narrows_are_checked(base):
    model, table = whole_numbers(lengthy=True)
    loaded = plain(model, emulated("8.6"), base)
    lengths = np.array([2], np.int32)
    np.testing.assert_array_equal(loaded.run({"tokens": np.array([[3], [1]]), "lengths": lengths})["y"], table[[[3], [1]]])
    with pytest.raises(InputError, match=r"input 'tokens' holds values beyond int32, which this TensorRT computes it in"):
        loaded.run({"tokens": np.array([[2**32 + 3], [1]]), "lengths": lengths})


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"])
def test_a_step_that_can_not_be_captured_runs_as_it_is(call, lstm, base):
    emulation = emulated("10")
    emulation.cuda.fail(call, 900)
    session = opened(lstm, emulation, base)
    x = np.random.default_rng(7).standard_normal((9, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(stepped(session, x), session.run({"x": x})["y"], atol=1e-6)
    assert emulation.cuda.count("cudaGraphLaunch") == 3  # of the other turn's call, which was captured


@pytest.mark.parametrize("which", ["10", "rtx"])
def test_an_engine_that_can_not_be_captured_is_asked_or_tried_once_a_call_and_runs_as_it_is(which, lstm, base):
    emulation = emulated(which)
    emulation.capturable = False
    session = opened(lstm, emulation, base)
    x = np.random.default_rng(11).standard_normal((9, 1, 3)).astype(np.float32)
    np.testing.assert_allclose(stepped(session, x), session.run({"x": x})["y"], atol=1e-6)
    assert emulation.cuda.count("cudaStreamBeginCapture") == (2 if which == "10" else 0)  # TensorRT-RTX says so before
    assert emulation.cuda.count("cudaGraphLaunch") == 0


def stepped(session, x):
    """What a stream gives, step by step."""
    stream = session.stream()
    return np.concatenate([stream.step({"x": x[t : t + 1]})["y"] for t in range(len(x))])


@pytest.mark.parametrize(
    "call", ["cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_what_cuda_refuses_is_an_error_with_cudas_words(call, lstm, base):
    emulation = emulated("10")
    session = opened(lstm, emulation, base)
    emulation.cuda.fail(call, 2)
    with pytest.raises(CudaFailed, match=rf"{call} failed: out of memory \(cudaError 2\)"):
        session.run({"x": np.zeros((3, 1, 3), np.float32)})
    assert session.run({"x": np.zeros((3, 1, 3), np.float32)})["y"].shape[0] == 3


def test_a_graph_that_can_not_be_launched_is_an_error_and_the_state_stays(lstm, base):
    emulation = emulated("10")
    stream = opened(lstm, emulation, base).stream()
    x = np.random.default_rng(8).standard_normal((6, 1, 3)).astype(np.float32)
    for t in range(3):
        stream.step({"x": x[t : t + 1]})
    state = stream.state
    emulation.cuda.fail("cudaGraphLaunch", 719)
    with pytest.raises(ProviderError, match="cudaGraphLaunch failed"):
        stream.step({"x": x[3:4]})
    assert all(np.array_equal(array, state[name]) for name, array in stream.state.items())


def test_memory_is_given_back(lstm, base):
    emulation = emulated("10")
    session = opened(lstm, emulation, base)
    session.run({"x": np.zeros((3, 1, 3), np.float32)})
    gc.collect()
    before = emulation.cuda.live
    for _ in range(3):
        stream = session.stream(batch=2)
        for size in (1, 2, 1, 3):
            stream.step({"x": np.zeros((size, 2, 3), np.float32)})
        assert emulation.cuda.live > before
        del stream
        gc.collect()
        assert emulation.cuda.live == before
    del session
    gc.collect()
    assert emulation.cuda.live == (0, 0)


def test_run_keeps_the_calls_of_the_last_shapes_only(lstm, base):
    emulation = emulated("10")
    session = opened(lstm, emulation, base)
    for T in range(1, 40):
        assert session.run({"x": np.zeros((T, 1, 3), np.float32)})["y"].shape[0] == T
    contexts = emulation.contexts
    for T in range(30, 40):
        session.run({"x": np.zeros((T, 1, 3), np.float32)})
    assert emulation.contexts == contexts == 39
    gc.collect()
    assert emulation.cuda.live[0] <= 16 * 7  # three inputs and outputs of each call kept, and the model's own


@pytest.mark.parametrize("which", ["8.5", "10", "rtx"])
def test_a_pool_runs_on_an_engine(which, lstm, base):
    session = opened(lstm, emulated(which), base)
    x = np.random.default_rng(10).standard_normal((3, 12, 1, 3)).astype(np.float32)
    expected = [session.run({"x": one})["y"] for one in x]
    with session.pool(capacity=4, workers=1) as pool:
        streams = [pool.join() for _ in x]
        for t in range(12):
            for number, stream in enumerate(streams):
                y = stream.step({"x": x[number, t : t + 1]})["y"]
                np.testing.assert_allclose(y, expected[number][t : t + 1], atol=1e-6)


def test_where_the_engine_can_not_be_kept_it_is_used_and_that_is_said_once(lstm, base, capsys, monkeypatch):
    monkeypatch.setattr("edgeseq_runtime.backends.engine_store.write_whole", lambda path, data: "No space left on device")
    builds, error = rebuilt(lstm, base, capsys, emulated())
    assert builds == 1
    assert error.count("used and not kept") == error.count("No space left on device") == 1


# The cache, from the outside.


def rebuilt(lstm, base, capsys, emulation):
    """How often an engine was built to open a session, and what was said of it."""
    capsys.readouterr()
    session = opened(lstm, emulation, base)
    x = np.random.default_rng(9).standard_normal((5, 1, 3)).astype(np.float32)
    zeros = {name: np.zeros((1, 1, 8), np.float32) for name in session.state}
    np.testing.assert_allclose(session.run({"x": x})["y"], MODELS["lstm"].expect({"x": x, **zeros})["y"], atol=1e-6)
    return emulation.builds, capsys.readouterr().err


def test_an_engine_is_built_once_and_kept(lstm, base, capsys):
    assert rebuilt(lstm, base, capsys, emulated()) == (1, "")
    assert rebuilt(lstm, base, capsys, emulated()) == (0, "")
    (kept,) = base.glob("*.engine")
    record, _ = read_engine(kept)
    assert (record.facts.gpu, record.facts.compute_capability, record.facts.tensorrt) == ("Emulated Orin", "8.7", "tensorrt 10.3.0")
    assert (record.facts.cuda, record.facts.driver) == ("12.6", "CUDA 12.6")


@pytest.mark.parametrize(
    ("which", "changes", "said"),
    [
        ("10", {"gpu": "Emulated Thor"}, "gpu is 'Emulated Orin', not 'Emulated Thor'"),
        ("10", {"capability": "11.0"}, "compute_capability is '8.7', not '11.0'"),
        ("10", {"driver": "13.0"}, "driver is 'CUDA 12.6', not 'CUDA 13.0'"),
        ("10", {"runtime": "13.0"}, "cuda is '12.6', not '13.0'"),
        ("11", {}, "tensorrt is 'tensorrt 10.3.0', not 'tensorrt 11.4.1'"),
    ],
)
def test_an_engine_of_another_gpu_or_version_is_built_anew_and_says_why(which, changes, said, lstm, base, capsys):
    rebuilt(lstm, base, capsys, emulated())
    builds, error = rebuilt(lstm, base, capsys, emulated(which, **changes))
    assert builds == 1
    assert error.count(said) == 1
    assert rebuilt(lstm, base, capsys, emulated()) == (0, "")  # the first is still there


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: len(data) // 2], "it was cut short"),
        (lambda data: data[:30], "it was cut short"),
        (lambda data: b"", "no engine that this release wrote"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "another sha256"),
        (lambda data: data + b"x", "it was cut short|holds"),
        (lambda data: data.replace(b'"precision":"fp32"', b'"precision":"fp16"'), "precision is 'fp16', not 'fp32'"),
        (lambda data: data.replace(b'"facts"', b'"fact5"'), "a record that does not parse"),
    ],
)
def test_a_damaged_engine_is_built_anew_and_says_why(damage, said, lstm, base, capsys):
    rebuilt(lstm, base, capsys, emulated())
    (kept,) = base.glob("*.engine")
    kept.write_bytes(damage(kept.read_bytes()))
    builds, error = rebuilt(lstm, base, capsys, emulated())
    assert builds == 1
    assert any(part in error for part in said.split("|")), error
    assert rebuilt(lstm, base, capsys, emulated()) == (0, "")


def test_a_whole_engine_that_tensorrt_does_not_load_is_built_anew_once(lstm, base, capsys):
    rebuilt(lstm, base, capsys, emulated())
    emulation = emulated()
    emulation.unloadable = 1
    builds, error = rebuilt(lstm, base, capsys, emulation)
    assert builds == 1
    assert "does not load" in error
    emulation = emulated()
    emulation.unloadable = 2
    with pytest.raises(
        UsageError, match="does not load the engine that it built for Emulated Orin: the emulation does not load it"
    ):
        opened(lstm, emulation, base)


def test_other_ranges_are_another_engine(lstm, base):
    emulation = emulated()
    opened(lstm, emulation, base)
    opened(lstm, emulation, base, axes=["T=1:10:50"])
    assert emulation.builds == 2


def test_times_of_kernels_are_kept_and_given_to_the_next_build(lstm, base):
    emulation = emulated()
    opened(lstm, emulation, base)
    opened(lstm, emulation, base, axes=["T=1:10:50"])
    assert emulation.timings_given == [b"", b"timings of 10.3.0"]
    (kept,) = base.glob("*.timings")
    kept.write_bytes(kept.read_bytes()[:-1])
    opened(lstm, emulation, base, axes=["T=1:10:60"])
    assert emulation.timings_given[2:] == [b""]


def test_kernels_that_tensorrt_rtx_compiles_are_kept(lstm, base, capsys):
    first = emulated("rtx")
    rebuilt(lstm, base, capsys, first)
    second = emulated("rtx")
    rebuilt(lstm, base, capsys, second)
    assert [line for one in (first, second) for line in one.log if line.startswith("kernels")] == [
        "kernels []",
        "kernels [b'kernels']",
    ]


@pytest.mark.parametrize("which", VERSIONS)
def test_a_build_tells_how_far_it_is(which, lstm, base, monkeypatch):
    monkeypatch.setattr("edgeseq_runtime.backends.tensorrt_builder.TICK", 0.01)
    emulation = emulated(which)
    emulation.seconds = 0.02
    told = []
    opened(lstm, emulation, base, progress=lambda *step: told.append(step))
    if which == "8.5":  # has no monitor: the seconds that have passed
        assert len(told) >= 2
        assert all(phase == "building" and total == 0 for phase, _, total in told)
    else:
        assert [done for _, done, _ in told] == [0, 1, 2, 3, 4, 5, 5]


def test_without_a_listener_a_build_is_told_on_standard_error(lstm, base, capsys):
    emulation = emulated()
    opened(lstm, emulation, base, progress=None)
    assert capsys.readouterr().err == "edgeseq: building a TensorRT engine for Emulated Orin: 0 s, Building 0 of 5\n"
    opened(lstm, emulation, base, progress=None)
    assert capsys.readouterr().err == ""


def test_a_listener_that_raises_ends_the_build_and_nothing_is_kept(lstm, base):
    def stop(phase, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(lstm, emulated(), base, progress=stop)
    assert list(base.glob("*.engine")) == []
    emulation = emulated()
    opened(lstm, emulation, base)
    assert emulation.builds == 1


def test_compiling_says_what_was_made_and_where_it_is(lstm, base, monkeypatch):
    emulation = emulated()
    monkeypatch.setattr(tensorrt_backend, "_opened", lambda plan: (Library(emulation.bindings), emulation.cuda))
    plan = make_plan(lstm, "tensorrt", axes=["T=1:10:50"])
    told = []
    made = compile_engine(lstm, plan, lambda *step: told.append(step), base=base)
    assert (made.built, made.runs_here, made.notes) == (True, True, ())
    assert made.record == read_engine(made.path)[0]
    assert made.record.facts.profiles == ("B=1:1:8 T=1:10:50", "B=1:1:8 T=1")
    assert told
    again = compile_engine(lstm, plan, base=base)
    assert (again.path, again.built) == (made.path, False)


def test_a_version_that_is_too_old_is_refused():
    with pytest.raises(ProviderError, match=r"tensorrt 8\.4\.1 is installed; edgeseq runs engines of 8\.5 or newer"):
        Library(Emulation("8.4.1", EmulatedCuda()).bindings)


def test_a_model_that_tensorrt_does_not_parse_or_build_is_refused_with_its_reason(lstm, base):
    emulation = emulated()
    proto = onnx.load_from_string(lstm.model())
    proto.graph.node[0].domain = "com.microsoft"
    plan = make_plan(lstm, "tensorrt")
    with pytest.raises(UsageError, match=r"tensorrt 10\.3\.0 can't parse the model: a node of another domain"):
        opened_engine(Library(emulation.bindings), emulation.cuda, proto.SerializeToString(), plan, base, lambda *step: None)
    options = {"tensorrt": {**plan.provider_options["tensorrt"], "profile": "B=1:1:8"}}
    narrow = msgspec.structs.replace(plan, provider_options=options)
    with pytest.raises(UsageError, match=r"input 'x' has axes \['T'\] without a range; given are \['B'\]"):
        opened_engine(Library(emulation.bindings), emulation.cuda, lstm.model(), narrow, base, lambda *step: None)
    assert list(base.glob("*.engine")) == []


REAL = find_library("libcudart.so")


@pytest.mark.skipif(REAL is None or find_library("libcuda.so.1") is not None, reason="needs CUDA's own runtime, and no GPU")
def test_cudas_own_runtime_has_every_call_and_says_that_there_is_no_gpu():
    cuda = Cuda(REAL)
    for work in (cuda.facts, lambda: cuda.memory(16), lambda: cuda.host_array((2,), np.dtype("float32")), cuda.stream):
        with pytest.raises(CudaFailed, match=r"driver version is insufficient|no CUDA-capable device") as refused:
            work()
        assert refused.value.code in (35, 100)


def test_a_library_that_is_not_cudas_is_refused(tmp_path):
    with pytest.raises(ProviderError, match=r"can't be used: .*; edgeseq needs CUDA 11\.4 or newer"):
        Cuda("libc.so.6")
    with pytest.raises(ProviderError, match="can't be used"):
        Cuda(tmp_path / "libcudart.so")
    with pytest.raises(ProviderError, match=r"libcudart\.so, is in none of the loader's folders"):
        open_cuda(tmp_path)
