"""Every reference case computed whole, piece by piece through a stream, and as a graph in float64: a row an output of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np

from edgeseq_runtime.bundle import EXACT_GATE, AnyGate, CaseArrays
from edgeseq_runtime.chunks import run_in_chunks
from edgeseq_runtime.errors import EdgeseqError, StreamError
from edgeseq_runtime.graph_checks import DRAWS, Evaluate
from edgeseq_runtime.interface import TIME, Interface
from edgeseq_runtime.parity.report import EXACT, ParityRow
from edgeseq_runtime.parity.verdicts import Piece, Pieces, failed_row, judged_row
from edgeseq_runtime.sequences import Sequence, runs_past_lengths, sequences_of
from edgeseq_runtime.session import Session
from edgeseq_runtime.stream import Stream
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

CHUNKS = (1, 2, 3, 5, 8)  # lengths, in the model's chunks, that sequences are cut into; the order is random and the same each time

Progress = Callable[[int, int], None]  # (draws done, draws in all)
Observer = Callable[[TensorSpec, str, CaseArrays, list[Piece]], None]  # (output, mode, case, everything computed for it)


class Audience:
    """Who is told what has been computed: how many draws, over all cases and modes, and what they gave."""

    def __init__(self, cases: tuple[CaseArrays, ...], session: Session, progress: Progress, observe: Observer) -> None:
        self.observe = observe
        self._progress = progress
        self._total = sum(case.case.draws for case in cases) * (2 if session.state else 1)
        self._done = 0

    def count(self) -> None:
        """One more draw is done."""
        self._done += 1
        self._progress(self._done, self._total)


def runtime_rows(session: Session, cases: tuple[CaseArrays, ...], gate: AnyGate, audience: Audience) -> Iterator[ParityRow]:
    """Every case whole, and where there is state as a stream, too."""
    for case in cases:
        yield from _timed(_whole_rows(session, case, gate, audience))
        if session.state:
            yield from _timed(_stream_rows(session, case, gate, audience))


def _timed(rows: Iterator[ParityRow]) -> Iterator[ParityRow]:
    """The rows of one case and mode, each with its share of what they took."""
    start = time.perf_counter()
    made = list(rows)
    seconds = (time.perf_counter() - start) / max(len(made), 1)
    return (msgspec.structs.replace(row, seconds=seconds) for row in made)


def _whole_rows(session: Session, case: CaseArrays, gate: AnyGate, audience: Audience) -> Iterator[ParityRow]:
    pieces: Pieces = {spec.name: [] for spec in session.outputs}
    try:
        for draw in range(case.case.draws):
            outputs = session.run(case.draw_inputs(draw))
            for name, got in outputs.items():
                pieces[name].append(Piece(got, case.float32[name][draw], case.float64[name][draw]))
            audience.count()
    except EdgeseqError as error:
        for spec in session.outputs:
            yield failed_row(spec, "whole", case, str(error))
        return
    for spec in session.outputs:
        audience.observe(spec, "whole", case, pieces[spec.name])
        yield judged_row(session.interface, spec, "whole", case, pieces[spec.name], gate)


def _stream_rows(session: Session, case: CaseArrays, gate: AnyGate, audience: Audience) -> Iterator[ParityRow]:
    """Rows for the outputs that can be put together from chunks: those with the time axis, and the state."""
    interface = session.interface
    specs = [spec for spec in interface.outputs if _streams(interface, spec)]
    if len(interface.time_axes) > 1 and interface.time_axis != TIME:
        reason = f"several time axes, {', '.join(interface.time_axes)}, and none of them is {TIME}: no one way to cut them"
        yield from (failed_row(spec, "stream", case, reason, verdict="skip") for spec in specs)
        return
    steps = case.case.sizes.get(interface.time_axis, interface.chunk)
    if interface.chunk > 1 and (interface.step_lengths or steps % interface.chunk):
        reason = f"the model streams in multiples of {interface.chunk} steps, and these sequences are none"
        yield from (failed_row(spec, "stream", case, reason, verdict="skip") for spec in specs)
        return
    pieces: Pieces = {spec.name: [] for spec in specs}
    try:
        for draw in range(case.case.draws):
            for sequence in sequences_of(interface, case, draw):
                for name, piece in _streamed(session, sequence).items():
                    pieces[name].append(piece)
            audience.count()
    except EdgeseqError as error:
        verdict = "skip" if isinstance(error, StreamError) else "fail"
        yield from (failed_row(spec, "stream", case, str(error), verdict) for spec in specs)
        return
    for spec in specs:
        audience.observe(spec, "stream", case, pieces[spec.name])
        row = judged_row(interface, spec, "stream", case, pieces[spec.name], gate)
        state = spec.name in interface.state.values()
        if row.verdict == "fail" and state and interface.step_lengths and runs_past_lengths(session, case, spec.name):
            reason = "the state that the model returns is that of the padded end, not at the length: a stream can't have it"
            row = failed_row(spec, "stream", case, reason, verdict="skip")
        yield row


def _streams(interface: Interface, spec: TensorSpec) -> bool:
    return spec.name in interface.state.values() or interface.time_position(spec) is not None


def _streamed(session: Session, sequence: Sequence) -> dict[str, Piece]:
    interface = session.interface
    state = {name: sequence.inputs[name] for name in interface.state}
    data = {name: array for name, array in sequence.inputs.items() if name not in {*state, *interface.step_lengths}}
    stream = _stream_for(session, state)
    stream.state = state
    outputs = run_in_chunks(stream, interface, data, _chunk_lengths(sequence.seed, interface.chunk))
    return {
        spec.name: Piece(outputs[spec.name], sequence.torch32[spec.name], sequence.float64[spec.name])
        for spec in interface.outputs
        if _streams(interface, spec)
    }


def _stream_for(session: Session, state: Mapping[str, Array]) -> Stream:
    for spec in session.interface.state_inputs:
        for size, found in zip(spec.shape, state[spec.name].shape, strict=True):
            if isinstance(size, str):
                return session.stream(batch=found)
    return session.stream()


def _chunk_lengths(seed: int, unit: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    yield unit
    while True:
        yield unit * int(rng.choice(CHUNKS))


def exact_rows(evaluate: Evaluate, interface: Interface, cases: tuple[CaseArrays, ...], draws: int = DRAWS) -> Iterator[ParityRow]:
    """The graph in float64 against the module in float64. A stream's chunks are short sequences from other states: no new rows."""
    for case in cases:
        yield from _timed(_exact_rows(evaluate, interface, case, min(draws, case.case.draws)))


def _exact_rows(evaluate: Evaluate, interface: Interface, case: CaseArrays, draws: int) -> Iterator[ParityRow]:
    try:
        found = [evaluate(case.draw_inputs(draw)) for draw in range(draws)]
    except EdgeseqError as error:
        yield from (failed_row(spec, EXACT, case, str(error)) for spec in interface.outputs)
        return
    for spec in interface.outputs:
        truths = zip(found, case.float32[spec.name], case.float64[spec.name], strict=False)
        pieces = [Piece(outputs[spec.name], torch32, float64) for outputs, torch32, float64 in truths]
        yield judged_row(interface, spec, EXACT, case, pieces, EXACT_GATE)
