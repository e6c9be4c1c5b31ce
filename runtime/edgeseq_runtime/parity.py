"""Does a model compute, on this device, what PyTorch computes? Answered from the bundle alone.

Every reference case is run whole; where there is state, also piece by piece through a stream. Shapes, dtypes and not-a-number
come first; then the distance from PyTorch's float64 result, pooled over the draws of a case (`edgeseq_runtime.tensors.distance`),
in units of PyTorch's own rounding error or, below float32, of the output's rms: as the bundle's gate for the precision says. Where
it is asked for, the graph is evaluated in float64 besides, without any runtime (`edgeseq_runtime.graph_checks`). A
metric of the user's own may be asked for besides (`edgeseq_runtime.metric`).
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgeseq_runtime.bundle import EXACT_GATE, AnyGate, Bundle, CaseArrays, Gate, judge, open_bundle
from edgeseq_runtime.chunks import cut, run_in_chunks
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import EdgeseqError, StreamError, UsageError
from edgeseq_runtime.graph_checks import DRAWS, Evaluate, graph_in_float64
from edgeseq_runtime.interface import TIME, Interface, interface_of
from edgeseq_runtime.metric import MAX_LOSS, Metric, MetricRow, measure_metric
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.sequences import Sequence, runs_past_lengths, sequences_of
from edgeseq_runtime.session import Session, open_session
from edgeseq_runtime.stream import Stream
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

CHUNKS = (1, 2, 3, 5, 8)  # lengths, in the model's chunks, that sequences are cut into; the order is random and the same each time

FIGURES = ("k", "k999", "max_abs", "relative", "relative999")  # of a row; what a gate does not bound is told all the same

EXACT = "exact"  # the mode of the rows of a graph in float64

Progress = Callable[[int, int], None]  # (draws done, draws in all)


class ParityRow(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one output at one reference case."""

    output: str
    mode: str  # "whole": one call; "stream": piece by piece; "exact": whole, the graph in float64 without a runtime
    sizes: dict[str, int]
    shape: tuple[int, ...]  # of one draw
    verdict: str  # "pass", "fail", or "skip" where nothing can be gated
    reason: str = ""
    k: float = math.inf
    k999: float = math.inf
    max_abs: float = math.inf
    relative: float = math.inf
    relative999: float = math.inf
    discrete: bool = False  # integers or booleans, whose `max_abs`, `relative` and `relative999` are the share of unequal elements
    seconds: float = 0.0  # to compute and judge it; what several outputs took together is shared out evenly


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every row, and what was measured where."""

    path: str
    name: str
    sha256: str
    device: str
    precision: str
    providers: tuple[str, ...]
    threads: int
    gate: AnyGate
    exact_gate: Gate | None = None  # of rows of mode "exact"; None where there are none
    versions: dict[str, str]
    provenance: dict[str, str]
    rows: tuple[ParityRow, ...]
    metric: MetricRow | None = None  # None where the user gave no metric

    def count(self, verdict: str) -> int:
        """Rows with this verdict, the metric among them."""
        verdicts = [row.verdict for row in self.rows] + ([self.metric.verdict] if self.metric else [])
        return verdicts.count(verdict)

    def worst(self, figure: str) -> float:
        """The largest `k`, `relative` or the like of the rows that were gated; infinite where one has none, NaN where none was."""
        return max((getattr(row, figure) for row in self.rows if row.verdict != "skip"), default=math.nan)

    @property
    def passed(self) -> bool:
        """Whether something was gated, and nothing failed."""
        return self.count("pass") > 0 and not self.count("fail")

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; an infinite or undefined ratio is null."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        for row in report["rows"]:
            row.update({key: None for key in FIGURES if not math.isfinite(row[key])})
        if self.metric:
            measured, loss = ((value if math.isfinite(value) else None) for value in (self.metric.measured, self.metric.loss))
            report["metric"] |= {"measured": measured, "loss": loss}
        return {**report, "passed": self.passed}


class Piece(NamedTuple):
    """What was computed for one draw, or for one sequence of it, beside what PyTorch computed."""

    got: Array
    torch32: Array
    float64: Array


Pieces = dict[str, list[Piece]]  # by output
Observer = Callable[[TensorSpec, str, CaseArrays, list[Piece]], None]  # (output, mode, case, everything computed for it)


def measure_parity(
    path: str | PathLike[str],
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    session: Session | None = None,
    at: Mapping[str, int] | None = None,
    metric: Metric | None = None,
    max_loss: float = MAX_LOSS,
    exact: bool = False,
    progress: Progress = lambda done, total: None,
    observe: Observer = lambda spec, mode, case, pieces: None,
) -> ParityReport:
    """Compare every output with the bundle's reference at every case.

    Args:
        path: a `.edgeseq` bundle; a plain `.onnx` holds no reference.
        device: a profile or its name.
        precision: one that the bundle holds; it has gates of its own.
        threads: how many share one operator.
        session: measure this one instead of opening the bundle with the three options above.
        at: the sizes of the one reference case to compare; every case unless said.
        metric: takes a session and returns a number, higher is better, on data of the user's own; it is taken of the fp32 model on
            the local CPU, too.
        max_loss: how much lower it may be than the fp32 model's.
        exact: evaluate the graph in float64, too, which tells a graph that is a little off from kernels that round; fp32 alone.
        progress: told after each draw.
        observe: shown the arrays behind each row that could be computed; they are let go after that.

    Raises:
        UsageError: no such file, precision or sizes, no reference values, a model that the backend can't load, a metric that
            can't be taken of the fp32 model, or `exact` without the exporter or below fp32.
        EdgeseqError: the graph has an operator that is not evaluated in float64.
        BundleError: the bundle can't be trusted or read.
        ProviderError: the device's backend or provider is not there.
    """
    if Path(path).suffix == ".onnx":
        raise UsageError(f"{path} is a plain ONNX model and holds no reference values; export it to a bundle to prove it")
    bundle = open_bundle(path)
    if session is None:
        session = open_session(bundle, make_plan(bundle, device, precision=precision, threads=threads))
    cases = _cases(bundle, at)
    evaluate = _evaluator(bundle, session.plan.precision) if exact else None
    gate = bundle.manifest.gate(session.plan.precision)
    # The user's code first: where it is wrong, that is told at once.
    taken = None if metric is None else measure_metric(bundle, session, metric, max_loss)
    rows = tuple(_rows(session, cases, gate, _Audience(cases, session, progress, observe)))
    if evaluate is not None:
        rows = (*rows, *exact_rows(evaluate, session.interface, cases))
    return _report(bundle, session, gate, rows, taken)


def _cases(bundle: Bundle, at: Mapping[str, int] | None) -> tuple[CaseArrays, ...]:
    cases = bundle.reference()
    chosen = tuple(case for case in cases if at is None or case.case.sizes == at)
    if not chosen:
        found = (
            f" at {at}; it has: {[case.case.sizes for case in cases]}" if cases else ", so nothing can be proved; export it again"
        )
        raise UsageError(f"{bundle.path} holds no reference values{found}")
    return chosen


class _Audience:
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


def _report(bundle: Bundle, session: Session, gate: AnyGate, rows: tuple[ParityRow, ...], metric: MetricRow | None) -> ParityReport:
    return ParityReport(
        path=str(bundle.path),
        name=bundle.name,
        sha256=bundle.sha256,
        device=session.plan.device,
        precision=session.plan.precision,
        providers=session.providers,
        threads=session.plan.threads,
        gate=gate,
        exact_gate=EXACT_GATE if any(row.mode == EXACT for row in rows) else None,
        versions=installed_versions(session),
        provenance=bundle.manifest.provenance,
        rows=rows,
        metric=metric,
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


def _rows(session: Session, cases: tuple[CaseArrays, ...], gate: AnyGate, audience: _Audience) -> Iterator[ParityRow]:
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


def _whole_rows(session: Session, case: CaseArrays, gate: AnyGate, audience: _Audience) -> Iterator[ParityRow]:
    pieces: Pieces = {spec.name: [] for spec in session.outputs}
    try:
        for draw in range(case.case.draws):
            outputs = session.run(case.draw_inputs(draw))
            for name, got in outputs.items():
                pieces[name].append(Piece(got, case.float32[name][draw], case.float64[name][draw]))
            audience.count()
    except EdgeseqError as error:
        for spec in session.outputs:
            yield _failed(spec, "whole", case, str(error))
        return
    for spec in session.outputs:
        audience.observe(spec, "whole", case, pieces[spec.name])
        yield _row(session.interface, spec, "whole", case, pieces[spec.name], gate)


def _evaluator(bundle: Bundle, precision: str) -> Evaluate:
    if precision != "fp32":
        raise UsageError(f"an exact comparison is of the fp32 graph, and {precision} was asked for: its weights are rounded")
    return graph_in_float64(bundle.model(), [spec.name for spec in bundle.outputs])


def measure_graph(path: str | PathLike[str], *, model: bytes | None = None, draws: int = DRAWS) -> tuple[ParityRow, ...]:
    """The rows of mode "exact" alone: no runtime takes part.

    Args:
        path: a `.edgeseq` bundle.
        model: the serialised graph to hold against its reference; its own unless given.
        draws: how many of each reference case.

    Raises:
        UsageError: no such file, no reference values, or the exporter is not installed.
        BundleError: the bundle can't be trusted or read.
        EdgeseqError: the graph has an operator that is not evaluated in float64.
    """
    bundle = open_bundle(path)
    evaluate = graph_in_float64(bundle.model() if model is None else model, [spec.name for spec in bundle.outputs])
    return tuple(exact_rows(evaluate, interface_of(bundle.manifest), _cases(bundle, None), draws))


def exact_rows(evaluate: Evaluate, interface: Interface, cases: tuple[CaseArrays, ...], draws: int = DRAWS) -> Iterator[ParityRow]:
    """The graph in float64 against the module in float64. A stream's chunks are short sequences from other states: no new rows."""
    for case in cases:
        yield from _timed(_exact_rows(evaluate, interface, case, min(draws, case.case.draws)))


