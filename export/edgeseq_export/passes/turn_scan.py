"""A Scan over reversed copies of its sequences: one that runs backwards over the sequences themselves.

PyTorch's scan runs backwards by turning every sequence round, before and after.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import graph_of, integers
from edgeseq_export.passes.scan_parts import ScanParts, ScanSequence, rebuild, scans


class TurnScanPass(ir.passes.InPlacePass):
    """Requires nothing; ensures that no Scan is left whose sequences are all turned round on both sides."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Turn the Scans instead of their sequences."""
        turned = [(parts, *found) for parts in scans(model) if (found := _turned(parts)) is not None]
        for parts, inputs, outputs in turned:
            _turn(parts, inputs, outputs)
        return ir.passes.PassResult(model, bool(turned))

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: such a Scan is left.
        """
        if any(_turned(parts) is not None for parts in scans(model)):
            raise ir.passes.PostconditionError("a Scan over reversed sequences is left")


def _turned(parts: ScanParts) -> tuple[list[ir.Value], list[ir.Node | None]] | None:
    """The sequences before they are turned round, and the nodes that turn what the Scan makes; None where one is not turned."""
    inputs = [_before_turning(sequence.outside) for sequence in parts.inputs]
    outputs = [_turning(sequence.outside) for sequence in parts.outputs]
    unused = [not sequence.outside.uses() and not sequence.outside.is_graph_output() for sequence in parts.outputs]
    sequences = [value for value in inputs if value is not None]
    if len(sequences) != len(inputs) or any(node is None and not idle for node, idle in zip(outputs, unused, strict=True)):
        return None
    return sequences, outputs


def _before_turning(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and _turns_round(node) else None


def _turning(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() and _turns_round(uses[0].node) else None


def _turns_round(node: ir.Node) -> bool:
    """A Slice of the whole first axis from its end to its start."""
    if node.op_type != "Slice" or len(node.inputs) != 5:
        return False
    start, end, axis, step = (integers(value) for value in node.inputs[1:])
    whole = end is not None and len(end) == 1 and end[0] <= -np.iinfo(np.int32).max
    return whole and (start, axis, step) == ([-1], [0], [-1])


def _turn(parts: ScanParts, inputs: list[ir.Value], outputs: list[ir.Node | None]) -> None:
    for sequence, node in zip(parts.outputs, outputs, strict=True):
        if node is not None:
            node.outputs[0].replace_all_uses_with(sequence.outside, replace_graph_outputs=True)
            graph_of(node).remove(node, safe=True)
    rebuild(
        parts._replace(
            inputs=tuple(
                ScanSequence(value, sequence.inside, not sequence.reverse)
                for value, sequence in zip(inputs, parts.inputs, strict=True)
            ),
            outputs=tuple(sequence._replace(reverse=not sequence.reverse) for sequence in parts.outputs),
        )
    )
