"""Out of the body of a Scan: what no state needs, such as a readout, after it for all steps at once.

Worth it for matrix products with constant weights alone: what they are of is kept for all steps instead of what they give.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import PRODUCTS, constant, graph_of, initializer, new_node, replace
from edgeseq_export.passes.hoist import pure, same_at_every_step
from edgeseq_export.passes.lifting import Lifted, lift, lifted, row_by_row
from edgeseq_export.passes.scan_parts import ScanParts, ScanSequence, rebuild, scans


class SinkPass(ir.passes.InPlacePass):
    """Leaves alone what has no rank. Ensures that no matrix product is left in a Scan that could be taken after it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sink, the innermost bodies first."""
        modified = False
        for parts in reversed(scans(model)):
            modified |= _sink(model.graph, parts)
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: one is left.
        """
        for parts in scans(model):
            if _sinkable(parts):
                raise ir.passes.PostconditionError("a matrix product that no state needs is left in a Scan's body")


def _sinkable(parts: ScanParts) -> dict[ir.Node, Lifted]:
    """Products that no state needs and everything that is made of them, in their order."""
    if len({sequence.reverse for sequence in (*parts.inputs, *parts.outputs)}) != 1:
        return {}
    needed = _needed(parts)
    chosen: dict[ir.Node, Lifted] = {}
    for node in parts.body:
        starts = node.op_type in PRODUCTS and constant(node.inputs[1]) is not None
        if node in needed or not (starts or any(value is not None and value.producer() in chosen for value in node.inputs)):
            continue
        change = lifted(node, _varying(node, parts.body)) if pure(node) else None
        if change is None:
            return {}  # what is made of a product can't follow it
        chosen[node] = change
    return chosen


def _needed(parts: ScanParts) -> set[ir.Node]:
    """The nodes that a next state is made of, and those with a body of their own with all that they may see."""
    needed: set[ir.Node] = set()
    wanted = {state.following for state in parts.states}
    for node in reversed(list(parts.body)):
        if wanted.intersection(node.outputs) or not pure(node):
            needed.add(node)
            wanted.update(value for value in node.inputs if value is not None)
            inside = [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]
            for body in inside:
                wanted.update(v for inner in ir.traversal.RecursiveGraphIterator(body) for v in inner.inputs if v is not None)
    return needed


def _varying(node: ir.Node, body: ir.Graph) -> list[bool]:
    return [value is not None and not same_at_every_step(value, body) for value in node.inputs]


def _sink(root: ir.Graph, parts: ScanParts) -> bool:
    chosen = _sinkable(parts)
    if not chosen:
        return False
    reverse = parts.inputs[0].reverse
    outside = {sequence.inside: sequence.outside for sequence in parts.inputs}
    added: list[ScanSequence] = []
    live = _mask(parts, chosen)

    def seen(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in outside:
            return None if value is None else outside[value]
        if same_at_every_step(value, parts.body):
            array = constant(value) if value.graph is parts.body else None
            return value if array is None else initializer(root, str(value.name), array)
        kept = value if live is None else _masked(root, parts, value, live)
        sequence = ir.Value(
            name=f"{value.name}_all", shape=None if value.shape is None else ir.Shape([parts.steps, *value.shape]), type=value.type
        )
        added.append(ScanSequence(sequence, kept, reverse))
        outside[value] = sequence
        return sequence

    nodes: list[ir.Node] = []
    for node, change in chosen.items():
        new = lift(
            node, change, [seen(value) for value in node.inputs], parts.steps, lambda name, array: initializer(root, name, array)
        )
        nodes += new
        outside.update(zip(node.outputs, new[-1].outputs, strict=True))
    made = {value for node in chosen for value in node.outputs}
    graph_of(parts.node).insert_after(parts.node, nodes)
    for sequence in parts.outputs:
        if sequence.inside in made:
            replace(sequence.outside, outside[sequence.inside])
    outputs = tuple(sequence for sequence in parts.outputs if sequence.inside not in made) + tuple(added)
    parts.body.outputs[:] = [*(state.following for state in parts.states), *(sequence.inside for sequence in outputs)]
    parts.body.remove(list(chosen), safe=True)
    extended = parts._replace(outputs=outputs)
    rebuild(extended)
    return True


def _mask(parts: ScanParts, chosen: dict[ir.Node, Lifted]) -> ir.Value | None:
    """The input that says which sequences are live, where everything that is sunk ends in what it selects.

    What is kept of the steps that are not live is then zero: their results are never used.
    """
    live = {sequence.inside for sequence in parts.inputs}
    masks: set[ir.Value | None] = set()
    for node in chosen:
        inside = all(use.node in chosen for use in node.outputs[0].uses()) and not node.outputs[0].is_graph_output()
        selects = node.op_type == "Where" and node.inputs[0] in live and constant(node.inputs[2]) is not None
        if not inside:
            masks.add(node.inputs[0] if selects else None)
        elif not row_by_row(node, _varying(node, parts.body)):
            return None
    return next(iter(masks)) if len(masks) == 1 else None


def _masked(root: ir.Graph, parts: ScanParts, value: ir.Value, live: ir.Value) -> ir.Value:
    """The value where its sequence is live, and zero elsewhere."""
    mask = live.shape
    if value.shape is None or mask is None or len(value.shape) != len(mask) or mask[-1] != 1 or value.dtype != ir.DataType.FLOAT:
        return value
    producer = value.producer()
    if producer is not None and producer.op_type == "Where" and producer.inputs[0] is live:
        return value
    zero = initializer(root, f"{value.name}_zero", np.zeros((), np.float32))
    node, kept = new_node("Where", [live, value, zero], value, value.shape)
    parts.body.append(node)
    return kept
