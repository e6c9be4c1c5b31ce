"""A Scan taken apart: which value of its body is which of its inputs and outputs."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from edgeseq_export.passes.editing import graph_of


class ScanState(NamedTuple):
    """A value carried from step to step."""

    initial: ir.Value
    inside: ir.Value  # as the body is given it
    following: ir.Value  # as the body leaves it
    last: ir.Value


class ScanSequence(NamedTuple):
    """A sequence that the body is given, or gives, one step at a time."""

    outside: ir.Value  # (T, ...)
    inside: ir.Value  # (...)
    reverse: bool


class ScanParts(NamedTuple):
    """A Scan whose sequences all have time first."""

    node: ir.Node
    body: ir.Graph
    states: tuple[ScanState, ...]
    inputs: tuple[ScanSequence, ...]
    outputs: tuple[ScanSequence, ...]

    @property
    def steps(self) -> int | ir.SymbolicDim | None:
        """Size of the time axis."""
        shape = self.inputs[0].outside.shape
        return None if shape is None else shape[0]


def scans(model: ir.Model) -> list[ScanParts]:
    """Every Scan of the model that has time first, those inside others included."""
    nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.op_type == "Scan" and not node.domain]
    return [parts for node in nodes if (parts := scan_parts(node)) is not None]


def scan_parts(node: ir.Node) -> ScanParts | None:
    """The parts of a Scan; None where a sequence is scanned along another axis than the first."""
    body, count = node.attributes["body"].as_graph(), node.attributes["num_scan_inputs"].as_int()
    if any(axis for way in ("input", "output") for axis in node.attributes.get_ints(f"scan_{way}_axes", ())):
        return None
    given = [value for value in node.inputs if value is not None]
    states, made = len(given) - count, len(body.outputs) - (len(given) - count)
    back_in = node.attributes.get_ints("scan_input_directions", (0,) * count)
    back_out = node.attributes.get_ints("scan_output_directions", (0,) * made)
    return ScanParts(
        node,
        body,
        tuple(
            ScanState(*four)
            for four in zip(given[:states], body.inputs[:states], body.outputs[:states], node.outputs[:states], strict=True)
        ),
        tuple(
            ScanSequence(outside, inside, bool(back))
            for outside, inside, back in zip(given[states:], body.inputs[states:], back_in, strict=True)
        ),
        tuple(
            ScanSequence(outside, inside, bool(back))
            for outside, inside, back in zip(node.outputs[states:], body.outputs[states:], back_out, strict=True)
        ),
    )


def rebuild(parts: ScanParts) -> ir.Node:
    """Put a Scan of the parts given in the place of their node, which is gone afterwards; the body keeps its nodes."""
    body, old = parts.body, parts.node
    body.inputs[:] = [*(state.inside for state in parts.states), *(sequence.inside for sequence in parts.inputs)]
    body.outputs[:] = [*(state.following for state in parts.states), *(sequence.inside for sequence in parts.outputs)]
    outputs = [ir.Value(name=value.name, shape=value.shape, type=value.type) for value in _outside(parts)]
    node = ir.node(
        "Scan",
        [*(state.initial for state in parts.states), *(sequence.outside for sequence in parts.inputs)],
        {
            "body": body,
            "num_scan_inputs": len(parts.inputs),
            "scan_input_directions": [int(sequence.reverse) for sequence in parts.inputs],
            "scan_output_directions": [int(sequence.reverse) for sequence in parts.outputs],
        },
        outputs=outputs,
    )
    graph_of(old).insert_before(old, node)
    for value, new in zip(_outside(parts), outputs, strict=True):
        value.replace_all_uses_with(new, replace_graph_outputs=True)
    graph_of(old).remove(old, safe=True)
    return node


def _outside(parts: ScanParts) -> list[ir.Value]:
    return [*(state.last for state in parts.states), *(sequence.outside for sequence in parts.outputs)]
