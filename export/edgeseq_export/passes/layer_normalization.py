"""Layer normalisation written out in primitives: as one node.

(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε), times a gain and plus a shift where there are any, over the last axis
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import (
    constant,
    drop,
    initializer,
    insert_before,
    integers,
    last_size,
    new_node,
    positive,
    rank,
    replace,
)


class LayerNormalizationPass(ir.passes.InPlacePass):
    """Requires a last axis of known size, and leaves alone what has none; ensures that no such sum is left in primitives."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every sum found, the outermost nodes first."""
        found = list(_normalisations(model))
        for norm in found:
            _replace(model.graph, norm)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """See the class.

        Raises:
            PostconditionError: one is left.
        """
        for norm in _normalisations(model):
            raise ir.passes.PostconditionError(f"layer normalisation is left in primitives: '{norm.result.name}'")


class _Normalisation(NamedTuple):
    x: ir.Value
    epsilon: float
    gain: ir.Value | None
    shift: ir.Value | None
    result: ir.Value


def _normalisations(model: ir.Model) -> Iterator[_Normalisation]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        core = _standardised(node)
        output = node.outputs[0]
        if core is None or not (output.uses() or output.is_graph_output()):
            continue
        x, epsilon = core
        gain, output = _with_constant(output, "Mul", last_size(x))
        shift, output = _with_constant(output, "Add", last_size(x))
        yield _Normalisation(x, epsilon, gain, shift, output)


def _standardised(node: ir.Node) -> tuple[ir.Value, float] | None:
    """The x and ε of (x - mean) / sqrt(variance + ε), or of its product with the reciprocal; None where it is anything else."""
    centred = deviation = None
    if node.op_type == "Div":
        centred, deviation = node.inputs[0], _of(node.inputs[1], "Sqrt")
    elif node.op_type == "Mul":
        for one, other in (node.inputs, reversed(node.inputs)):
            inverse = _of(other, "Reciprocal")
            if inverse is not None:
                centred, deviation = one, _of(inverse, "Sqrt")
    x = None if centred is None else _centred(centred)
    if x is None or deviation is None or last_size(x) is None:
        return None
    variance, epsilon = _plus_number(deviation)
    squares = None if variance is None else _mean(variance)
    if squares is None or epsilon is None or not epsilon > 0 or _square_of(squares) is not centred:
        return None
    return x, epsilon


def _of(value: ir.Value | None, operator: str) -> ir.Value | None:
    """What a unary node is of."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and node.op_type == operator else None


def _centred(value: ir.Value) -> ir.Value | None:
    """The x of x - mean(x)."""
    node = value.producer()
    if node is None or node.op_type != "Sub" or node.inputs[1] is None:
        return None
    return node.inputs[0] if _mean(node.inputs[1]) is node.inputs[0] else None


def _mean(value: ir.Value) -> ir.Value | None:
    """What is averaged over its last axis, which stays with one element."""
    node = value.producer()
    if node is None or node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.attributes.get_int("keepdims", 1) != 1:
        return None
    x, axes = node.inputs[0], integers(node.inputs[1])
    count = None if x is None else rank(x)
    if axes is None or count is None or len(axes) != 1 or positive(axes[0], count) != count - 1:
        return None
    return x


def _square_of(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    if node is not None and node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return node.inputs[0]
    power = constant(node.inputs[1]) if node is not None and node.op_type == "Pow" else None
    return node.inputs[0] if node is not None and power is not None and power.size == 1 and power.item() == 2 else None


def _plus_number(value: ir.Value) -> tuple[ir.Value | None, float | None]:
    node = value.producer()
    if node is not None and node.op_type == "Add":
        for one, other in (node.inputs, reversed(node.inputs)):
            number = constant(other)
            if number is not None and number.size == 1 and number.ndim <= 1:
                return one, float(number.item())
    return None, None


def _with_constant(value: ir.Value, operator: str, width: int | None) -> tuple[ir.Value | None, ir.Value]:
    """The (n,) constant that a value's only use combines it with, and the result; None and the value itself otherwise."""
    uses = list(value.uses())
    if len(uses) == 1 and not value.is_graph_output() and uses[0].node.op_type == operator:
        node, index = uses[0]
        other = node.inputs[1 - index]
        array = constant(other)
        if array is not None and array.shape == (width,) and node.graph is value.graph:
            return other, node.outputs[0]
    return None, value


def _replace(root: ir.Graph, norm: _Normalisation) -> None:
    width = last_size(norm.x)
    assert width is not None
    gain = norm.gain or initializer(root, f"{norm.result.name}_gain", np.ones(width, np.float32))
    inputs = [norm.x, gain] if norm.shift is None else [norm.x, gain, norm.shift]
    node, value = new_node(
        "LayerNormalization", inputs, norm.result, norm.result.shape, axis=-1, epsilon=norm.epsilon, stash_type=1
    )
    insert_before(norm.result, node)
    replace(norm.result, value)
    drop(norm.result)
