"""On an NVIDIA GPU, through ONNX Runtime's CUDA and TensorRT providers. Skips, with the reason, where there is none."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from recurrent_cases import CASES

import edgeseq_runtime
from edgeseq_export import ExportNotice, export
from edgeseq_quantize.half import in_half
from edgeseq_runtime.bundle import LOW_PRECISION_GATES, with_precision
from edgeseq_runtime.errors import ProviderError
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.provider_needs import CPU, CUDA, TENSORRT
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

pytestmark = pytest.mark.gpu


def opened(bundle, backend, precision="fp32"):
    """A session on the GPU; the test is skipped, with all that is missing, where there is none."""
    plan = make_plan(bundle, "cuda", backend=backend, precision=precision)
    try:
        session = edgeseq_runtime.open_session(bundle, plan)
    except ProviderError as error:
        pytest.skip(str(error))
    assert session.providers[0] == BACKENDS[backend]
    return session


@pytest.fixture(autouse=True)
def cache_of_engines(tmp_path, monkeypatch):
    """Nothing that was built before is used."""
    monkeypatch.setattr("edgeseq_runtime.backends.onnxruntime_backend.default_base", lambda: tmp_path / "engines")
    return tmp_path / "engines"


@pytest.fixture(scope="module", autouse=True)
def on_a_gpu():
    """Skips everything that needs the GPU at once, before a model is exported for it."""
    with builtin_bundle() as path:
        opened(edgeseq_runtime.open_bundle(path), "onnxruntime-cuda")


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LIBRARY)
def test_a_model_of_the_library_is_at_parity_whole_and_streamed(name, backend):
    bundle = edgeseq_runtime.open_bundle(bundle_of(name))
    report = edgeseq_runtime.measure_parity(bundle.path, session=opened(bundle, backend))
    on_cpu = edgeseq_runtime.measure_parity(bundle.path, device="cpu")
    assert {(row.output, row.mode) for row in report.rows if row.verdict == "fail"} <= {
        (row.output, row.mode) for row in on_cpu.rows if row.verdict == "fail"
    }
    assert {row.mode for row in report.rows} == ({"whole", "stream"} if bundle.state else {"whole"})


@pytest.mark.parametrize("backend", BACKENDS)
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
