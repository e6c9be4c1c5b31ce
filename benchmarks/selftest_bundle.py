"""Makes the bundle that `edgeseq selftest` proves where it is given none: an LSTM and a GRU that stream, with random weights.

Run: python benchmarks/selftest_bundle.py [runtime/edgeseq_runtime/selftest/selftest.edgeseq]

It is exported as any model is; of the reference values those of a few small sizes are kept, so that a board's install stays small.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from edgeseq_export import export
from edgeseq_runtime.bundle import open_bundle, pack_reference, write_bundle

SHIPPED = Path(__file__).parents[1] / "runtime" / "edgeseq_runtime" / "selftest" / "selftest.edgeseq"
NAME, SEED = "edgeseq-selftest", 20261126
SIZES = ({"B": 1, "T": 1}, {"B": 2, "T": 7}, {"B": 1, "T": 18})


class SelfTestModel(nn.Module):
    """Both gated cells one after the other, and a linear readout; states are inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 6)
        self.gru = nn.GRU(6, 4)
        self.readout = nn.Linear(4, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From x (T, B, 2) to y (T, B, 2), and the states."""
        z, (h, c) = self.lstm(x, (h, c))  # (T, B, 6)
        z, g = self.gru(z, g)  # (T, B, 4)
        return self.readout(z), h, c, g


def main() -> int:
    path = write_selftest_bundle(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED)
    print(f"{path}: {path.stat().st_size} bytes")
    return 0


def write_selftest_bundle(path: Path) -> Path:
    """Export the model and keep the small sizes. The same versions on the same machine give the same bytes."""
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        whole = export(
            SelfTestModel(),
            {"x": torch.randn(5, 2, 2), "h": torch.zeros(1, 2, 6), "c": torch.zeros(1, 2, 6), "g": torch.zeros(1, 2, 4)},
            Path(folder) / "whole.edgeseq",
            axes={"x": ("T", "B", None), "h": (None, "B", None), "c": (None, "B", None), "g": (None, "B", None)},
            state={"h": "h_out", "c": "c_out", "g": "g_out"},
            outputs=("y", "h_out", "c_out", "g_out"),
            name=NAME,
        )
        bundle = open_bundle(whole)
        kept = [case for case in bundle.reference() if case.case.sizes in SIZES]
        provenance = {**bundle.manifest.provenance, "module": "benchmarks/selftest_bundle.py: SelfTestModel"}
        manifest = msgspec.structs.replace(bundle.manifest, reference=tuple(case.case for case in kept), provenance=provenance)
        return write_bundle(path, manifest, {"model.onnx": bundle.model("fp32")}, pack_reference(kept))


if __name__ == "__main__":
    sys.exit(main())