def _exact_rows(evaluate: Evaluate, interface: Interface, case: CaseArrays, draws: int) -> Iterator[ParityRow]:
    try:
        found = [evaluate(case.draw_inputs(draw)) for draw in range(draws)]
    except EdgeseqError as error:
        yield from (_failed(spec, EXACT, case, str(error)) for spec in interface.outputs)
        return
    for spec in interface.outputs:
        truths = zip(found, case.float32[spec.name], case.float64[spec.name], strict=False)
        pieces = [Piece(outputs[spec.name], torch32, float64) for outputs, torch32, float64 in truths]
        yield _row(interface, spec, EXACT, case, pieces, EXACT_GATE)


def _stream_rows(session: Session, case: CaseArrays, gate: AnyGate, audience: _Audience) -> Iterator[ParityRow]:
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
            for sequence in sequences_of(interface, case, draw):
                for name, piece in _streamed(session, sequence).items():
                    pieces[name].append(piece)
            audience.count()
    except EdgeseqError as error:
        verdict = "skip" if isinstance(error, StreamError) else "fail"
        yield from (_failed(spec, "stream", case, str(error), verdict) for spec in specs)
        return
    for spec in specs:
        audience.observe(spec, "stream", case, pieces[spec.name])
        row = _row(interface, spec, "stream", case, pieces[spec.name], gate)
        state = spec.name in interface.state.values()
        if row.verdict == "fail" and state and interface.step_lengths and runs_past_lengths(session, case, spec.name):
            reason = "the state that the model returns is that of the padded end, not at the length: a stream can't have it"
            row = _failed(spec, "stream", case, reason, verdict="skip")
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


