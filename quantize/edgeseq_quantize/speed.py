"""Times of several sessions of one model, which take turns: a core's clock moves by a quarter between runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.errors import StreamError
from edgeseq_runtime.session import Session
from edgeseq_runtime.tensors.spec import Array

ROUNDS = 20
WARM = 5  # calls

Call = Callable[[], object]


class Times(NamedTuple):
    """Of one session: its median time of a call in microseconds, and how many times as fast as the first session it is."""

    median: float
    gain: float  # the median over rounds of the ratio within a round


def step_times(sessions: Mapping[str, Session], example: Mapping[str, Array], seconds: float) -> dict[str, Times]:
    """Of the least piece that can be streamed; empty where nothing streams."""
    calls = {}
    for name, session in sessions.items():
        try:
            calls[name] = _step(session, example)
        except StreamError:
            return {}
    return _interleaved(calls, seconds)


def sequence_times(sessions: Mapping[str, Session], example: Mapping[str, Array], steps: int, seconds: float) -> dict[str, Times]:
    """Of a whole sequence of so many steps."""
    return _interleaved({name: _sequence(session, example, steps) for name, session in sessions.items()}, seconds)


def _step(session: Session, example: Mapping[str, Array]) -> Call:
    stream = session.stream()
    inputs = inputs_at(session.interface, dict(example), session.interface.chunk, 1)
    data = {name: array for name, array in inputs.items() if name not in session.state}
    return lambda: stream.step(data, copy=False)


def _sequence(session: Session, example: Mapping[str, Array], steps: int) -> Call:
    inputs = inputs_at(session.interface, dict(example), max(steps, session.interface.chunk), 1)
    return lambda: session.run(inputs)


def _interleaved(calls: Mapping[str, Call], seconds: float) -> dict[str, Times]:
    """Each session's share of every round is as long; the order turns from round to round."""
    counts = {}
    for name, call in calls.items():
        warm = min(_seconds_of(call, 1) for _ in range(WARM))
        counts[name] = max(1, int(seconds / ROUNDS / max(warm, 1e-7)))
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(ROUNDS):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rounds[name].append(_seconds_of(calls[name], counts[name]) / counts[name])
    first = np.array(rounds[names[0]])
    return {name: Times(float(np.median(times) * 1e6), float(np.median(first / np.array(times)))) for name, times in rounds.items()}


def _seconds_of(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
