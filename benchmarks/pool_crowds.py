"""Ways to serve many streams at once: a pool, or a `Stream` each, driven by threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

import edgeseq_runtime
from edgeseq_runtime.tensors.spec import Array

THREADS = 2  # that compute
Arrays = dict[str, Array]


class Crowd(Protocol):
    """Some streams and a way to serve them."""

    def race(self, seconds: float) -> float:
        """Steps a second when every stream steps as fast as it can."""

    def keep_time(self, period: float, seconds: float) -> list[float]:
        """Latencies in seconds of frames that fall due once a period."""

    def close(self) -> None:
        """Free what it holds."""


class Pooled:
    """All streams in a pool."""

    def __init__(self, session: edgeseq_runtime.Session, frame: Arrays, streams: int) -> None:
        self.frame = frame
        self.pool = session.pool(streams, workers=THREADS)
        self.streams = [self.pool.join() for _ in range(streams)]
        self.pool.step(dict.fromkeys(self.streams, frame))

    def race(self, seconds: float) -> float:
        """One round after another."""
        everyone = dict.fromkeys(self.streams, self.frame)
        rounds, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.pool.step(everyone)
            rounds += 1
        return rounds * len(self.streams) / (time.perf_counter() - start)

    def keep_time(self, period: float, seconds: float) -> list[float]:
        """A loop that hands over whatever is due."""
        latencies: list[float] = []
        for due in due_together(self.streams, period, seconds):
            outcome = self.pool.step(dict.fromkeys([stream for stream, _ in due], self.frame))
            require_outputs(list(outcome.values()))
            done = time.perf_counter()
            latencies += [done - at for _, at in due]
        return latencies

    def close(self) -> None:
        """Ends the workers."""
        self.pool.close()


class Apart:
    """A `Stream` each, driven by two threads."""

    def __init__(self, streams: Sequence[edgeseq_runtime.Stream], frame: Arrays) -> None:
        self.frame = frame
        self.shares = [share for share in (streams[at::THREADS] for at in range(THREADS)) if share]
        for stream in streams:
            stream.step(frame)

    def race(self, seconds: float) -> float:
        """Each thread steps through its share, again and again."""
        until = time.perf_counter() + seconds

        def run(share: Sequence[edgeseq_runtime.Stream]) -> float:
            rounds, start = 0, time.perf_counter()
            while time.perf_counter() < until:
                for stream in share:
                    stream.step(self.frame)
                rounds += 1
            return rounds * len(share) / (time.perf_counter() - start)

        return sum(in_threads(run, self.shares))

    def keep_time(self, period: float, seconds: float) -> list[float]:
        """Each thread steps what is due of its share."""

        def run(share: Sequence[edgeseq_runtime.Stream]) -> list[float]:
            latencies = []
            for due in due_together(share, period, seconds):
                for stream, at in due:
                    stream.step(self.frame)
                    latencies.append(time.perf_counter() - at)
            return latencies

        return [latency for latencies in in_threads(run, self.shares) for latency in latencies]

    def close(self) -> None:
        """Nothing to end."""


def in_threads(run: Callable[[Any], Any], shares: Sequence[Any]) -> list[Any]:
    """What a function returns for each share, computed at the same time."""
    results: list[Any] = [None] * len(shares)

    def store(at: int) -> None:
        results[at] = run(shares[at])

    threads = [threading.Thread(target=store, args=(at,)) for at in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def due_together(streams: Sequence[Any], period: float, seconds: float) -> Iterator[list[tuple[Any, float]]]:
    """The streams whose frames have fallen due, with the times at which they did; each stream once, the oldest first."""
    phases = sorted(np.random.default_rng(0).uniform(0, period, len(streams)))
    start = time.perf_counter() + 0.01
    frames = (
        (stream, start + number * period + phase)
        for number in range(int(seconds / period))
        for stream, phase in zip(streams, phases, strict=True)
    )
    pending = next(frames, None)
    while pending is not None:
        time.sleep(max(0.0, pending[1] - time.perf_counter()))
        due, now = [], time.perf_counter()
        while pending is not None and pending[1] <= now and len(due) < len(streams):
            due.append(pending)
            pending = next(frames, None)
        if due:
            yield due


def require_outputs(outcomes: Sequence[object]) -> None:
    """No step was refused."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
