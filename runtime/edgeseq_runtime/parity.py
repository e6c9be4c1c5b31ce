"""Does a model compute, on this device, what PyTorch computes? Answered from the bundle alone.

Every reference case is run whole; where there is state, also piece by piece through a stream. Shapes, dtypes and not-a-number
come first; then the distance from PyTorch's float64 result in units of PyTorch's own rounding error, pooled over the draws
of a case (`edgeseq_runtime.tensors.distance`), against the bundle's gate for the precision.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgeseq_runtime.bundle import Bundle, CaseArrays, Gate, judge, open_bundle
from edgeseq_runtime.chunks import cut, run_in_chunks
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import EdgeseqError, StreamError, UsageError
from edgeseq_runtime.interface import BATCH, TIME, Interface
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import Session, open_session
from edgeseq_runtime.stream import Stream
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

CHUNKS = (1, 2, 3, 5, 8)  # lengths, in the model's chunks, that sequences are cut into; the order is random and the same each time

Progress = Callable[[int, int], None]  # (draws done, draws in all)


class ParityRow(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one output at one reference case."""

    output: str
    mode: str  # "whole": one call; "stream": piece by piece
    sizes: dict[str, int]
    shape: tuple[int, ...]  # of one draw
    verdict: str  # "pass", "fail", or "skip" where nothing can be gated
    reason: str = ""
    k: float = math.inf
    k999: float = math.inf
    max_abs: float = math.inf


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every row, and what was measured where."""

    path: str
    name: str
    sha256: str
    device: str
    precision: str
    providers: tuple[str, ...]
    threads: int
    gate: Gate
    versions: dict[str, str]
    provenance: dict[str, str]
    rows: tuple[ParityRow, ...]

    @property
    def passed(self) -> bool:
        """Whether something was gated, and nothing failed."""
        verdicts = {row.verdict for row in self.rows}
        return "pass" in verdicts and "fail" not in verdicts

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; an infinite or undefined ratio is null."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        for row in report["rows"]:
            row.update({key: None for key in ("k", "k999", "max_abs") if not math.isfinite(row[key])})
        return {**report, "passed": self.passed}


class Piece(NamedTuple):
    """What was computed for one draw, or for one sequence of it, beside what PyTorch computed."""

    got: Array
    torch32: Array
    float64: Array


Pieces = dict[str, list[Piece]]  # by output


def measure_parity(
    path: str | PathLike[str],
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    session: Session | None = None,
    progress: Progress = lambda done, total: None,
) -> ParityReport:
    """Compare every output with the bundle's reference at every case.

    Args:
        path: a `.edgeseq` bundle; a plain `.onnx` holds no reference.
        device: a profile or its name.
        precision: one that the bundle holds; it has gates of its own.
        threads: how many share one operator.
        session: measure this one instead of opening the bundle with the three options above.
        progress: told after each draw.

    Raises:
        UsageError: no such file or precision, no reference values, or a model that the backend can't load.
        BundleError: the bundle can't be trusted or read.
        ProviderError: the device's backend or provider is not there.
    """
    if Path(path).suffix == ".onnx":
        raise UsageError(f"{path} is a plain ONNX model and holds no reference values; export it to a bundle to prove it")
    bundle = open_bundle(path)
    if session is None:
        session = open_session(bundle, make_plan(bundle, device, precision=precision, threads=threads))
    cases = bundle.reference()
    if not cases:
        raise UsageError(f"{path} holds no reference values, so nothing can be proved; export it again")
    gate = bundle.manifest.tolerances[session.plan.precision]
    return _report(bundle, session, gate, tuple(_rows(session, cases, gate, _Counter(cases, session, progress))))


class _Counter:
    """Counts draws, over all cases and modes."""

    def __init__(self, cases: tuple[CaseArrays, ...], session: Session, progress: Progress) -> None:
        self._progress = progress
        self._total = sum(case.case.draws for case in cases) * (2 if session.state else 1)
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _report(bundle: Bundle, session: Session, gate: Gate, rows: tuple[ParityRow, ...]) -> ParityReport:
    return ParityReport(
        path=str(bundle.path),
        name=bundle.name,
        sha256=bundle.sha256,
        device=session.plan.device,
        precision=session.plan.precision,
        providers=session.providers,
        threads=session.plan.threads,
        gate=gate,
        versions=installed_versions(session),
        provenance=bundle.manifest.provenance,
        rows=rows,
    )


def installed_versions(session: Session) -> dict[str, str]:
    """What a measurement was made with."""
    return {
        "edgeseq": version("edgeseq"),
        session.plan.backend: session.backend_version,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _rows(session: Session, cases: tuple[CaseArrays, ...], gate: Gate, count: Callable[[], None]) -> Iterator[ParityRow]:
    for case in cases:
        yield from _whole_rows(session, case, gate, count)
        if session.state:
            yield from _stream_rows(session, case, gate, count)


def _whole_rows(session: Session, case: CaseArrays, gate: Gate, count: Callable[[], None]) -> Iterator[ParityRow]:
    pieces: Pieces = {spec.name: [] for spec in session.outputs}
    try:
        for draw in range(case.case.draws):
            outputs = session.run(case.draw_inputs(draw))
            for name, got in outputs.items():
                pieces[name].append(Piece(got, case.float32[name][draw], case.float64[name][draw]))
            count()
    except EdgeseqError as error:
        for spec in session.outputs:
            yield _failed(spec, "whole", case, str(error))
        return
    for spec in session.outputs:
        yield _row(session.interface, spec, "whole", case, pieces[spec.name], gate)


def _stream_rows(session: Session, case: CaseArrays, gate: Gate, count: Callable[[], None]) -> Iterator[ParityRow]:
    """Rows for the outputs that can be put together from chunks: those with the time axis, and the state."""
    interface = session.interface
    specs = [spec for spec in interface.outputs if _streams(interface, spec)]
    if len(interface.time_axes) > 1 and interface.time_axis != TIME:
        reason = f"several time axes, {', '.join(interface.time_axes)}, and none of them is {TIME}: no one way to cut them"
        yield from (_failed(spec, "stream", case, reason, verdict="skip") for spec in specs)
        return
    steps = case.case.sizes.get(interface.time_axis, interface.chunk)
    if interface.chunk > 1 and (interface.step_lengths or steps % interface.chunk):
        reason = f"the model streams in multiples of {interface.chunk} steps, and these sequences are none"
        yield from (_failed(spec, "stream", case, reason, verdict="skip") for spec in specs)
        return
    pieces: Pieces = {spec.name: [] for spec in specs}
    try:
        for draw in range(case.case.draws):
            for sequence in _sequences(interface, case, draw):
                for name, piece in _streamed(session, sequence).items():
                    pieces[name].append(piece)
            count()
    except StreamError as error:
        for spec in specs:
            yield _failed(spec, "stream", case, str(error), verdict="skip")
        return
    except EdgeseqError as error:
        for spec in specs:
            yield _failed(spec, "stream", case, str(error))
        return
    for spec in specs:
        yield _row(interface, spec, "stream", case, pieces[spec.name], gate)


def _streams(interface: Interface, spec: TensorSpec) -> bool:
    return spec.name in interface.state.values() or interface.time_position(spec) is not None


class _Sequence(NamedTuple):
    """Inputs of one size and length, and what PyTorch computed for them."""

    inputs: dict[str, Array]
    torch32: dict[str, Array]
    float64: dict[str, Array]
    seed: int


def _sequences(interface: Interface, case: CaseArrays, draw: int) -> Iterator[_Sequence]:
    """One draw as it is, or, where its sequences have lengths of their own, one by one and cut to them."""
    inputs = case.draw_inputs(draw)
    torch32, float64 = ({name: array[draw] for name, array in kind.items()} for kind in (case.float32, case.float64))
    if not interface.step_lengths:
        yield _Sequence(inputs, torch32, float64, draw)
        return
    lengths = inputs[next(iter(interface.step_lengths))]
    for b, steps in enumerate(lengths.tolist()):
        yield _Sequence(
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


def _streamed(session: Session, sequence: _Sequence) -> dict[str, Piece]:
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


def _row(interface: Interface, spec: TensorSpec, mode: str, case: CaseArrays, pieces: list[Piece], gate: Gate) -> ParityRow:
    """The verdict on everything computed for one output at one case."""
    problem = next((text for piece in pieces if (text := _misfit(spec, piece))), "")
    if problem:
        return _failed(spec, mode, case, problem)
    horizon = case.case.horizon.get(spec.name)
    at = interface.steps_position(spec)
    if horizon is not None and at is None and horizon < case.case.sizes.get(interface.time_axis, 0):
        return _failed(spec, mode, case, f"chaotic after {horizon} steps, and has no time axis to cut", verdict="skip")
    scope = ""
    if horizon is not None and at is not None:
        pieces = [Piece(*(cut(array, at, 0, horizon) for array in piece)) for piece in pieces]
        scope = f"first {horizon} steps; the rest is chaotic"
    got, torch32, float64 = (_pooled(arrays) for arrays in zip(*pieces, strict=True))
    verdict = judge(got, torch32, float64, gate)
    return ParityRow(
        output=spec.name,
        mode=mode,
        sizes=case.case.sizes,
        shape=tuple(case.float64[spec.name].shape[1:]),
        verdict="pass" if verdict.passed else "fail",
        reason="; ".join(part for part in (verdict.reason, scope) if part),
        **(verdict.distance._asdict() if verdict.distance else {}),
    )


def _misfit(spec: TensorSpec, piece: Piece) -> str:
    """What is wrong with an output before any number is compared; empty if nothing."""
    if piece.got.shape != piece.float64.shape:
        return f"shape {piece.got.shape}, PyTorch's is {piece.float64.shape}"
    return "" if piece.got.dtype == spec.dtype else f"dtype {piece.got.dtype}, declared {spec.dtype}"


def _pooled(arrays: tuple[Array, ...]) -> Array:
    return np.concatenate([array.reshape(-1) for array in arrays])


def _failed(spec: TensorSpec, mode: str, case: CaseArrays, reason: str, verdict: str = "fail") -> ParityRow:
    return ParityRow(
        output=spec.name,
        mode=mode,
        sizes=case.case.sizes,
        shape=tuple(case.float64[spec.name].shape[1:]),
        verdict=verdict,
        reason=reason,
    )
