"""The equations of a graph's values, read from its nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.editing import constant, integers, last_size, positive, rank, weights_of
from edgeseq_export.passes.equations import (
    FUNCTIONS,
    Form,
    added,
    atom_of,
    constant_form,
    function_of,
    joined,
    multiplied,
    transformed,
)


class NoEquations(Exception):
    """A value is not calculated feature by feature, or by matrix products, in a way that is read here."""


class Equations:
    """The forms of values, each read once.

    Args:
        known: values that are not looked into, and those that stand for others.
    """

    def __init__(self, known: Mapping[ir.Value, Form]) -> None:
        self._forms = dict(known)

    def of(self, value: ir.Value) -> Form:
        """The form of a value.

        Raises:
            NoEquations: it has none.
        """
        if value not in self._forms:
            self._forms[value] = self._read(value)
        return self._forms[value]

    def _read(self, value: ir.Value) -> Form:
        width = last_size(value)
        array = constant(value)
        if array is not None and array.dtype.kind == "f" and array.ndim <= 1:
            return constant_form(array, array.size)
        node = value.producer()
        if node is None or node.domain or width is None:
            raise NoEquations(value.name)
        if node.op_type in FUNCTIONS:
            return function_of(node.op_type, self._input(node, 0))
        reader = _READERS.get(node.op_type)
        if reader is None:
            raise NoEquations(node.op_type)
        form = reader(self, node, value)
        if form.width != width:
            raise NoEquations(f"{node.op_type} of {form.width} features, not {width}")
        return form

    def _input(self, node: ir.Node, index: int) -> Form:
        value = node.inputs[index]
        if value is None:
            raise NoEquations(node.op_type)
        return self.of(value)

    def _both(self, node: ir.Node, value: ir.Value) -> tuple[Form, Form]:
        """Two operands, a constant that is one number repeated for every feature."""
        width = last_size(value)
        forms = []
        for index in (0, 1):
            form = self._input(node, index)
            if form.constant is not None and form.width == 1 and width is not None:
                form = constant_form(form.constant, width)
            if form.width != width:
                raise NoEquations(f"{node.op_type} of {form.width} features and {width}")
            forms.append(form)
        return forms[0], forms[1]

    def add(self, node: ir.Node, value: ir.Value) -> Form:
        """The sum a + b."""
        return added(*self._both(node, value))

    def subtract(self, node: ir.Node, value: ir.Value) -> Form:
        """The difference a - b."""
        return added(*self._both(node, value), sign=-1.0)

    def multiply(self, node: ir.Node, value: ir.Value) -> Form:
        """The product a * b, element by element."""
        return multiplied(*self._both(node, value))

    def negate(self, node: ir.Node, value: ir.Value) -> Form:
        """The negative."""
        form = self._input(node, 0)
        return multiplied(constant_form(_MINUS_ONE, form.width), form)

    def same(self, node: ir.Node, value: ir.Value) -> Form:
        """What it is of."""
        return self._input(node, 0)

    def product(self, node: ir.Node, value: ir.Value) -> Form:
        """The matrix product x W."""
        weights = weights_of(node)
        if weights is None:
            raise NoEquations("a product with what varies")
        return transformed(self._input(node, 0), weights)

    def gemm(self, node: ir.Node, value: ir.Value) -> Form:
        """The layer x W + b, W transposed where the node says so."""
        weights = weights_of(node)
        if weights is None:
            raise NoEquations("a Gemm that is more than x W + b")
        form = transformed(self._input(node, 0), weights)
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return form
        bias = self.of(node.inputs[2])
        return added(form, constant_form(bias.constant, form.width) if bias.constant is not None and bias.width == 1 else bias)

    def concatenate(self, node: ir.Node, value: ir.Value) -> Form:
        """Features side by side."""
        _require_last_axis(node.attributes.get_int("axis", 0), value)
        return joined(self._input(node, index) for index in range(len(node.inputs)))

    def split(self, node: ir.Node, value: ir.Value) -> Form:
        """One of the parts."""
        _require_last_axis(node.attributes.get_int("axis", 0), value)
        widths = [last_size(output) for output in node.outputs]
        index = node.outputs.index(value)
        if any(width is None for width in widths):
            raise NoEquations("a Split into parts of sizes that vary")
        start = sum(width for width in widths[:index] if width is not None)
        return self._input(node, 0)[start : start + (widths[index] or 0)]

    def slice(self, node: ir.Node, value: ir.Value) -> Form:
        """Some features in a row."""
        starts, ends, axes = (integers(node.inputs[index]) if len(node.inputs) > index else None for index in (1, 2, 3))
        steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
        if starts is None or ends is None or axes is None or steps != [1] or len(axes) != 1:
            raise NoEquations("a Slice that is not of features in a row")
        _require_last_axis(axes[0], value)
        form = self._input(node, 0)
        start, end, _ = slice(starts[0], ends[0]).indices(form.width)
        return form[start:end]


def _require_last_axis(axis: int, value: ir.Value) -> None:
    axes = rank(value)
    if axes is None or positive(axis, axes) != axes - 1:
        raise NoEquations("features are not the last axis")


_MINUS_ONE = np.array([-1.0])
_READERS: Mapping[str, Callable[[Equations, ir.Node, ir.Value], Form]] = {
    "Add": Equations.add,
    "Sub": Equations.subtract,
    "Mul": Equations.multiply,
    "Neg": Equations.negate,
    "Identity": Equations.same,
    "MatMul": Equations.product,
    "Gemm": Equations.gemm,
    "Concat": Equations.concatenate,
    "Split": Equations.split,
    "Slice": Equations.slice,
}

__all__ = ["Equations", "NoEquations", "atom_of"]
