"""What makes an exported graph faster without changing what it computes: one pass a file, run in this order.

Each is an `onnx_ir` pass that states what it requires and ensures, and checks it. Whatever they do together is proved with every
export (`postconditions`): the finished graph is run beside the module, and evaluated in float64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import onnx_ir as ir

from edgeseq_export.passes.fuse_products import FuseProductsPass
from edgeseq_export.passes.hoist import HoistPass
from edgeseq_export.passes.layer_normalization import LayerNormalizationPass
from edgeseq_export.passes.recognise_cell import RecogniseCellPass
from edgeseq_export.passes.sink import SinkPass
from edgeseq_export.passes.split_product import SplitProductPass
from edgeseq_export.passes.turn_scan import TurnScanPass

PASSES: Mapping[str, Callable[[], ir.passes.InPlacePass]] = {
    "layer-normalization": LayerNormalizationPass,
    "turn-scan": TurnScanPass,
    "sink": SinkPass,
    "recognise-cell": RecogniseCellPass,
    "split-product": SplitProductPass,
    "fuse-products": FuseProductsPass,
    "hoist": HoistPass,
}


class Improved(NamedTuple):
    """A graph after the passes, and the Scans that became native nodes, by the nodes' operator."""

    model: ir.Model
    recognised: Mapping[str, int]


def improve(model: ir.Model, without: Collection[str] = ()) -> Improved:
    """Run every pass but those named."""
    recognised: Counter[str] = Counter()
    for name, make in PASSES.items():
        if name not in without:
            step = make()
            model = step(model).model
            recognised += step.recognised if isinstance(step, RecogniseCellPass) else Counter()
    return Improved(model, dict(sorted(recognised.items())))


__all__ = ["PASSES", "Improved", "improve"]
