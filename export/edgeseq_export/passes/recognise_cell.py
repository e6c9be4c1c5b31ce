"""A Scan whose body is an LSTM, a GRU or an RNN written out: as that node.

However the body writes it: one matrix for all gates or one each, input and state side by side, in any order of gates, with the
sum of the new state rearranged. What it computes is read as equations (`equations`, `reading`) and compared with those of ONNX's
operators (`cells`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.cells import FoundCell, found_cell
from edgeseq_export.passes.editing import (
    constant,
    integers,
    last_size,
    rank,
    skip_identities,
)
from edgeseq_export.passes.equations import INPUT, Atom, Form, Numbers, added, atom_of, constant_form, is_selection
from edgeseq_export.passes.native_node import FoundNode, put_native_node
from edgeseq_export.passes.reading import Equations, NoEquations
from edgeseq_export.passes.scan_parts import ScanParts, scans

WORTHWHILE = 1 << 16  # multiplications a step that a node may have more than the Scan it replaces


class RecogniseCellPass(ir.passes.InPlacePass):
    """Requires rank and number of features of a body's values; ensures that each node made has the Scan's outputs.

    Attributes:
        recognised: the operators of the nodes made, so that whoever counts recurrent nodes can be told.
    """

    def __init__(self) -> None:
        self.recognised: Counter[str] = Counter()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what is recognised."""
        for parts in scans(model):
            found = _recognised(parts)
            if found is not None:
                put_native_node(model.graph, parts, found)
                self.recognised[found.cell.operator] += 1
        return ir.passes.PassResult(model, bool(self.recognised))


def _recognised(parts: ScanParts) -> FoundNode | None:
    reverse = {sequence.reverse for sequence in (*parts.inputs, *parts.outputs)}
    if len(reverse) != 1 or not parts.states or any(rank(state.inside) != 2 for state in parts.states):
        return None
    live, following, outputs = _unmasked(parts)
    lengths = None if live is None else _lengths_of(live)
    if live is not None and lengths is None:
        return None
    try:
        equations = Equations(_given(parts))
        forms = [equations.of(value) for value in following]
        states = [next(iter(equations.of(state.inside).terms))[0] for state in parts.states]
        cell = found_cell(states, forms)
        if cell is None or any(equations.of(value).key != forms[cell.output].key for value in outputs):
            return None
        sources = _sources(cell, parts)
    except NoEquations:
        return None
    return None if sources is None else FoundNode(cell, *sources, lengths)


def _given(parts: ScanParts) -> dict[ir.Value, Form]:
    given = [*(state.inside for state in parts.states), *(sequence.inside for sequence in parts.inputs)]
    return {value: atom_of(value, width) for value in given if rank(value) == 2 and (width := last_size(value)) is not None}


def _unmasked(parts: ScanParts) -> tuple[ir.Value | None, list[ir.Value], list[ir.Value]]:
    """The scanned sequence that says which steps are live, if there is one, and next states and outputs at live steps."""
    following = [skip_identities(state.following) for state in parts.states]
    outputs = [skip_identities(sequence.inside) for sequence in parts.outputs]
    masks = {_where(value)[0] for value in (*following, *outputs)}
    live = next(iter(masks))
    if len(masks) != 1 or live is None or live not in {sequence.inside for sequence in parts.inputs}:
        return None, following, outputs
    old = all(_where(value)[2] is state.inside for value, state in zip(following, parts.states, strict=True))
    zeros = [constant(_where(value)[2]) for value in outputs]
    if not old or any(zero is None or zero.any() for zero in zeros):
        return None, following, outputs
    outside = next(sequence.outside for sequence in parts.inputs if sequence.inside is live)
    new = [_where(value)[1] for value in (*following, *outputs)]
    values = [skip_identities(value) for value in new if value is not None]
    return outside, values[: len(following)], values[len(following) :]


def _where(value: ir.Value) -> tuple[ir.Value | None, ir.Value | None, ir.Value | None]:
    node = value.producer()
    if node is None or node.op_type != "Where":
        return None, None, None
    return node.inputs[0], node.inputs[1], node.inputs[2]


