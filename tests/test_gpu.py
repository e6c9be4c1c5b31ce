"""On an NVIDIA GPU, through ONNX Runtime's CUDA and TensorRT providers, and through engines of TensorRT alone.

Skips, with the reason, where there is none.
"""

from __future__ import annotations

import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from recurrent_cases import CASES

import edgeseq_runtime
from edgeseq_export import ExportNotice, export
from edgeseq_quantize.half import in_half
from edgeseq_runtime.backends.engine_store import read_engine
from edgeseq_runtime.backends.tensorrt_library import find_library as find_tensorrt
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, with_precision
from edgeseq_runtime.errors import ProviderError
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.provider_needs import CPU, CUDA, TENSORRT, missing_for, missing_for_engines
from edgeseq_runtime.selftest import builtin_bundle, run_selftest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from library_models import bundle_of

CHOSEN = ("bare-lstm", "bare-gru-state", "subclassed-lstm", "final-state-rnn_tanh", "every-final-state-packed-gru")
# Native nodes, those that the CUDA provider leaves to the CPU, Scans, Loops, convolutions, packed sequences, two directions.
LIBRARY = (
    "VAD", "nn.RNN", "nn.GRU", "nn.LSTM", "GRUCell(reset_after=False)", "LayerNormLSTMCell", "ProjectedLSTMCell",
    "AttentionDecoder", "NeuralTuringMachine", "TreeClassifier", "packed BiLSTM tagger", "CTC text-line recogniser",
    "greedy search, attention",
)  # fmt: skip
BACKENDS = {"onnxruntime-cuda": CUDA, "onnxruntime-tensorrt": TENSORRT}
ENGINE = "tensorrt"

pytestmark = pytest.mark.gpu


def opened(bundle, backend, precision="fp32"):
    """A session on the GPU; the test is skipped, with all that is missing, where there is none."""
    plan = make_plan(bundle, "cuda", backend=backend, precision=precision)
    try:
        session = edgeseq_runtime.open_session(bundle, plan)
    except ProviderError as error:
        pytest.skip(str(error))
    assert session.providers[0] == BACKENDS.get(backend, "TensorRTEngine")
    return session


@pytest.fixture(autouse=True)
def cache_of_engines(tmp_path, monkeypatch):
    """Nothing that was built before is used."""
    monkeypatch.setattr("edgeseq_runtime.backends.onnxruntime_backend.cache_folder", lambda kind: tmp_path / "engines")
    monkeypatch.setattr("edgeseq_runtime.backends.tensorrt_backend.cache_folder", lambda kind: tmp_path / "engines")
    return tmp_path / "engines"


@pytest.fixture(scope="module", autouse=True)
def on_a_gpu():
    """Skips everything that needs the GPU at once, before a model is exported for it.

    A machine may have ONNX Runtime's CUDA provider, or TensorRT with its Python bindings, or both.
    """
    lacking = {backend: missing for backend, missing in _lacking().items() if missing}
    if len(lacking) == 2:
        pytest.skip(f"neither ONNX Runtime nor TensorRT has a GPU here: {lacking}")


def _lacking():
    return {
        "onnxruntime-cuda": "; ".join(map(str, missing_for((CUDA,)))),
        ENGINE: "; ".join(map(str, missing_for_engines())),
    }


