"""Nodes that run graphs of their own: Scan, Loop and If."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from edgeseq_export.graph64.node import Body, Node, dtype_of

Control = Callable[..., tuple[Any, ...]]  # takes the bodies by attribute, then the inputs


def _scan(node: Node) -> Control:
    scanned = int(node.get("num_scan_inputs"))
    body = node.get("body")
    states, collected = len(body.input) - scanned, len(body.output) - (len(body.input) - scanned)
    in_axes = node.get("scan_input_axes") or [0] * scanned
    in_backwards = node.get("scan_input_directions") or [0] * scanned
    out_axes = node.get("scan_output_axes") or [0] * collected
    out_backwards = node.get("scan_output_directions") or [0] * collected

    def run(bodies: Mapping[str, Body], *inputs: Any) -> tuple[Any, ...]:
        state = list(inputs[:states])
        sequences = [np.moveaxis(array, axis, 0) for array, axis in zip(inputs[states:], in_axes, strict=True)]
        sequences = [array[::-1] if back else array for array, back in zip(sequences, in_backwards, strict=True)]
        made: list[list[Any]] = [[] for _ in range(collected)]
        for step in range(len(sequences[0])):
            outputs = bodies["body"]([*state, *(array[step] for array in sequences)])
            state = outputs[:states]
            for pieces, value in zip(made, outputs[states:], strict=True):
                pieces.append(value)
        stacked = [_stacked(pieces, declared) for pieces, declared in zip(made, body.output[states:], strict=True)]
        stacked = [array[::-1] if back else array for array, back in zip(stacked, out_backwards, strict=True)]
        return (*state, *(np.moveaxis(array, 0, axis) for array, axis in zip(stacked, out_axes, strict=True)))

    return run


def _loop(node: Node) -> Control:
    body = node.get("body")
    carried = len(body.input) - 2
    declared = body.output[1 + carried :]

    def run(bodies: Mapping[str, Body], trips: Any, condition: Any, *state: Any) -> tuple[Any, ...]:
        most = np.inf if trips is None else int(trips.item())
        going = True if condition is None else bool(condition.item())
        made: list[list[Any]] = [[] for _ in declared]
        done = 0
        while going and done < most:
            proceed, *outputs = bodies["body"]([np.asarray(done, np.int64), np.asarray(going), *state])
            going, state = bool(proceed.item()), tuple(outputs[:carried])
            for pieces, value in zip(made, outputs[carried:], strict=True):
                pieces.append(value)
            done += 1
        return (*state, *(_stacked(pieces, each) for pieces, each in zip(made, declared, strict=True)))

    return run


def _stacked(pieces: Sequence[Any], declared: onnx.ValueInfoProto) -> Any:
    if pieces:
        return np.stack(pieces)
    tensor = declared.type.tensor_type
    return np.zeros((0, *(size.dim_value for size in tensor.shape.dim)), dtype_of(tensor.elem_type))


def _if(node: Node) -> Control:
    def run(bodies: Mapping[str, Body], condition: Any) -> tuple[Any, ...]:
        return tuple(bodies["then_branch" if condition.item() else "else_branch"]([]))

    return run


CONTROL: dict[str, Callable[[Node], Control]] = {"Scan": _scan, "Loop": _loop, "If": _if}
