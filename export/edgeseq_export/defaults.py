"""Defaults written out, where TensorRT's importer has others than ONNX.

Its Selu rounds both constants to four decimals, 4e-5 of the result (observed in TensorRT-RTX 1.7.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},  # the float32 values of ONNX's schema
}


def write_defaults(graph: ir.Graph) -> None:
    """Give every such node the attributes that it leaves out."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for name, value in _DEFAULTS.get(node.op_type, {}).items():
            if name not in node.attributes:
                node.attributes[name] = ir.AttrFloat32(name, value)