def _row(interface: Interface, spec: TensorSpec, mode: str, case: CaseArrays, pieces: list[Piece], gate: AnyGate) -> ParityRow:
    """The verdict on everything computed for one output at one case."""
    exact = mode == EXACT
    problem = next((text for piece in pieces if (text := _misfit(str(piece.float64.dtype) if exact else spec.dtype, piece))), "")
    if problem:
        return _failed(spec, mode, case, problem)
    horizon = case.case.horizon.get(spec.name)
    at = interface.steps_position(spec)
    if horizon is not None and at is None and horizon < case.case.sizes.get(interface.time_axis, 0):
        return _failed(spec, mode, case, f"chaotic after {horizon} steps, and has no time axis to cut", verdict="skip")
    scope = ""
    if horizon is not None and at is not None:
        pieces = within_horizon(pieces, at, horizon)
        scope = f"first {horizon} steps; the rest is chaotic"
    got, torch32, float64 = (np.concatenate([array.reshape(-1) for array in arrays]) for arrays in zip(*pieces, strict=True))
    verdict = judge(got, torch32, float64, gate, exact=exact)
    return ParityRow(
        output=spec.name,
        mode=mode,
        sizes=case.case.sizes,
        shape=tuple(case.float64[spec.name].shape[1:]),
        verdict="pass" if verdict.passed else "fail",
        reason="; ".join(part for part in (verdict.reason, scope) if part),
        **(verdict.distance._asdict() if verdict.distance else {}),
    )


def within_horizon(pieces: list[Piece], time_axis: int, horizon: int) -> list[Piece]:
    """What is gated of each: the leading steps, before the recurrence is chaotic."""
    return [Piece(*(cut(array, time_axis, 0, horizon) for array in piece)) for piece in pieces]


def _misfit(dtype: str, piece: Piece) -> str:
    """What is wrong with an output before any number is compared; empty if nothing."""
    if piece.got.shape != piece.float64.shape:
        return f"shape {piece.got.shape}, PyTorch's is {piece.float64.shape}"
    return "" if piece.got.dtype == dtype else f"dtype {piece.got.dtype}, declared {dtype}"


def _failed(spec: TensorSpec, mode: str, case: CaseArrays, reason: str, verdict: str = "fail") -> ParityRow:
    return ParityRow(
        output=spec.name,
        mode=mode,
        sizes=case.case.sizes,
        shape=tuple(case.float64[spec.name].shape[1:]),
        verdict=verdict,
        reason=reason,
    )
