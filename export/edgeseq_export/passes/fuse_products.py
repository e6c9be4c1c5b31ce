"""A layer a gate, of an input and of a state: one product each, one sum, taken apart after it.

    x W_i + h R_i for each gate i  ->  parts of x [W_1, W_2, ...] + h [R_1, R_2, ...]

Fewer than three gates, and products that are not added gate by gate, gain less than taking apart costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import constant, drop, initializer, insert_before, new_node, rank, replace, weights_of
from edgeseq_runtime.tensors.spec import Array

FEWEST = 3  # gates


class FuseProductsPass(ir.passes.InPlacePass):
    """Leaves alone what has no rank, and weights that are used elsewhere too. Ensures that no such products are left."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse every group."""
        groups = list(_groups(model))
        for sums in groups:
            _fuse(model.graph, sums)
        return ir.passes.PassResult(model, bool(groups))

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: such products are left.
        """
        for sums in _groups(model):
            raise ir.passes.PostconditionError(f"{len(sums)} pairs of products are left, one of them in '{sums[0].total.name}'")


class _Product(NamedTuple):
    node: ir.Node
    weights: Array  # (k, n)
    bias: Array | None  # (n,)


class _Sum(NamedTuple):
    """A gate: two products added."""

    one: _Product
    other: _Product
    total: ir.Value


def _groups(model: ir.Model) -> Iterator[list[_Sum]]:
    """Gates of the same two values by the same operator in one graph, in their order."""
    found: dict[tuple[object, ...], list[_Sum]] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        products = [_product_used_once(value) for value in node.inputs] if node.op_type == "Add" else []
        if len(products) != 2 or products[0] is None or products[1] is None:
            continue
        one, other = products[0], products[1]
        of = {one.node.inputs[0]: one, other.node.inputs[0]: other}
        if len(of) == 2 and one.node.op_type == other.node.op_type and one.weights.shape[1] == other.weights.shape[1]:
            # The same two values in the same order, whichever of the products was written first.
            key = (node.graph, one.node.op_type, frozenset(of))
            if key in found:
                first = found[key][0].one.node.inputs[0]
                one, other = of.pop(first), next(iter(of.values()))
            found.setdefault(key, []).append(_Sum(one, other, node.outputs[0]))
    return (sums for sums in found.values() if len(sums) >= FEWEST)


def _product_used_once(value: ir.Value | None) -> _Product | None:
    node = None if value is None else value.producer()
    once = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
    return _product(node) if node is not None and once else None


def _product(node: ir.Node) -> _Product | None:
    weights = weights_of(node)
    W = node.inputs[1] if weights is not None else None
    if W is None or weights is None or len(W.uses()) > 1 or (rank(node.outputs[0]) or 0) < 2:
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant(given)
    if given is not None and (bias is None or bias.ndim != 1):
        return None
    return _Product(node, weights, None if bias is None else np.broadcast_to(bias, (weights.shape[1],)))


def _fuse(root: ir.Graph, sums: Sequence[_Sum]) -> None:
    first = sums[0].total
    nodes, wholes = [], []
    for products in ([each.one for each in sums], [each.other for each in sums]):
        node, whole = _whole(root, products)
        nodes.append(node)
        wholes.append(whole)
    total, value = new_node("Add", wholes, first, wholes[0].shape)
    widths = initializer(root, f"{first.name}_widths", np.array([each.one.weights.shape[1] for each in sums]))
    outputs = [ir.Value(name=f"{each.total.name}_part", shape=each.total.shape, type=each.total.type) for each in sums]
    parts = ir.node("Split", [value, widths], {"axis": -1}, outputs=outputs)
    insert_before(first, *nodes, total, parts)
    for each, part in zip(sums, outputs, strict=True):
        replace(each.total, part)
        drop(each.total)


def _whole(root: ir.Graph, products: Sequence[_Product]) -> tuple[ir.Node, ir.Value]:
    """The products of one value as one."""
    node = products[0].node
    output = node.outputs[0]
    weights = np.ascontiguousarray(np.concatenate([product.weights for product in products], axis=1))
    inputs = [node.inputs[0], initializer(root, f"{output.name}_weights", weights)]
    if any(product.bias is not None for product in products):
        biases = [np.zeros(p.weights.shape[1], np.float32) if p.bias is None else p.bias for p in products]
        inputs.append(initializer(root, f"{output.name}_biases", np.concatenate(biases)))
    shape = output.shape
    return new_node(node.op_type, inputs, output, None if shape is None else [*shape[:-1], weights.shape[1]])
