"""The LSTM, GRU or RNN node that stands for a Scan, and what is between them: states (B, H) are (1, B, H) to a node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from edgeseq_export.passes.cells import FoundCell
from edgeseq_export.passes.editing import discard, graph_of, initializer, new_node, replace
from edgeseq_export.passes.equations import Numbers
from edgeseq_export.passes.scan_parts import ScanParts

Size = int | ir.SymbolicDim | None


class FoundNode(NamedTuple):
    """What a Scan is."""

    cell: FoundCell
    sources: tuple[tuple[ir.Value, Numbers], ...]  # the sequences (T, B, k) that the node is given, and their rows (k, G*H) of W
    biases: Numbers  # (G*H,), of the sequences' products outside the body, added to the gates' own
    lengths: ir.Value | None

    @property
    def order(self) -> list[int]:
        """Which of the Scan's states is the node's first, and second."""
        return [self.cell.output] if self.cell.memory is None else [self.cell.output, self.cell.memory]


def put_native_node(root: ir.Graph, parts: ScanParts, found: FoundNode) -> None:
    """Put the node in the Scan's place; its weights go into the model's graph."""
    like, H = parts.states[0].last, found.cell.gates[0].R.shape[0]
    name = f"{like.name}_{found.cell.operator}"
    T, B = sizes_of(found.sources[0][0])
    one, first = (initializer(root, f"{name}_{axis}", np.array([at])) for axis, at in (("direction", 1), ("state", 0)))
    nodes: list[ir.Node] = []

    def made(operator: str, inputs: list[ir.Value | None], shape: list[Size], **attributes: int) -> ir.Value:
        node, output = new_node(operator, inputs, like, shape, **attributes)
        nodes.append(node)
        return output

    values: list[ir.Value | None] = [value for value, _ in found.sources]
    x = values[0] if len(values) == 1 else made("Concat", values, [T, B, sum(len(W) for _, W in found.sources)], axis=-1)
    initial = [parts.states[index].initial for index in found.order]
    zero = all(map(_is_zero, initial))  # as a node begins by itself
    given = [None if zero else made("Unsqueeze", [value, first], [1, B, H]) for value in initial]
    W, R, b, P = _weights(root, name, found)
    node = _native_node(found.cell, [x, W, R, b, found.lengths, *given, *([] if P is None else [P])], parts.inputs[0].reverse)
    for output, (part, shape) in zip(node.outputs, (("Y", [T, 1, B, H]), ("Y_h", [1, B, H]), ("Y_c", [1, B, H])), strict=False):
        output.name, output.type, output.shape = f"{name}_{part}", like.type, ir.Shape(shape)
    nodes.append(node)
    replaced = [(sequence.outside, made("Squeeze", [node.outputs[0], one], [T, B, H])) for sequence in parts.outputs]
    for index, end in zip(found.order, node.outputs[1:], strict=True):
        replaced.append((parts.states[index].last, made("Squeeze", [end, first], [B, H])))
    graph_of(parts.node).insert_before(parts.node, nodes)
    for value, by in replaced:
        replace(value, by)
    discard(parts.node)


def sizes_of(sequence: ir.Value) -> tuple[Size, Size]:
    """T and B of a sequence (T, B, n)."""
    assert sequence.shape is not None
    return sequence.shape[0], sequence.shape[1]


def _weights(root: ir.Graph, name: str, found: FoundNode) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None]:
    """ONNX's W (1, G*H, I), R (1, G*H, H), B (1, 2*G*H) and P (1, 3*H)."""
    gates = found.cell.gates
    arrays = {
        "W": np.concatenate([rows for _, rows in found.sources]).T,
        "R": np.concatenate([gate.R.T for gate in gates]),
        "B": _biases(found),
    }
    W, R, b = (initializer(root, f"{name}_{letter}", array[None].astype(np.float32)) for letter, array in arrays.items())
    if not found.cell.peepholes:
        return W, R, b, None
    i, o, f = (gate.p for gate in gates[:3])
    return W, R, b, initializer(root, f"{name}_P", np.concatenate([i, o, f])[None].astype(np.float32))


def _native_node(cell: FoundCell, inputs: list[ir.Value | None], reverse: bool) -> ir.Node:
    attributes: dict[str, int | str | list[str]] = {
        "direction": "reverse" if reverse else "forward",
        "hidden_size": cell.gates[0].R.shape[0],
    }
    usual = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}.get(cell.operator)
    if cell.activations != usual:
        attributes["activations"] = list(cell.activations)
    if cell.operator == "GRU":
        attributes["linear_before_reset"] = int(cell.reset_after)
    return ir.node(cell.operator, inputs, attributes, num_outputs=3 if cell.operator == "LSTM" else 2)


def _biases(found: FoundNode) -> Numbers:
    """The sum of a gate's biases in two halves (2*G*H,), the second what rounding the first leaves."""
    cell = found.cell
    total = np.concatenate([gate.b for gate in cell.gates]) + found.biases
    first: Numbers = total.astype(np.float32).astype(np.float64)
    second = total - first
    if cell.reset_after:
        second[-len(cell.hidden_bias) :] = cell.hidden_bias  # it is multiplied by the reset gate
    return np.concatenate([first, second])


def _is_zero(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "ConstantOfShape":
        return False
    filled = node.attributes.get("value")
    return filled is None or not filled.as_tensor().numpy().any()
