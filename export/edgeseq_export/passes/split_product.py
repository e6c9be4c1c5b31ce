"""A matrix product of what is side by side: apart, so that the part that needs no state can be hoisted.

    [x, h] W = x W_x + h W_h

Only inside a Scan or a Loop, and only where some of what is side by side depends on no state and some does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import (
    constant,
    drop,
    initializer,
    insert_before,
    last_size,
    new_node,
    positive,
    rank,
    replace,
    weights_of,
)
from edgeseq_export.passes.hoist import liftable, same_at_every_step, with_bodies
from edgeseq_export.passes.scan_parts import scan_parts


class SplitProductPass(ir.passes.InPlacePass):
    """Leaves alone what has no sizes of features. Ensures that no product is left in a body that could be split."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Split every product that is of both."""
        found = [(node, *sides) for loop in with_bodies(model) for node, sides in _mixed_products(loop).items()]
        for node, free, bound in found:
            _split(model.graph, node, free, bound)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: one is left.
        """
        left = [node for loop in with_bodies(model) for node in _mixed_products(loop)]
        if left:
            raise ir.passes.PostconditionError(f"a product of an input and a state side by side is left: {left[0].op_type}")


Sides = tuple[list[int], list[int]]  # which of what is side by side depends on no state, and which does


def _mixed_products(loop: ir.Node) -> dict[ir.Node, Sides]:
    body = loop.attributes["body"].as_graph()
    parts = scan_parts(loop) if loop.op_type == "Scan" else None
    steps = set() if parts is None else {sequence.inside for sequence in parts.inputs}
    steps |= {value for node in (liftable(parts) if parts is not None else ()) for value in node.outputs}
    found: dict[ir.Node, Sides] = {}
    for node in body:
        sides = _side_by_side(node)
        if sides is None:
            continue
        free = [index for index, value in enumerate(sides) if value in steps or same_at_every_step(value, body)]
        bound = [index for index in range(len(sides)) if index not in free]
        if bound and any(constant(sides[index]) is None for index in free):
            found[node] = free, bound
    return found


def _side_by_side(node: ir.Node) -> list[ir.Value] | None:
    """What a product with constant weights is of: features beside features; None where it is anything else."""
    joined = node.inputs[0].producer() if weights_of(node) is not None and node.inputs[0] is not None else None
    if joined is None or joined.op_type != "Concat":
        return None
    axes, values = rank(joined.outputs[0]), [value for value in joined.inputs if value is not None]
    if axes is None or positive(joined.attributes.get_int("axis", 0), axes) != axes - 1:
        return None
    return values if all(last_size(value) is not None and rank(value) == axes for value in values) else None


def _split(root: ir.Graph, node: ir.Node, free: list[int], bound: list[int]) -> None:
    values = _side_by_side(node)
    weights = weights_of(node)
    output = node.outputs[0]
    assert values is not None
    assert weights is not None
    transposed = bool(node.attributes.get_int("transB", 0))
    rows = np.split(weights, np.cumsum([last_size(value) or 0 for value in values])[:-1])
    nodes: list[ir.Node] = []

    def product(chosen: list[int], bias: list[ir.Value | None]) -> ir.Value:
        part = np.concatenate([rows[index] for index in chosen])
        W = initializer(root, f"{output.name}_weights", np.ascontiguousarray(part.T if transposed else part))
        x = values[chosen[0]]
        if len(chosen) > 1:
            joined, x = new_node("Concat", [values[index] for index in chosen], x, [*(x.shape or ())[:-1], part.shape[0]], axis=-1)
            nodes.append(joined)
        made, result = new_node(node.op_type, [x, W, *bias], output, output.shape, **({"transB": 1} if transposed else {}))
        nodes.append(made)
        return result

    one, other = product(free, []), product(bound, list(node.inputs[2:]))
    total, result = new_node("Add", [one, other], output, output.shape)
    insert_before(output, *nodes, total)
    replace(output, result)
    drop(output)
