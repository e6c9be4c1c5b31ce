"""A step graph as the searches see it: state in a stream, memory given whole at every step, a sequence step by step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeseq_runtime.bundle import Generation
from edgeseq_runtime.chunks import cut
from edgeseq_runtime.errors import InputError
from edgeseq_runtime.generation.written import Scores, Tokens
from edgeseq_runtime.interface import BATCH, Interface
from edgeseq_runtime.session import Session
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array


class StepGraph:
    """`batch` sequences of `width` rows each, all rows of a sequence with the same inputs to begin with.

    Args:
        session: of the step graph.
        generation: what its bundle says.
        inputs: every input but the tokens, for a batch; state left out is zeros.
        width: rows a sequence.

    Raises:
        InputError: an input is missing or unknown, or does not fit.
    """

    def __init__(self, session: Session, generation: Generation, inputs: Mapping[str, Array], width: int) -> None:
        interface = session.interface
        _require_named(interface, generation, inputs)
        self.batch = batch_of(interface, inputs)
        self.start, self.end = generation.start or 0, generation.end
        self.limit = _steps_of(interface, generation, inputs)
        rows = self.batch * width
        repeated = {spec.name: _repeated(spec, inputs[spec.name], width) for spec in interface.inputs if spec.name in inputs}
        times = {spec.name: at for spec in interface.data_inputs if (at := interface.time_position(spec)) is not None}
        self._tokens = next(spec for spec in interface.inputs if spec.name == generation.tokens)
        self._shape = [size if isinstance(size, int) else rows if size == BATCH else 1 for size in self._tokens.shape]
        self._scores = generation.scores
        self._sequences = [(name, repeated[name], at) for name, at in times.items() if name in repeated]
        self._lengths = {spec.name: np.ones(rows, spec.dtype) for spec in interface.inputs if spec.name in interface.step_lengths}
        self._stream = session.stream(rows)
        kept = {*times, *interface.state, *self._lengths}
        self._stream.hold({name: array for name, array in repeated.items() if name not in kept})
        state = {name: array for name, array in repeated.items() if name in interface.state}
        if state:
            self._stream.state = state

    def next(self, t: int, tokens: Tokens) -> Scores:
        """Logits (rows, V) of token number t from those before it (rows,)."""
        piece = {name: cut(array, at, t, t + 1) for name, array, at in self._sequences}
        piece |= self._lengths
        piece[self._tokens.name] = tokens.astype(self._tokens.dtype).reshape(self._shape)
        logits = self._stream.step(piece, copy=False)[self._scores]
        return np.asarray(logits.reshape(len(tokens), -1), np.float32)

    def select(self, rows: Tokens) -> None:
        """Go on with other rows: number i becomes a copy of what number rows[i] was."""
        self._stream.select(rows)


def _require_named(interface: Interface, generation: Generation, inputs: Mapping[str, Array]) -> None:
    known = {spec.name for spec in interface.inputs} - {generation.tokens}
    optional = {*interface.state, *interface.step_lengths}
    missing = sorted(known - optional - set(inputs))
    unknown = sorted(set(inputs) - known)
    partial = sorted(set(interface.state) - set(inputs)) if set(interface.state) & set(inputs) else []
    if missing or unknown or partial:
        raise InputError(
            f"inputs given: {sorted(inputs)}; a step of the model takes {sorted(known)}, of which state may be left out, all of it"
            + (f"; missing: {missing + partial}" if missing or partial else "")
            + (f"; unknown: {unknown}" if unknown else "")
        )


def batch_of(interface: Interface, inputs: Mapping[str, Array]) -> int:
    """The batch of some inputs of a model; 1 where none of them has one."""
    for spec in interface.inputs:
        if spec.name in inputs and BATCH in spec.shape and np.ndim(inputs[spec.name]) == len(spec.shape):
            return int(inputs[spec.name].shape[spec.shape.index(BATCH)])
    return 1


def _steps_of(interface: Interface, generation: Generation, inputs: Mapping[str, Array]) -> int | None:
    """Steps of the sequence that a token is written for each step of; None where there is none."""
    for spec in interface.data_inputs:
        at = interface.time_position(spec)
        if spec.name in inputs and spec.name != generation.tokens and at is not None:
            return int(inputs[spec.name].shape[at])
    return None


def _repeated(spec: TensorSpec, array: Array, width: int) -> Array:
    if width == 1 or BATCH not in spec.shape:
        return array
    return np.repeat(array, width, axis=spec.shape.index(BATCH))
