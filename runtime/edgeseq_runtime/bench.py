"""How long a step and a whole sequence take here, beside whatever else computes the same.

All candidates take turns, round by round, in one run: a core's clock moves by a quarter between runs, and only what was
measured within one can be compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import StreamError, UsageError
from edgeseq_runtime.interface import BATCH, Interface
from edgeseq_runtime.parity import installed_versions
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import Session, load, open_session
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

OURS = "edgeseq"
TUNED = "edgeseq, tuned"
ROUNDS = 20

Arrays = dict[str, Array]
Peer = Callable[[Arrays], Arrays]  # every input by name, state included -> outputs by name
Progress = Callable[[int, int], None]  # (rounds done, rounds in all)
Observer = Callable[[str, str, Sequence[int]], None]  # (mode, who, nanoseconds of every call)
Tuner = Callable[[str, int, int], Session]  # (mode, T, B) -> the session that is fastest at it here


class BenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one candidate in one mode, in microseconds a call."""

    mode: str  # "step": one time step, its state kept; "sequence": whole sequences in one call
    who: str
    T: int
    B: int
    median: float
    p90: float
    p99: float
    calls: int
    ratio: float  # its median over edgeseq's: above 1 is slower than edgeseq


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every row, and what was measured where."""

    path: str
    device: str
    precision: str
    providers: tuple[str, ...]
    threads: int
    versions: dict[str, str]
    rows: tuple[BenchRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        report: dict[str, Any] = msgspec.to_builtins(self)
        return report


class _Mode(NamedTuple):
    name: str
    T: int
    calls: dict[str, Callable[[], object]]  # by candidate


def measure_bench(
    path: str | PathLike[str],
    *,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    steps: int = 100,
    batch: int = 1,
    seconds: float = 1.0,
    peers: Mapping[str, Peer] | None = None,
    tune: bool = False,
    progress: Progress = lambda done, total: None,
    observe: Observer = lambda mode, who, nanoseconds: None,
) -> BenchReport:
    """Time a step (where there is state) and a whole sequence.

    Args:
        path: a `.edgeseq` bundle, whose reference inputs are used; or a plain `.onnx`, given zeros and ones.
        device: a profile or its name.
        precision: one that the bundle holds.
        threads: how many share one operator.
        steps: time steps of the whole sequence.
        batch: sequences at once.
        seconds: to spend on each candidate in each mode, about.
        peers: what else to time on the same inputs, by name. A step gives it the state that it returned last.
        tune: time the plan that is fastest here, too; `edgeseq_runtime.tune_plan` finds it, with `threads` at most.
        progress: told after each round.
        observe: shown the times behind each row.

    Raises:
        UsageError: no such file or precision, less than one step, sequence or microsecond, or nothing that can be tuned.
        BundleError, DeviceError, ProviderError: as `load`.
    """
    if steps < 1 or batch < 1 or seconds < 1e-6:
        raise UsageError(f"steps {steps}, batch {batch}, seconds {seconds}: give 1 or more of each, and some time")
    session, example = _opened(Path(path), device, precision, threads)
    tuner = _tuner(Path(path), session, threads) if tune else None
    modes = _modes(session, example, steps, batch, dict(peers or {}), tuner)
    total = ROUNDS * len(modes)
    rows: list[BenchRow] = []
    for index, mode in enumerate(modes):
        timed = _interleaved(mode.calls, seconds, partial(_report_round, progress, index * ROUNDS, total))
        for who, nanoseconds in timed.items():
            observe(mode.name, who, nanoseconds)
        rows += _bench_rows(mode, batch, timed)
    return BenchReport(
        path=str(path),
        device=session.plan.device,
        precision=session.plan.precision,
        providers=session.providers,
        threads=session.plan.threads,
        versions=installed_versions(session),
        rows=tuple(rows),
    )


def _report_round(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _opened(path: Path, device: Device | str, precision: str, threads: int | None) -> tuple[Session, Arrays]:
    """The session, and one example of each input; of a plain model, without examples."""
    if path.suffix == ".onnx":
        return load(path, device=device, precision=precision, threads=threads), {}
    bundle = open_bundle(path)
    session = open_session(bundle, make_plan(bundle, device, precision=precision, threads=threads))
    cases = bundle.reference()
    return session, cases[0].draw_inputs(0) if cases else {}


def inputs_at(interface: Interface, example: Arrays, T: int, B: int) -> Arrays:
    """Inputs of `T` steps and batch `B`: the example repeated along those axes; zeros, or ones for integers, where there is
    none, with 1 for every other axis. Sequence lengths are full; those of a memory are the example's.
    """
    sizes = {interface.time_axis: T, BATCH: B}
    return {spec.name: _input_at(interface, spec, example.get(spec.name), sizes) for spec in interface.inputs}


def _input_at(interface: Interface, spec: TensorSpec, example: Array | None, sizes: dict[str, int]) -> Array:
    if example is None:
        value = int(np.issubdtype(np.dtype(spec.dtype), np.integer))
        example = np.full([1 if isinstance(size, str) else size for size in spec.shape], value, spec.dtype)
    for axis, size in enumerate(spec.shape):
        if size in sizes:
            example = np.take(example, range(sizes[str(size)]), axis=axis, mode="wrap")
    if spec.name in interface.step_lengths:
        return np.full_like(example, sizes[interface.time_axis])
    return np.asarray(example, order="C")  # ascontiguousarray would give a number a dimension


def _tuner(path: Path, session: Session, threads: int | None) -> Tuner:
    # Tuning times the inputs that this file makes.
    from edgeseq_runtime.tuning import Workload, tune_plan

    if path.suffix == ".onnx":
        raise UsageError(f"{path} is a plain ONNX model: nothing proves a tuned plan; export it to a bundle to tune it")
    bundle = open_bundle(path)

    def tuned(mode: str, T: int, B: int) -> Session:
        workload = Workload("step" if mode == "step" else "sequence", T, B)
        return open_session(bundle, tune_plan(bundle, session.plan, workload=workload, max_threads=threads).plan)

    return tuned


def _modes(
    session: Session, example: Arrays, steps: int, batch: int, peers: dict[str, Peer], tuner: Tuner | None = None
) -> list[_Mode]:
    whole = inputs_at(session.interface, example, steps, batch)
    ours = {OURS: session} | ({TUNED: tuner("sequence", steps, batch)} if tuner else {})
    calls = {who: partial(one.run, whole) for who, one in ours.items()}
    modes = [_Mode("sequence", steps, {**calls, **_each(peers, lambda f: lambda: f(whole))})]
    if session.state:
        step = inputs_at(session.interface, example, 1, batch)
        ours = {OURS: session} | ({TUNED: tuner("step", 1, batch)} if tuner else {})
        steps_of = {who: _our_step(one, step, batch) for who, one in ours.items()}
        modes.insert(0, _Mode("step", 1, {**steps_of, **_each(peers, lambda f: _peer_step(f, step, session.state))}))
    return modes


def _each(peers: dict[str, Peer], call: Callable[[Peer], Callable[[], object]]) -> dict[str, Callable[[], object]]:
    return {name: call(peer) for name, peer in peers.items()}


def _our_step(session: Session, step: Arrays, batch: int) -> Callable[[], object]:
    try:
        stream = session.stream(batch)
    except StreamError:
        return lambda: session.run(step)
    stream.state = {name: step[name] for name in session.state}
    data = {name: array for name, array in step.items() if name not in session.state}
    return lambda: stream.step(data, copy=False)


def _peer_step(peer: Peer, step: Arrays, state: Mapping[str, str]) -> Callable[[], object]:
    inputs = dict(step)

    def call() -> None:
        outputs = peer(inputs)
        for name, output in state.items():
            if output in outputs:
                inputs[name] = outputs[output]

    return call


def _interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, progress: Callable[[int], None]
) -> dict[str, list[int]]:
    """Nanoseconds of every call, all candidates taking turns."""
    counts = {who: _calls_a_round(call, seconds) for who, call in calls.items()}
    times: dict[str, list[int]] = {who: [] for who in calls}
    for done in range(1, ROUNDS + 1):
        for who, call in calls.items():
            times[who] += _time(call, counts[who])
        progress(done)
    return times


def _calls_a_round(call: Callable[[], object], seconds: float) -> int:
    """How many calls fill a candidate's share of a round; warms it up on the way."""
    warm = min(_time(call, 5))
    return max(2, int(seconds * 1e9 / ROUNDS / max(warm, 1)))


def _time(call: Callable[[], object], count: int) -> list[int]:
    clock = time.perf_counter_ns
    times = []
    for _ in itertools.repeat(None, count):
        start = clock()
        call()
        times.append(clock() - start)
    return times


def _bench_rows(mode: _Mode, batch: int, times: Mapping[str, Sequence[int]]) -> list[BenchRow]:
    ours = float(np.median(times[OURS]))
    rows = []
    for who, nanoseconds in times.items():
        median, p90, p99 = (float(value) for value in np.percentile(nanoseconds, (50, 90, 99)))
        rows.append(
            BenchRow(
                mode=mode.name,
                who=who,
                T=mode.T,
                B=batch,
                median=median / 1e3,
                p90=p90 / 1e3,
                p99=p99 / 1e3,
                calls=len(nanoseconds),
                ratio=median / ours,
            )
        )
    return rows
