"""Smaller and faster variants of a bundle's model, each held to a gate before it is written. No PyTorch: a bundle is enough.

report = quantize("model.edgeseq")                          # tries every variant, writes those that hold
session = edgeseq_runtime.load("model.edgeseq", precision="int8")
"""

from edgeseq_quantize.layers import SMALLEST
from edgeseq_quantize.quantising import quantize
from edgeseq_quantize.report import LayerRow, QuantizeReport, VariantRow
from edgeseq_quantize.variants import GATE, VARIANTS

__all__ = ["GATE", "SMALLEST", "VARIANTS", "LayerRow", "QuantizeReport", "VariantRow", "quantize"]
