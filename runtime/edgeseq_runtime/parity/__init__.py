"""Whether a model computes, on this device, what PyTorch computes."""

from edgeseq_runtime.parity.measure import installed_versions, measure_graph, measure_parity
from edgeseq_runtime.parity.report import EXACT, ParityReport, ParityRow
from edgeseq_runtime.parity.rows import Observer, Progress
from edgeseq_runtime.parity.verdicts import Piece, within_horizon

__all__ = [
    "EXACT",
    "Observer",
    "ParityReport",
    "ParityRow",
    "Piece",
    "Progress",
    "installed_versions",
    "measure_graph",
    "measure_parity",
    "within_horizon",
]