@pytest.mark.parametrize("case", [case for case in CASES if case.id in CHOSEN], ids=lambda case: case.id)
def test_the_cuda_provider_is_at_parity(case, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        path = export(
            case.module(),
            case.inputs(case.sizes[0]),
            tmp_path / "case.edgeseq",
            axes=case.axes,
            state=case.state,
            outputs=case.outputs,
        )
    report = edgeseq_runtime.measure_parity(path, session=opened(edgeseq_runtime.open_bundle(path), "onnxruntime-cuda"))
    assert report.passed, report.to_json()


@pytest.mark.parametrize("backend", [*BACKENDS, ENGINE])
@pytest.mark.parametrize("name", LIBRARY)
def test_a_model_of_the_library_is_at_parity_whole_and_streamed(name, backend):
    bundle = edgeseq_runtime.open_bundle(bundle_of(name))
    report = edgeseq_runtime.measure_parity(bundle.path, session=opened(bundle, backend))
    on_cpu = edgeseq_runtime.measure_parity(bundle.path, device="cpu")
    assert {(row.output, row.mode) for row in report.rows if row.verdict == "fail"} <= {
        (row.output, row.mode) for row in on_cpu.rows if row.verdict == "fail"
    }
    assert {row.mode for row in report.rows} == ({"whole", "stream"} if bundle.state else {"whole"})


@pytest.mark.parametrize("backend", [*BACKENDS, ENGINE])
@pytest.mark.parametrize("name", ["VAD", "nn.GRU", "nn.LSTM", "LayerNormLSTMCell"])
def test_half_precision_is_within_its_gate(name, backend, tmp_path):
    bundle = edgeseq_runtime.open_bundle(bundle_of(name))
    half = with_precision(bundle, "fp16", in_half(bundle.model()), LOW_PRECISION_GATES["fp16"], tmp_path / "half.edgeseq")
    report = edgeseq_runtime.measure_parity(half, session=opened(edgeseq_runtime.open_bundle(half), backend, "fp16"))
    assert report.passed, report.to_json()


def test_nodes_that_the_cuda_provider_leaves_to_the_cpu_are_named():
    bundle = edgeseq_runtime.open_bundle(bundle_of("GRUCell(reset_after=False)"))
    session = opened(bundle, "onnxruntime-cuda")
    if not session.assignment:
        pytest.skip(f"onnxruntime {session.backend_version} can't tell")
    assert any(node.startswith("GRU ") for node in session.assignment.get(CPU, ()))


def test_an_engine_is_kept_and_gives_the_same_again(cache_of_engines):
    with builtin_bundle() as path:
        bundle = edgeseq_runtime.open_bundle(path)
        inputs = bundle.reference()[0].draw_inputs(0)
        first = opened(bundle, "onnxruntime-tensorrt").run(inputs)
        (kept,) = cache_of_engines.iterdir()
        assert [file for file in kept.iterdir() if file.suffix == ".engine"]
        again = opened(bundle, "onnxruntime-tensorrt").run(inputs)
    assert all(np.array_equal(array, again[name]) for name, array in first.items())


def test_the_self_test_passes_on_the_gpu():
    with builtin_bundle() as path:
        opened(edgeseq_runtime.open_bundle(path), "onnxruntime-cuda")
        test = run_selftest(path, device="cuda", seconds=0.05)
    assert test.passed, (test.checks, test.steps)


# Engines of TensorRT itself.


def stepped(session, x, batch=1):
    """What a stream gives, step by step."""
    stream = session.stream(batch=batch)
    return np.concatenate([stream.step({"x": x[t : t + 1]})["y"] for t in range(len(x))])


@pytest.fixture
def lstm():
    bundle = edgeseq_runtime.open_bundle(bundle_of("nn.LSTM"))
    return bundle, np.random.default_rng(0).standard_normal((50, 1, 40)).astype(np.float32)


def test_a_step_is_captured_and_a_stream_is_the_whole_sequence(lstm, monkeypatch):
    bundle, x = lstm
    session = opened(bundle, ENGINE)
    calls = []
    bind = session._model.bind
    monkeypatch.setattr(session._model, "bind", lambda *given: calls.append(bind(*given)) or calls[-1])
    np.testing.assert_allclose(stepped(session, x), session.run({"x": x})["y"], atol=1e-5)
    assert [call.why_not_captured for call in calls] == ["", ""]
    assert all(call.captured for call in calls)


def test_several_streams_at_once_do_not_meet(lstm):
    bundle, x = lstm
    session = opened(bundle, ENGINE)
    signs = {sign: session.run({"x": sign * x})["y"] for sign in (1, -1, 2, -2)}
    got = {}
    threads = [threading.Thread(target=lambda sign=sign: got.update({sign: stepped(session, sign * x)})) for sign in signs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sign, expected in signs.items():
        np.testing.assert_allclose(got[sign], expected, atol=1e-5)


def test_an_engine_of_tensorrt_is_built_once(lstm, cache_of_engines, monkeypatch, capsys):
    bundle, x = lstm
    first = opened(bundle, ENGINE).run({"x": x})["y"]
    assert "building a TensorRT engine" in capsys.readouterr().err
    np.testing.assert_array_equal(opened(bundle, ENGINE).run({"x": x})["y"], first)
    assert capsys.readouterr().err == ""
    (kept,) = cache_of_engines.glob("*.engine")
    kept.write_bytes(kept.read_bytes()[:-1])
    np.testing.assert_allclose(opened(bundle, ENGINE).run({"x": x})["y"], first, atol=1e-5)
    assert "it was cut short" in capsys.readouterr().err


def test_half_an_engine_does_not_load_even_past_the_store(lstm, cache_of_engines):
    """The store refuses it by its size and hash; TensorRT refuses it too."""
    bundle, _ = lstm
    opened(bundle, ENGINE)
    (kept,) = cache_of_engines.glob("*.engine")
    record, engine = read_engine(kept)
    library = find_tensorrt()
    runtime = library.bindings.Runtime(library.logger)
    assert runtime.deserialize_cuda_engine(engine) is not None
    assert runtime.deserialize_cuda_engine(engine[: len(engine) // 2]) is None
    assert record.size == len(engine)


def test_the_pool_runs_on_an_engine(lstm):
    bundle, x = lstm
    session = opened(bundle, ENGINE)
    expected = session.run({"x": x})["y"]
    with session.pool(capacity=4) as pool:
        streams = [pool.join() for _ in range(3)]
        pieces = [[stream.step({"x": x[t : t + 1]})["y"] for stream in streams] for t in range(10)]
    for t, several in enumerate(pieces):
        for one in several:
            np.testing.assert_allclose(one[0], expected[t], atol=1e-5)