def _lengths_of(live: ir.Value) -> ir.Value | None:
    """The int32 lengths (B,), an input of the model, of a mask (T, B, 1) that is true up to them."""
    less = _single_axis_added(live, -1, 2)
    node = None if less is None else less.producer()
    if node is None or node.op_type != "Less" or node.inputs[0] is None or node.inputs[1] is None:
        return None
    steps, counts = _single_axis_added(node.inputs[0], 1), _single_axis_added(node.inputs[1], 0)
    counting = None if steps is None else steps.producer()
    if counting is None or counting.op_type != "Range" or counts is None:
        return None
    if integers(counting.inputs[0]) != [0] or integers(counting.inputs[2]) != [1]:
        return None
    while (cast := counts.producer()) is not None and cast.op_type == "Cast" and cast.inputs[0] is not None:
        counts = cast.inputs[0]
    # Lengths that are calculated may be 0 or beyond the sequence, where a node differs from a mask.
    return counts if counts.is_graph_input() and counts.dtype == ir.DataType.INT32 and rank(counts) == 1 else None


def _single_axis_added(value: ir.Value, *axes: int) -> ir.Value | None:
    node = value.producer()
    if node is None or node.op_type != "Unsqueeze":
        return None
    new = integers(node.inputs[1])
    return node.inputs[0] if new is not None and len(new) == 1 and new[0] in axes else None


def _sources(cell: FoundCell, parts: ScanParts) -> tuple[tuple[tuple[ir.Value, Numbers], ...], Numbers] | None:
    """What the gates see besides the states: sequences outside, and the rows (k, G*H) of each.

    A sequence that only moves to the gates was multiplied by its weights outside: that product is the node's own. Where it was
    not, the node would multiply by ones and zeros, which pays for small ones alone.
    """
    H, G = cell.gates[0].R.shape[0], len(cell.gates)
    rows: dict[ir.Value, Numbers] = {}
    for number, gate in enumerate(cell.gates):
        for atom, coefficient in gate.x.items():
            outside = next((sequence.outside for sequence in parts.inputs if sequence.inside is atom.value), None)
            width = None if atom.value is None else last_size(atom.value)
            if outside is None or width is None or rank(outside) != 3 or _batch(outside, 1) != _batch(parts.states[0].inside, 0):
                return None
            W = rows.setdefault(outside, np.zeros((width, G * H)))
            part = coefficient if coefficient.ndim == 2 else np.diag(coefficient)
            W[atom.first : atom.first + atom.width, number * H : (number + 1) * H] += part
    biases, sources = np.zeros(G * H), []
    for outside, W in rows.items():
        product = _product_outside(outside) if is_selection(np.abs(W)) else None
        if product is None:
            if is_selection(np.abs(W)) and W.size > WORTHWHILE:
                return None
            sources.append((outside, W))
            continue
        for term, coefficient in product.terms.items():
            if not term:
                biases = biases + coefficient @ W
            else:
                sources.append((_atom_value(term[0]), (coefficient if coefficient.ndim == 2 else np.diag(coefficient)) @ W))
    return (tuple(sources), biases) if sources else None


def _batch(value: ir.Value, axis: int) -> object:
    """The size of the batch: a node does not repeat an input of one sequence for all states, as a sum in a body does."""
    size = None if value.shape is None else value.shape[axis]
    return value if size is None or (isinstance(size, ir.SymbolicDim) and size.value is None) else size


def _product_outside(value: ir.Value) -> Form | None:
    """A sequence (T, B, n) as products of others with their weights and a bias; None where it is anything else."""
    node = skip_identities(value).producer()
    bias = None
    if node is not None and node.op_type == "Add":
        pairs = ((node.inputs[0], constant(node.inputs[1])), (node.inputs[1], constant(node.inputs[0])))
        sum_of = next(
            ((other, array) for other, array in pairs if other is not None and array is not None and array.ndim <= 1), None
        )
        if sum_of is None:
            return None
        node, bias = sum_of[0].producer(), sum_of[1]
    weights = constant(node.inputs[1]) if node is not None and node.op_type == "MatMul" else None
    x = node.inputs[0] if node is not None else None
    width = last_size(value)
    if weights is None or weights.ndim != 2 or x is None or rank(x) != 3 or width is None:
        return None
    atom = Atom(INPUT, value=x, width=weights.shape[0])
    product = Form(width, {(atom,): weights.astype(np.float64)})
    return product if bias is None else added(product, constant_form(bias, width))


def _atom_value(atom: Atom) -> ir.Value:
    assert atom.value is not None
    return atom.value
