"""Every model of the library with every layer quantised: what is written computes nearly what fp32 does, loops included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from library_models import MODELS, bundle_of

import edgeseq_runtime
from edgeseq_quantize import quantize
from edgeseq_runtime.bundle import RelativeGate

pytestmark = pytest.mark.slow
GATE = RelativeGate(relative=0.1, relative999=0.8, unequal=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_library_is_quantised(name, tmp_path):
    report = quantize(bundle_of(name), out=tmp_path / "q.edgeseq", variants=["int8"], smallest=1, seconds=0, gate=GATE)
    row = report.row("int8")
    if row.verdict == "skipped":
        assert not any(layer.quantised for layer in row.layers)
        return
    assert any(layer.quantised for layer in row.layers)
    assert 0 < row.relative <= GATE.relative
    if row.verdict == "refused":
        assert row.reason == "it is not smaller than fp32, and was not timed"
    else:
        assert edgeseq_runtime.measure_parity(tmp_path / "q.edgeseq", precision="int8").passed
