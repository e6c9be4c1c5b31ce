"""On an NVIDIA GPU, through ONNX Runtime's CUDA provider. Skips, with the reason, where there is none."""

from __future__ import annotations

import warnings

import pytest
from recurrent_cases import CASES

import edgeseq_runtime
from edgeseq_export import ExportNotice, export
from edgeseq_runtime.errors import ProviderError

CHOSEN = ("bare-lstm", "bare-gru-state", "subclassed-lstm", "final-state-rnn_tanh", "every-final-state-packed-gru")

pytestmark = pytest.mark.gpu


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
    try:
        session = edgeseq_runtime.load(path, device="cuda")
    except ProviderError as error:
        pytest.skip(str(error))
    assert session.providers[0] == "CUDAExecutionProvider"
    report = edgeseq_runtime.measure_parity(path, device="cuda")
    assert report.passed, report.to_json()


def test_every_chosen_case_exists():
    assert {case.id for case in CASES} >= set(CHOSEN)
