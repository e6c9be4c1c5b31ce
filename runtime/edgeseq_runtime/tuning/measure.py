"""Candidates timed in turns, round by round, so that each can be compared with the default at the same moment.

Two clocks run: the wall's, and the calling thread's own, which stands still while something else has the core. What runs on the
calling thread alone is compared by its own time, which hardly notices a busy machine; what several threads share, by the wall's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

Call = Callable[[], object]

_PAUSE, _PATIENCE = 0.002, 0.05  # seconds
_IDLE = 0.2  # of a core that the process may still use when its threads have come to rest
_OVERTIME = 3  # times as long as planned that a block may take
_SHORT = 0.005  # seconds; a call that takes less is timed several times before its time is believed


class Took(NamedTuple):
    """Seconds of a call."""

    wall: float
    own: float  # of the calling thread on a core


def timed_rounds(calls: Mapping[str, Call], rounds: tuple[int, int], seconds: float, first: int = 0) -> dict[str, list[Took]]:
    """What a call of each candidate took in each round: the medians over a block of calls.

    Args:
        calls: by candidate.
        rounds: in which each has one block, at least and at most; who goes first changes from one to the next.
        seconds: for everything, about; a block has one call at least, and all blocks last about as long.
        first: number of the first round, where there were others before.
    """
    took = {name: call_time(call) for name, call in calls.items()}
    least, most = rounds
    count = max(least, min(most, int(seconds / sum(took.values()))))
    share = seconds / (count * len(calls))
    sizes = {name: max(1, int(share / one)) for name, one in took.items()}
    times: dict[str, list[Took]] = {name: [] for name in calls}
    for number in range(first, first + count):
        for name in turns(list(calls), number):
            settle()
            times[name].append(block(calls[name], sizes[name], _OVERTIME * share))
    return times


def turns(names: Sequence[str], number: int) -> list[str]:
    """The order of one round: over the rounds, each is in each place as often, and before its neighbour as often as after it."""
    start = (number // 2) % len(names)
    turned = [*names[start:], *names[:start]]
    return turned if number % 2 else turned[::-1]


def block(call: Call, count: int, limit: float) -> Took:
    """The medians of some calls, after one that wakes threads and fills caches where it costs little.

    Where others use the cores, a call on several threads may take a thousand times what it took before: after `limit` seconds
    the calls so far are enough.
    """
    end = time.perf_counter() + limit
    if count > 1:
        call()
    took = [_time(call)]
    while len(took) < count and time.perf_counter() < end:
        took.append(_time(call))
    return Took(median(one.wall for one in took), median(one.own for one in took))


def call_time(call: Call) -> float:
    """Seconds that a call takes about; warms it up on the way."""
    settle()
    call()
    took = _time(call).wall
    if took < _SHORT:
        took = min(_time(call).wall for _ in range(5))
    return max(took, 1e-7)


def _time(call: Call) -> Took:
    wall, own = time.perf_counter(), time.thread_time()
    call()
    own, wall = time.thread_time() - own, time.perf_counter() - wall
    return Took(wall, own)


def settle() -> None:
    """Wait until threads of the block before no longer wait in a loop: they would take the cores of the next."""
    end = time.perf_counter() + _PATIENCE
    while time.perf_counter() < end:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(_PAUSE)
        if time.process_time() - used < _IDLE * (time.perf_counter() - start):
            return
