"""Out of the bodies of Scans and Loops: what needs no state.

What is the same at every step moves before the node as it is. What depends on a Scan's input alone moves before it for all steps at
once, where that spares each step a matrix product: the sequence kept for it costs memory, and nothing else is worth that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from edgeseq_export.passes.editing import PRODUCTS, constant, graph_of, initializer, replace
from edgeseq_export.passes.lifting import Lifted, lift, lifted
from edgeseq_export.passes.scan_parts import ScanParts, ScanSequence, rebuild, scans
from edgeseq_runtime.tensors.spec import Array

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout")
SHAPING = ("Split", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Concat", "Gather", "Identity", "Cast")


class HoistPass(ir.passes.InPlacePass):
    """Leaves alone what has no rank. Ensures that no matrix product of a Scan's input is left in its body."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Hoist, the innermost bodies first."""
        modified = False
        for node in reversed(with_bodies(model)):
            modified |= _hoist_constant(model.graph, node)
        for parts in reversed(scans(model)):
            modified |= _hoist_steps(model.graph, parts)
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: such a product is left.
        """
        for parts in scans(model):
            left = _hoistable(parts)
            if left:
                raise ir.passes.PostconditionError(f"{next(iter(left)).op_type} of a Scan's input is left in its body")


def with_bodies(model: ir.Model) -> list[ir.Node]:
    """Every Scan and Loop, those inside others after those."""
    return [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if node.op_type in ("Scan", "Loop")]


def _hoist_constant(root: ir.Graph, node: ir.Node) -> bool:
    """Move what is the same at every step before the node."""
    body = node.attributes["body"].as_graph()
    moved: list[ir.Node] = []
    outputs: set[ir.Value] = set()
    for inner in body:
        values = [value for value in inner.inputs if value is not None]
        outside = all(value in outputs or same_at_every_step(value, body) for value in values)
        if values and outside and pure(inner) and not any(value.is_graph_output() for value in inner.outputs):
            moved.append(inner)
            outputs.update(inner.outputs)
    for inner in moved:
        for index, value in enumerate(inner.inputs):
            if value is not None and value.graph is body and value not in outputs:
                inner.replace_input_with(index, initializer(root, str(value.name), _array(value)))
    if moved:
        body.remove(moved)
        graph_of(node).insert_before(node, moved)
    return bool(moved)


def _array(value: ir.Value) -> Array:
    array = constant(value)
    assert array is not None
    return array


def pure(node: ir.Node) -> bool:
    """The node draws nothing at random and has no body."""
    bodies = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
    return not bodies and node.op_type not in RANDOM


def same_at_every_step(value: ir.Value, body: ir.Graph) -> bool:
    """A value that a body takes from outside, or a constant."""
    return value.graph is not body or constant(value) is not None


def liftable(parts: ScanParts) -> dict[ir.Node, Lifted]:
    """The nodes that could move before a Scan for all steps at once, in their order."""
    if len({sequence.reverse for sequence in (*parts.inputs, *parts.outputs)}) != 1:
        return {}
    steps = {sequence.inside for sequence in parts.inputs}
    able: dict[ir.Node, Lifted] = {}
    for node in parts.body:
        varying = [value in steps for value in node.inputs]
        others = [value for value, step in zip(node.inputs, varying, strict=True) if value is not None and not step]
        if not pure(node) or not all(same_at_every_step(value, parts.body) for value in others):
            continue
        change = lifted(node, varying)
        if change is not None:
            able[node] = change
            steps.update(node.outputs)
    return able


def _hoistable(parts: ScanParts) -> dict[ir.Node, Lifted]:
    able = liftable(parts)
    return {node: able[node] for node in _worthwhile(able)}


def _worthwhile(able: dict[ir.Node, Lifted]) -> Iterator[ir.Node]:
    """Matrix products, what they are of, and what is done with them until they are taken apart."""
    products = {node for node in able if node.op_type in PRODUCTS}
    needed: set[ir.Node] = set()
    for node in reversed(able):
        if node in products or any(use.node in needed for output in node.outputs for use in output.uses()):
            needed.add(node)
    after: set[ir.Node] = set(products)
    for node in able:
        if node.op_type not in SHAPING and any(value is not None and value.producer() in after for value in node.inputs):
            after.add(node)
    # What is done with a product may also see something that is not of a product: that comes along.
    kept = needed | after
    for node in reversed(able):
        if any(use.node in kept for output in node.outputs for use in output.uses()):
            kept.add(node)
    return (node for node in able if node in kept)


def _hoist_steps(root: ir.Graph, parts: ScanParts) -> bool:
    chosen = _hoistable(parts)
    if not chosen:
        return False
    reverse, T = parts.inputs[0].reverse, parts.steps
    outside: dict[ir.Value, ir.Value] = {sequence.inside: sequence.outside for sequence in parts.inputs}

    def seen(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in outside:
            return None if value is None else outside[value]
        return initializer(root, str(value.name), _array(value)) if value.graph is parts.body else value

    for node, change in chosen.items():
        new = lift(node, change, [seen(value) for value in node.inputs], T, lambda name, array: initializer(root, name, array))
        graph_of(parts.node).insert_before(parts.node, new)
        outside.update(zip(node.outputs, new[-1].outputs, strict=True))
    steps = {value: _step_of(value, chosen) for node in chosen for value in node.outputs}
    states = tuple(state._replace(following=steps.get(state.following, state.following)) for state in parts.states)
    for sequence in parts.outputs:
        if sequence.inside in outside:  # an output that no state is in
            replace(sequence.outside, outside[sequence.inside])
    outputs = tuple(sequence for sequence in parts.outputs if sequence.inside not in outside)
    parts.body.outputs[:] = [*(state.following for state in states), *(sequence.inside for sequence in outputs)]
    parts.body.remove(list(reversed(chosen)), safe=True)
    inputs = [*parts.inputs, *(ScanSequence(outside[value], step, reverse) for value, step in steps.items())]
    used = tuple(sequence for sequence in inputs if sequence.inside.uses() or sequence.inside.is_graph_output())
    rebuild(parts._replace(states=states, inputs=used or parts.inputs[:1], outputs=outputs))
    return True


def _step_of(value: ir.Value, chosen: Collection[ir.Node]) -> ir.Value:
    """One step of a sequence that was hoisted, for the nodes that stay."""
    step = ir.Value(name=f"{value.name}_step", shape=value.shape, type=value.type)
    for user, index in list(value.uses()):
        if user not in chosen:
            user.replace_input_with(index, step)
    return step
