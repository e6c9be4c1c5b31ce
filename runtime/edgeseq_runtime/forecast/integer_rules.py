"""What graphs with ONNX Runtime's operators of integers need of it."""

from __future__ import annotations

from collections.abc import Iterator

from edgeseq_runtime.forecast.findings import READ, Finding, nodes_of
from edgeseq_runtime.onnx_wire import Graph

SOURCE = "https://github.com/microsoft/onnxruntime/pull/24384 and 24509, of release 1.22.0"
EIGHT_BITS = "1.22"  # the first release of ONNX Runtime that multiplies by 8-bit weights in MatMulNBits


def integer_findings(graph: Graph) -> Iterator[Finding]:
    """One finding where a node needs a newer ONNX Runtime than the package does."""
    count = sum(found.node.op == "MatMulNBits" and found.node.integers.get("bits", (4,))[0] == 8 for found in nodes_of(graph))
    if count:
        yield Finding(
            rule="operator: 8-bit weights",
            subject=f"{count} MatMulNBits",
            text=f"need ONNX Runtime {EIGHT_BITS} or newer",
            remedy="upgrade onnxruntime, or run the bundle's fp32 graph",
            kind=READ,
            source=SOURCE,
        )
