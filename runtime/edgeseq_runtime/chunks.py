"""Whole sequences fed to a stream in pieces, and the pieces of output put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edgeseq_runtime.interface import Interface
from edgeseq_runtime.stream import Stream
from edgeseq_runtime.tensors.spec import Array


def run_in_chunks(
    stream: Stream,
    interface: Interface,
    inputs: Mapping[str, Array],
    chunks: Iterable[int],
    progress: Callable[[int], None] = lambda steps: None,
) -> dict[str, Array]:
    """Every output of whole sequences, fed in chunks of the given lengths until the sequences end.

    Inputs without the time axis, such as a memory to attend to, are given again at each step; the last chunk is as long as what
    is left. Where the model takes sequence lengths, each chunk is given as full. Outputs with the time axis are joined along it;
    of the others the last chunk's is returned, and the state goes by the names of its outputs.

    Args:
        stream: starts from the state it has.
        interface: of the stream's model.
        inputs: every input but the state and the lengths of the sequences that are cut.
        chunks: lengths in time steps.
        progress: told how many steps each chunk was.

    A model none of whose inputs has a time axis is a single step: it is run once.

    Raises:
        InputError: an input does not fit.
    """
    T = sequence_steps(interface, inputs)
    pieces: list[dict[str, Array]] = []
    done = 0
    for wanted in chunks:
        steps = min(wanted, T - done)
        pieces.append(stream.step(_piece(interface, inputs, done, steps, stream.batch)))
        progress(steps)
        done += steps
        if done == T:
            break
    return {**_joined(interface, pieces), **{interface.state[name]: value for name, value in stream.state.items()}}


def sequence_steps(interface: Interface, inputs: Mapping[str, Array]) -> int:
    """How many time steps the inputs have; 1 where none has a time axis."""
    for spec in interface.data_inputs:
        at = interface.time_position(spec)
        if at is not None and spec.name in inputs and inputs[spec.name].ndim == len(spec.shape):
            return int(inputs[spec.name].shape[at])
    return 1


def _piece(interface: Interface, inputs: Mapping[str, Array], start: int, steps: int, batch: int) -> dict[str, Array]:
    piece = dict(inputs)
    for spec in interface.data_inputs:
        at = interface.time_position(spec)
        if spec.name in interface.step_lengths:
            piece[spec.name] = np.full(batch, steps, spec.dtype)
        elif at is not None and spec.name in inputs:
            piece[spec.name] = cut(inputs[spec.name], at, start, start + steps)
    return piece


def cut(array: Array, axis: int, start: int, stop: int) -> Array:
    """The part of an array from `start` to `stop` along one axis."""
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _joined(interface: Interface, pieces: list[dict[str, Array]]) -> dict[str, Array]:
    joined = {}
    for spec in interface.data_outputs:
        at = interface.time_position(spec)
        parts = [piece[spec.name] for piece in pieces]
        joined[spec.name] = parts[-1] if at is None else np.concatenate(parts, axis=at)
    return joined
