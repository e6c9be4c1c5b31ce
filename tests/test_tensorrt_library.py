"""Every model of the library: compiled in two precisions for three generations of GPUs, and its parsed network at parity."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeseq_runtime import measure_parity, open_bundle

pytest.importorskip("tensorrt_rtx", reason='needs TensorRT\'s importer, no GPU: pip install "edgeseq[tensorrt-rtx]"')
pytestmark = pytest.mark.tensorrt

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from library_models import MODELS, bundle_of  # noqa: E402
from tensorrt_compile import DEVICE, compiled, mismatches, ranges_of  # noqa: E402

from edgeseq_quantize.half import in_half  # noqa: E402
from edgeseq_runtime.backends.tensorrt_network_backend import parse_network  # noqa: E402

# Parsed and at parity as all others are, and not built: the reason that TensorRT-RTX 1.7.1 gives, as docs/tensorrt.md lists it.
NOT_BUILT = {
    "packed BiLSTM tagger": "Myelin",
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_compiled_and_its_parsed_network_is_at_parity(name):
    path = bundle_of(name)
    bundle = open_bundle(path)
    network = parse_network(bundle.model())
    assert not mismatches(bundle, (*network.inputs, *network.outputs))
    reasons = [compiled(model, ranges_of(bundle)).reason for model in (bundle.model(), in_half(bundle.model()))]
    expected = NOT_BUILT.get(name, "")
    assert all(expected in reason for reason in reasons if reason), reasons
    assert any(reasons) == bool(expected), reasons
    sizes = bundle.manifest.reference[-1].sizes
    assert failures(path, DEVICE, sizes) <= failures(path, "cpu", sizes)


def failures(path, device, sizes):
    """Outputs and modes that fail; what fails on ONNX Runtime, too, is no fault of TensorRT's importer."""
    return {(row.output, row.mode) for row in measure_parity(path, device=device, at=sizes).rows if row.verdict == "fail"}
