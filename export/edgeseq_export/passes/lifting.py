"""What a node of a Scan's body, which sees one step, is for the whole sequence: the same with one more axis in front.

A step's value (B, n) is the sequence's (T, B, n). Whatever else a node sees is the same at every step, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import PRODUCTS, integers, rank, weights_of
from edgeseq_runtime.tensors.spec import Array


class Lifted(NamedTuple):
    """A node for the whole sequence: what is changed of it."""

    operator: str
    attributes: Mapping[str, Any] = {}
    constants: Mapping[int, Array] = {}  # inputs that become other constants
    bias: bool = False  # the third input is added afterwards


Rule = Callable[[ir.Node, Sequence[bool]], "Lifted | None"]


def lifted(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    """The node for the whole sequence, or None where there is none.

    Args:
        node: of a Scan's body.
        steps: which of its inputs are one step of a sequence.
    """
    rule = _RULES.get(node.op_type) if not node.domain else None
    known = all(value is None or rank(value) is not None for value in (*node.inputs, *node.outputs))
    return rule(node, steps) if rule is not None and known and any(steps) else None


def row_by_row(node: ir.Node, steps: Sequence[bool]) -> bool:
    """Each sequence's features, the last axis, are made of that sequence's alone."""
    if node.op_type == "LayerNormalization" or node.op_type in ("Softmax", "LogSoftmax"):
        return node.attributes.get_int("axis", -1) in (-1, _rank_of(node) - 1)
    if node.op_type in PRODUCTS:
        return list(steps[:2]) == [True, False]
    return node.op_type in _ELEMENTWISE


def _rank_of(node: ir.Node) -> int:
    """Axes of the first output."""
    return rank(node.outputs[0]) or 0


def _elementwise(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    """Shapes are matched from the last axis on, so every step needs all its axes for time to be before them."""
    axes = _rank_of(node)
    for value, step in zip(node.inputs, steps, strict=True):
        if value is not None and (rank(value) != axes if step else (rank(value) or 0) > axes):
            return None
    return Lifted(node.op_type)


def _matmul(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    matrices = all(value is not None and (rank(value) or 0) >= 2 for value in node.inputs)
    return _elementwise(node, steps) if matrices else None


def _gemm(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    weights = weights_of(node)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if weights is None or not steps[0] or any(steps[1:]) or (bias is not None and (rank(bias) or 0) > 1):
        return None
    return Lifted("MatMul", {}, {1: weights.copy()} if node.attributes.get_int("transB", 0) else {}, bias is not None)


def _along_axis(default: int) -> Rule:
    """One axis, an attribute; only the first input is a step."""

    def rule(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
        if not steps[0] or any(steps[1:]):
            return None
        return Lifted(node.op_type, {"axis": _later(node.attributes.get_int("axis", default))})

    return rule


def _concat(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    return Lifted("Concat", {"axis": _later(node.attributes.get_int("axis", 0))}) if all(steps) else None


def _gather(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    axis = node.attributes.get_int("axis", 0)
    if list(steps) == [False, True]:  # rows of a table
        return Lifted("Gather", {"axis": 0}) if axis == 0 else None
    return Lifted("Gather", {"axis": _later(axis)}) if list(steps) == [True, False] else None


def _with_axes(position: int) -> Rule:
    """Axes are a constant input."""

    def rule(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
        axes = integers(node.inputs[position]) if len(node.inputs) > position else None
        if axes is None or not steps[0] or any(steps[1:]):
            return None
        return Lifted(node.op_type, {}, {position: np.array([_later(axis) for axis in axes])})

    return rule


def _transpose(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    permutation = node.attributes.get_ints("perm", tuple(reversed(range(_rank_of(node)))))
    return Lifted("Transpose", {"perm": [0, *(axis + 1 for axis in permutation)]})


def _reshape(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    """A zero copies the size at its place, which is one later, as the size is."""
    shape = integers(node.inputs[1])
    if shape is None or not steps[0] or steps[1] or node.attributes.get_int("allowzero", False):
        return None
    return Lifted("Reshape", {}, {1: np.array([0, *shape])})


def _same(node: ir.Node, steps: Sequence[bool]) -> Lifted | None:
    return Lifted(node.op_type)


def _later(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


_UNARY = "Abs Ceil Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Neg Not Reciprocal Relu"
_MORE = "Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu Add And Clip Div Equal Greater GreaterOrEqual"
_REST = "Less LessOrEqual Max Min Mod Mul Or Pow PRelu Sub Where Cast Identity"
_ELEMENTWISE = frozenset(f"{_UNARY} {_MORE} {_REST}".split())
_REDUCTIONS = ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _with_axes(1)),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _with_axes(1)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "LayerNormalization"), _along_axis(-1)),
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _with_axes(3),
    "Split": _along_axis(0),
    "Transpose": _transpose,
}


def lift(
    node: ir.Node, change: Lifted, inputs: Sequence[ir.Value | None], T: Any, new_constant: Callable[[str, Array], ir.Value]
) -> list[ir.Node]:
    """The nodes for the whole sequence; the last one's outputs are those of `node`, each with time in front.

    Args:
        node: of the body.
        change: what `lifted` said of it.
        inputs: the node's inputs outside the body: sequences in the place of steps.
        T: the size of the time axis.
        new_constant: makes an initializer.
    """
    values = list(inputs[:2] if change.operator == "MatMul" else inputs)
    for index, array in change.constants.items():
        values[index] = new_constant(f"{node.outputs[0].name}_constant", array)
    attributes = {} if change.operator != node.op_type else {**node.attributes}
    attributes.update({name: ir.convenience.convert_attribute(name, value) for name, value in change.attributes.items()})
    outputs = [_in_front(value, T) for value in node.outputs]
    result = ir.Node("", change.operator, values, attributes.values(), outputs=outputs)
    if not change.bias:
        return [result]
    result.outputs[0].name = f"{outputs[0].name}_product"
    return [result, ir.node("Add", [result.outputs[0], inputs[2]], outputs=[_in_front(node.outputs[0], T)])]


def _in_front(value: ir.Value, T: Any) -> ir.Value:
    shape = None if value.shape is None else ir.Shape([T, *value.shape])
    return ir.Value(name=f"{value.name}_all", shape=shape, type=value.type)
