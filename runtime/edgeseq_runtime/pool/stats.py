"""What a pool has done so far."""

from __future__ import annotations

import copy
from collections import deque

import msgspec
import numpy as np

WINDOW = 10_000  # latencies kept


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the pool was made; latencies of its last 10,000 steps.

    A latency runs from the call of `step` or `submit` until the outputs were there; without any they are NaN.
    """

    streams: int  # that are in the pool now
    queued: int  # steps that wait now
    steps: int  # delivered
    batches: int
    mean_batch: float  # steps delivered of one of them
    failures: int  # steps that the backend could not compute
    cancelled: int  # steps that never ran because one before them did not, or because the stream left or the pool closed
    missed_deadlines: int  # steps that never ran because it was too late
    late: int  # steps that started in time and were done after their deadline
    median_us: float
    p99_us: float


class Counters:
    """The running counts behind `PoolStats`. Guarded by the pool's lock."""

    def __init__(self) -> None:
        self.steps = self.batches = self.failures = self.cancelled = self.missed = self.late = 0
        self.latencies: deque[float] = deque(maxlen=WINDOW)  # seconds

    def copy(self) -> Counters:
        """The counts as they are now, to be reported without the lock."""
        copied = copy.copy(self)
        copied.latencies = self.latencies.copy()
        return copied

    def report(self, streams: int, queued: int) -> PoolStats:
        """The counts, and what they come to."""
        median, p99 = np.percentile(list(self.latencies), (50, 99)) * 1e6 if self.latencies else (np.nan, np.nan)
        return PoolStats(
            streams=streams,
            queued=queued,
            steps=self.steps,
            batches=self.batches,
            mean_batch=self.steps / max(self.batches, 1),
            failures=self.failures,
            cancelled=self.cancelled,
            missed_deadlines=self.missed,
            late=self.late,
            median_us=float(median),
            p99_us=float(p99),
        )
