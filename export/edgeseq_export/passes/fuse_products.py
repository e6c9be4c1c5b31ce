"""Several matrix products of one value, such as a layer a gate: one product with the matrices side by side, taken apart after it.

Where two such products are added part by part, as the gates' of an input and of a state are, they are added before they are taken
apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import (
    constant,
    drop,
    graph_of,
    initializer,
    insert_before,
    last_size,
    new_node,
    positive,
    rank,
    replace,
)
from edgeseq_export.passes.lifting import PRODUCTS
from edgeseq_runtime.tensors.spec import Array


class FuseProductsPass(ir.passes.InPlacePass):
    """Leaves alone what has no rank, and weights that are used elsewhere too. Ensures that no two such products are left."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse every group, then add before taking apart."""
        groups = list(_groups(model))
        for group in groups:
            _fuse(model.graph, group)
        for sums in _sums_of_parts(model):
            _add_whole(sums)
        return ir.passes.PassResult(model, bool(groups))

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: such products are left.
        """
        for group in _groups(model):
            raise ir.passes.PostconditionError(f"{len(group)} products of one value are left, one of them '{group[0].output.name}'")


class _Product(NamedTuple):
    node: ir.Node
    weights: Array  # (k, n)
    bias: Array | None  # (n,)

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]


def _groups(model: ir.Model) -> Iterator[list[_Product]]:
    """Products of one value by the same operator in one graph, in their order."""
    found: dict[tuple[ir.Value, object, str], list[_Product]] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        product, x = _product(node), node.inputs[0] if node.inputs else None
        if product is not None and x is not None:
            found.setdefault((x, node.graph, node.op_type), []).append(product)
    return (group for group in found.values() if len(group) > 1)


def _product(node: ir.Node) -> _Product | None:
    W = node.inputs[1] if node.op_type in PRODUCTS and not node.domain else None
    weights = constant(W)
    if W is None or weights is None or weights.ndim != 2 or len(W.uses()) > 1 or (rank(node.outputs[0]) or 0) < 2:
        return None
    if node.op_type == "MatMul":
        return _Product(node, weights, None)
    plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    known = len(node.inputs) < 3 or node.inputs[2] is None or (bias is not None and bias.ndim == 1)
    if not plain or node.attributes.get_int("transA", False) or not known:
        return None
    weights = weights.T if node.attributes.get_int("transB", False) else weights
    return _Product(node, weights, None if bias is None else np.broadcast_to(bias, (weights.shape[1],)))


def _fuse(root: ir.Graph, group: list[_Product]) -> None:
    first, widths = group[0], [product.weights.shape[1] for product in group]
    weights, biases = np.concatenate([product.weights for product in group], axis=1), None
    if any(product.bias is not None for product in group):
        zeros = [np.zeros(width, np.float32) for width in widths]
        biases = np.concatenate([zero if p.bias is None else p.bias for p, zero in zip(group, zeros, strict=True)])
    name, x = first.output.name, first.node.inputs[0]
    inputs = [x, initializer(root, f"{name}_weights", np.ascontiguousarray(weights))]
    if biases is not None:
        inputs.append(initializer(root, f"{name}_biases", biases))
    shape = first.output.shape
    whole, value = new_node(first.node.op_type, inputs, first.output, None if shape is None else [*shape[:-1], weights.shape[1]])
    sizes = initializer(root, f"{name}_widths", np.array(widths))
    outputs = [_part_of(product.output) for product in group]
    parts = ir.node("Split", [value, sizes], {"axis": -1}, outputs=outputs)
    insert_before(first.output, whole, parts)
    for product, part in zip(group, outputs, strict=True):
        replace(product.output, part)
        drop(product.output)


def _part_of(value: ir.Value) -> ir.Value:
    return ir.Value(name=f"{value.name}_part", shape=value.shape, type=value.type)


class _Sums(NamedTuple):
    """Parts of two values added to each other, each to the one at its place."""

    one: ir.Node
    other: ir.Node
    sums: list[ir.Node]


def _sums_of_parts(model: ir.Model) -> list[_Sums]:
    found: dict[ir.Node, _Sums] = {}
    taken: set[ir.Node] = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        sums = _sums(node) if node.op_type == "Split" else None
        if sums is not None and not taken.intersection((sums.one, sums.other)):
            found[node] = sums
            taken.update((sums.one, sums.other))
    return list(found.values())


def _sums(split: ir.Node) -> _Sums | None:
    """The sums that a Split's parts are used in, where each part is used in one and all others are parts of one other Split."""
    sums, others = [], set()
    for index, part in enumerate(split.outputs):
        uses = list(part.uses())
        if len(uses) != 1 or part.is_graph_output() or uses[0].node.op_type != "Add":
            return None
        node, place = uses[0]
        other = node.inputs[1 - place]
        producer = None if other is None else other.producer()
        if other is None or producer is None or producer.op_type != "Split" or len(other.uses()) != 1 or other.is_graph_output():
            return None
        if producer is split or len(producer.outputs) != len(split.outputs) or producer.outputs[index] is not other:
            return None
        sums.append(node)
        others.add(producer)
    if len(others) != 1 or {node.graph for node in sums} != {split.graph}:
        return None
    (other_split,) = others
    return _Sums(split, other_split, sums) if _alike(split, other_split) else None


def _alike(one: ir.Node, other: ir.Node) -> bool:
    """Both take features apart in the same places, in the same graph."""
    places = []
    for node in (one, other):
        axes = rank(node.outputs[0])
        if axes is None or positive(node.attributes.get_int("axis", 0), axes) != axes - 1:
            return False
        places.append((axes, [last_size(value) for value in node.outputs]))
    return places[0] == places[1] and None not in places[0][1] and one.graph is other.graph


def _add_whole(found: _Sums) -> None:
    one, other, sums = found
    a, b = one.inputs[0], other.inputs[0]
    assert a is not None
    assert b is not None
    total, value = new_node("Add", [a, b], sums[0].outputs[0], a.shape)
    outputs = [
        ir.Value(name=f"{node.outputs[0].name}_part", shape=node.outputs[0].shape, type=node.outputs[0].type) for node in sums
    ]
    parts = ir.Node("", "Split", [value, *one.inputs[1:]], one.attributes.values(), outputs=outputs)
    graph_of(one).insert_before(sums[0], [total, parts])
    for node, part in zip(sums, outputs, strict=True):
        replace(node.outputs[0], part)
        drop(node.outputs[0])
