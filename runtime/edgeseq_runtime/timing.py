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
    """Nanoseconds of the last `KEPT` steps.

    Who measures writes them: `ring[steps % KEPT] = nanoseconds; steps += 1`. A method for it takes longer than the writing.
    """

    __slots__ = ("ring", "steps")

    def __init__(self) -> None:
        self.ring = array("q", bytes(8 * KEPT))  # Python sets an element of it quicker than one of NumPy's
        self.steps = 0

    def times(self) -> StepTimes:
        """The figures over what is kept."""
        kept = min(self.steps, KEPT)
        if not kept:
            return StepTimes(0, 0, 0.0, 0.0, 0.0, 0.0)
        ring = np.array(self.ring[:kept]) / 1e3
        median, p99 = (float(value) for value in np.percentile(ring, (50, 99)))
        return StepTimes(self.steps, kept, float(ring[(self.steps - 1) % KEPT]), median, p99, float(ring.max()))
