"""How long the steps of a stream take: the last ones, in a ring that never grows."""

from __future__ import annotations

from array import array

import msgspec
import numpy as np

KEPT = 4096


class StepTimes(msgspec.Struct, frozen=True):
    """Times of a stream's last steps, in microseconds; all zero where there was none."""

    steps: int  # in all, since the stream was made
    kept: int  # the last ones, which the figures are of
    last: float
    median: float
    p99: float
    longest: float


class StepClock:
    """Nanoseconds of the last `KEPT` steps."""

    __slots__ = ("_ring", "_steps")

    def __init__(self) -> None:
        self._ring = array("q", bytes(8 * KEPT))  # to set an element of it is quicker than one of NumPy's
        self._steps = 0

    def add(self, nanoseconds: int) -> None:
        """Note one step."""
        self._ring[self._steps % KEPT] = nanoseconds
        self._steps += 1

    def times(self) -> StepTimes:
        """The figures over what is kept."""
        kept = min(self._steps, KEPT)
        if not kept:
            return StepTimes(0, 0, 0.0, 0.0, 0.0, 0.0)
        ring = np.array(self._ring[:kept]) / 1e3
        median, p99 = (float(value) for value in np.percentile(ring, (50, 99)))
        return StepTimes(self._steps, kept, float(ring[(self._steps - 1) % KEPT]), median, p99, float(ring.max()))
