"""Graphs that the exporter's passes made, as TensorRT's importer reads them: parsed, compiled and at parity."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason='needs TensorRT\'s importer, no GPU: pip install "edgeseq[tensorrt-rtx]"')
pytestmark = pytest.mark.tensorrt

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from tensorrt_compile import DEVICE, compiled, ranges_of  # noqa: E402
from test_passes import request  # noqa: E402
from written_out_models import CELLS, OTHERS  # noqa: E402

from edgeseq_export import export_request  # noqa: E402
from edgeseq_runtime import measure_parity, open_bundle  # noqa: E402

MADE = {**{name: cell for name, (cell, _) in CELLS.items()}, **OTHERS}


@pytest.mark.parametrize(("lengths", "reverse"), [(False, False), (True, True)])
@pytest.mark.parametrize("name", MADE)
def test_a_written_out_cell_is_compiled_and_its_parsed_network_is_at_parity(name, lengths, reverse, tmp_path):
    path = export_request(request(MADE[name], lengths=lengths, reverse=reverse), tmp_path / "cell.edgeseq")
    bundle = open_bundle(path)
    assert not compiled(bundle.model(), ranges_of(bundle)).reason
    report = measure_parity(path, device=DEVICE, at=bundle.manifest.reference[-1].sizes)
    assert report.rows
    assert {row.verdict for row in report.rows} <= {"pass"}, report
