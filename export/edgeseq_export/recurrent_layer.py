"""`edgeseq.Recurrent` while a module is traced: its cells' native node where ONNX has one, one Scan a cell otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import edgeseq_export.operators  # noqa: F401  (defines torch.ops.edgeseq)
from edgeseq import Cell, Recurrent
from edgeseq_export.native_cells import NativeNode, native_directions, native_node
from edgeseq_export.scan import State, scan_over_time
from edgeseq_runtime.errors import UnsupportedModule

ops = torch.ops.edgeseq


def run_recurrent(
    module: Recurrent, x: Tensor, state: Sequence[Tensor] | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, State]:
    """`edgeseq.Recurrent`: its cells' native node where ONNX has one, one Scan a cell otherwise."""
    if state is None and type(module).initial_state is not Recurrent.initial_state:
        state = module.initial_state(x)
    outputs: list[Tensor] = []
    ends: list[Tensor] = []
    for number, cells in enumerate(native_directions(module)):
        if cells is None:
            y, end = _scan_direction(module, number, x, state, lengths)
        else:
            node = native_node(cells, reverse=module.directions[number][1])
            y, end = _native_directions(module, number, node, x, state, lengths)
        outputs.append(y)
        ends.extend(end)
    return (torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]), tuple(ends)


def _scan_direction(
    module: Recurrent, number: int, x: Tensor, state: Sequence[Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, State]:
    cell, reverse = module.directions[number]
    initial = cell.initial_state(x) if state is None else _states_from(module, number, state)[: len(cell.state_shapes)]
    return scan_over_time(cell.step, initial, cell.project(x), lengths, reverse=reverse)


def _native_directions(
    module: Recurrent, number: int, node: NativeNode, x: Tensor, state: Sequence[Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """One native node, which holds one cell or both. Its states are (D, B, H); a layer's are (B, H), one cell after the other."""
    if not hasattr(module, f"onnx_W{number}"):
        cell, _ = module.directions[number]
        raise UnsupportedModule(
            f"an edgeseq.Recurrent around {type(cell).__name__} is made in forward, where its weights can't be laid out for the "
            "graph; make it in __init__"
        )
    W, R, b, P = (getattr(module, f"onnx_{name}{number}") for name in ("W", "R", "b", "P"))
    D, kinds = node.W.shape[0], 2 if node.operator == "LSTM" else 1
    cells = module.directions[number : number + D]
    if state is not None:
        own = _states_from(module, number, state)[: D * kinds]
    elif all(type(cell).initial_state is Cell.initial_state for cell, _ in cells):
        own = []
    else:
        own = [s for cell, _ in cells for s in cell.initial_state(x)]
    initial = (
        [torch.stack(own[kind::kinds]) if D > 1 else own[kind].unsqueeze(0) for kind in range(kinds)] if own else [None] * kinds
    )
    lengths = None if lengths is None else lengths.to(torch.int32)
    if node.operator == "LSTM":
        y, *last = ops.lstm(x, W, R, b, lengths, *initial, P, node.direction, node.activations)
    elif node.operator == "GRU":
        y, *last = ops.gru(x, W, R, b, lengths, *initial, node.direction, node.reset_after)
    else:
        y, *last = ops.rnn(x, W, R, b, lengths, *initial, node.direction, node.activations[0])
    return y, tuple(ends[direction] for direction in range(D) for ends in last)


def _states_from(module: Recurrent, number: int, state: Sequence[Tensor]) -> list[Tensor]:
    """The state tensors of the cell `number` and those after it."""
    return list(state)[sum(len(cell.state_shapes) for cell, _ in module.directions[:number]) :]
