"""The draws of a reference case as sequences that can be streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bundle import CaseArrays
from edgeseq_runtime.chunks import cut
from edgeseq_runtime.interface import BATCH, Interface
from edgeseq_runtime.session import Session
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

PAST = 1e-3  # share of a state's largest value; further apart are two states, not one and its rounding


class Sequence(NamedTuple):
    """Inputs of one size and length, and what PyTorch computed for them."""

    inputs: dict[str, Array]
    torch32: dict[str, Array]
    float64: dict[str, Array]
    seed: int


def sequences_of(interface: Interface, case: CaseArrays, draw: int) -> Iterator[Sequence]:
    """One draw as it is, or, where its sequences have lengths of their own, one by one and cut to them."""
    inputs = case.draw_inputs(draw)
    torch32, float64 = ({name: array[draw] for name, array in kind.items()} for kind in (case.float32, case.float64))
    if not interface.step_lengths:
        yield Sequence(inputs, torch32, float64, draw)
        return
    lengths = inputs[next(iter(interface.step_lengths))]
    for b, steps in enumerate(lengths.tolist()):
        yield Sequence(
            {spec.name: _one_of(interface, spec, inputs[spec.name], b, steps) for spec in interface.inputs},
            {spec.name: _one_of(interface, spec, torch32[spec.name], b, steps) for spec in interface.outputs},
            {spec.name: _one_of(interface, spec, float64[spec.name], b, steps) for spec in interface.outputs},
            draw,
        )


def _one_of(interface: Interface, spec: TensorSpec, array: Array, b: int, steps: int) -> Array:
    if BATCH in spec.shape:
        array = cut(array, spec.shape.index(BATCH), b, b + 1)
    at = interface.time_position(spec)
    return array if at is None else cut(array, at, 0, steps)


def runs_past_lengths(session: Session, case: CaseArrays, output: str) -> bool:
    """Whether the model goes on past a sequence's length, so that the state it returns is that of the padded end.

    Then a stream of the sequence alone ends elsewhere, rightly: lengths that only mask outputs say nothing of the state. Found by
    running sequences whole: as they are in the batch, and cut to their lengths.
    """
    interface = session.interface
    spec = next(spec for spec in interface.outputs if spec.name == output)
    for draw in range(case.case.draws):
        together = session.run(case.draw_inputs(draw))[output]
        for b, sequence in enumerate(sequences_of(interface, case, draw)):
            alone = session.run(sequence.inputs)[output].astype(np.float64)
            padded = _one_of(interface, spec, together, b, 0).astype(np.float64)
            if not np.allclose(alone, padded, rtol=0, atol=PAST * float(np.abs(padded).max(initial=0.0))):
                return True
    return False
