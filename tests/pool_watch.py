"""Watching a pool at work, and saying what each of its streams must have given."""

from __future__ import annotations

import faulthandler
import sys
import threading
from contextlib import contextmanager

import numpy as np

CLOSE = {"rtol": 0, "atol": 1e-6}  # of values up to 1: kernels for other batch sizes round differently
LATE = 0.0  # a deadline that is over before any worker can look


def sound(T, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((T, 1, 3)).astype(np.float32)}


def word(*numbers):
    return {"tokens": np.array(numbers, np.int32)[:, None]}


BAD_WORD = word(77)


def solo(session, steps):
    stream = session.stream()
    return [stream.step(step) for step in steps]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_allclose(one[name], other[name], **CLOSE)


class Watched:
    """Looks over the shoulders of a pool's workers: notes the batches they run, and holds them before the next on request."""

    def __init__(self, pool):
        self.pool, self.batches = pool, []
        self._free, self._arrived = threading.Event(), threading.Semaphore(0)
        self._free.set()
        for worker in pool._workers:
            worker._runner.run = self._watching(worker._runner.run)

    def _watching(self, run):
        def watched(steps):
            self.batches.append([step.seat.number for step in steps])
            if not self._free.is_set():
                self._arrived.release()
                assert self._free.wait(60)
            return run(steps)

        return watched

    @contextmanager
    def held(self, inputs):
        """Every worker has taken a step of its own and runs it only at the end; what is submitted meanwhile waits."""
        self._free.clear()
        streams = [self.pool.join() for _ in self.pool._workers]
        futures = []
        for stream in streams:
            futures.append(stream.submit(inputs))
            assert self._arrived.acquire(timeout=60)
        self.batches.clear()
        try:
            yield futures
        finally:
            self._free.set()
            for future, stream in zip(futures, streams, strict=True):
                future.result()
                stream.leave()


def until(condition):
    """Wait for something another thread is about to do."""
    for _ in range(60_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never happened")


@contextmanager
def ended_if_it_hangs(seconds):
    """A thread that waits for ever can't be stopped: the process is, with a traceback of every thread."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
