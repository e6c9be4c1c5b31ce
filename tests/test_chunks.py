"""Every causal model of the library gives the same for a whole sequence and for any chunks of it."""

from __future__ import annotations

import platform
import sys
import warnings
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import edgeseq_runtime
from edgeseq_export import ExportNotice, export_request
from edgeseq_runtime.bundle import DEFAULT_GATES, judge
from edgeseq_runtime.chunks import run_in_chunks

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from causal_models import CAUSAL, causal_model
from chunked import CHUNKS, STEPS, drawn, streamed

# Bits differ here at chunks of one step, or at any, for the reasons that docs/chunks.md gives.
OTHER_BITS = {
    *("nn.RNN", "RNNCell", "IndRNNCell", "AttentionDecoder"),
    *("CausalConv1d", "CausalConv1d(dilation=2)", "WindowNorm", "front end"),
}


# Others of their kind are tried at every run of the tests.
LIKE_OTHERS = {
    *(
        "GRUCell(reset_after=False)",
        "LSTMCell(tanh)",
        "CoupledLSTMCell",
        "MinimalGatedCell",
        "ProjectedLSTMCell",
        "HierarchicalRNN",
    ),
    *("DeepTransitionRNN(skip)", "VectorConditionedRNN", "IndependentOutputsRNN", "FixedContextDecoder"),
    *("CausalConv1d(dilation=2)", "CausalPool1d(mean)"),
}
assert LIKE_OTHERS.issubset(CAUSAL)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in LIKE_OTHERS else name for name in CAUSAL]
)
def bundle(request, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        path = export_request(causal_model(request.param), tmp_path_factory.mktemp("causal") / "model.edgeseq")
    return request.param, edgeseq_runtime.open_bundle(path)


def test_chunks_of_any_lengths_are_as_near_to_float64_as_pytorch_is(bundle):
    _, opened = bundle
    session = edgeseq_runtime.load(opened.path)
    case = max(opened.reference(), key=lambda case: case.case.sizes["T"])
    T, interface = case.case.sizes["T"], session.interface
    assert T >= 18

    @settings(max_examples=6, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(chunks=st.lists(st.integers(1, 20), min_size=1, max_size=8))
    @example(chunks=[1])
    @example(chunks=[7])
    @example(chunks=[64])
    def check(chunks):
        found = {spec.name: [] for spec in session.outputs}
        for draw in range(case.case.draws):
            inputs = case.draw_inputs(draw)
            stream = session.stream(case.case.sizes["B"])
            stream.state = {name: inputs[name] for name in interface.state}
            data = {name: array for name, array in inputs.items() if name not in {*interface.state, *interface.step_lengths}}
            for name, array in run_in_chunks(stream, interface, data, cycle(chunks)).items():
                found[name].append(array)
        for name, pieces in found.items():
            verdict = judge(np.stack(pieces), case.float32[name], case.float64[name], DEFAULT_GATES["fp32"])
            assert verdict.passed, (name, chunks, T, verdict)

    check()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="which kernels add in the same order was measured on x86-64")
def test_chunks_give_the_bits_of_the_whole_where_the_kernels_do(bundle):
    name, opened = bundle
    session = edgeseq_runtime.load(opened.path)
    if name in OTHER_BITS:
        pytest.skip("one step, or a convolution, takes other kernels: docs/chunks.md")
    for batch in (1, 4):
        inputs = drawn(session, opened, STEPS, batch)
        whole = session.run(inputs)
        for chunk in CHUNKS:
            pieces = streamed(session, inputs, chunk)
            for output, array in whole.items():
                np.testing.assert_array_equal(pieces[output], array, err_msg=f"{output}, chunks of {chunk}, batch {batch}")
