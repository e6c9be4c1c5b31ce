"""Whose turn it is: queues of steps, one a stream, and the streams that are ready, in the order in which they became so."""

from __future__ import annotations

import itertools
import math
from collections import deque

from edgeseq_runtime.errors import DeadlineExceeded, StepCancelled
from edgeseq_runtime.pool.steps import Seat, Step

Failed = list[tuple[Step, Exception]]  # to be told to their clients once the pool's lock is free again


class Turns:
    """The waiting steps of all streams. Guarded by the pool's lock.

    A stream is ready when it has a step waiting and none in a worker's hands. Ready streams stand in lanes, one for each kind
    of step, so that a lane's beginning is a batch. One step of a stream is taken at a time; then it goes to the end of its lane.

    Every stream has one place of its own. `shared` further places belong to those that run ahead, at most `per_stream`
    places in all for each: streams that flood the pool can't take the place of one that does not.
    """

    def __init__(self, shared: int, per_stream: int) -> None:
        self._lanes: dict[object, deque[Seat]] = {}
        self._tickets = itertools.count()
        self._soonest = math.inf  # no waiting step of a ready stream has an earlier deadline
        self._shared = shared
        self._per_stream = per_stream
        self._shared_taken = 0
        self._gated: deque[Step] = deque()  # steps that have no place yet, whose clients are blocked in submit
        self.waiting = 0  # steps

    def has_place(self, seat: Seat) -> bool:
        """Whether one more step of a stream may wait."""
        return not seat.admitted or (seat.admitted < self._per_stream and self._shared_taken < self._shared)

    def append(self, step: Step) -> bool:
        """Let a step wait; whether that makes its stream ready.

        One with a gate has no place: its gate opens when it has one, or when it waits no longer.
        """
        seat = step.seat
        if step.gate is None:
            self._admit(seat)
        else:
            self._gated.append(step)
        seat.queue.append(step)
        self.waiting += 1
        if step.deadline < self._soonest:
            self._soonest = step.deadline
        if seat.busy or len(seat.queue) > 1:
            return False
        self._line_up(seat)
        return True

    def give_back(self, seat: Seat) -> None:
        """A worker is done with a stream."""
        seat.busy = False
        if seat.queue:
            self._line_up(seat)
            self._soonest = min(self._soonest, *(step.deadline for step in seat.queue))

    def share(self, workers: int, most: int) -> int:
        """How many steps a worker should take, none more than `most`, so that each of some free workers gets as many.

        No share is less than half of `most`: two small calls cost more together than one, and a worker that has yet to be
        given a core would leave crumbs.
        """
        ready = len(self._oldest_lane())
        shares = max(1, min(workers, 2 * ready // most))
        return min(-(-ready // shares), most)

    def take(self, count: int) -> tuple[list[Step], Failed]:
        """The next batch: a step each of the stream that has been ready longest and of others whose step is of its kind."""
        lane = self._oldest_lane()
        batch: list[Step] = []
        failed: Failed = []
        for _ in range(min(count, len(lane))):
            seat = lane.popleft()
            seat.lane = None
            step = seat.queue.popleft()
            self._vacate(step)
            if step.start():
                seat.busy = seat.running = True
                batch.append(step)
            else:
                failed += self.cancel(seat, _CANCELLED_BY_CLIENT.format(seat))
        self._forget_empty_lanes()
        self._open_gates()
        return batch, failed

    def cancel(self, seat: Seat, reason: str) -> Failed:
        """Take all steps of a stream out of the queue."""
        return _cancelled(self._drop(seat, 0), reason)

    def cancel_all(self, reason: str) -> Failed:
        """Take the steps of all ready streams out of the queue."""
        return [failure for seat in self._seats() for failure in self.cancel(seat, reason)]

    def expire(self, now: float) -> Failed:
        """Take out of the queue the steps for which it is too late, with those behind them."""
        if now < self._soonest:
            return []
        failed = [failure for seat in self._seats() for failure in self.expire_of(seat, now)]
        self._soonest = min((step.deadline for seat in self._seats() for step in seat.queue), default=math.inf)
        return failed

    def expire_of(self, seat: Seat, now: float) -> Failed:
        """The same for one stream, ready or not; a step that its client has cancelled goes too."""
        first = next((at for at, step in enumerate(seat.queue) if step.deadline <= now or step.cancelled()), None)
        if first is None:
            return []
        step, *followers = self._drop(seat, first)
        if not step.start():
            return _cancelled(followers, _CANCELLED_BY_CLIENT.format(seat))
        return [(step, _too_late(step, now)), *_cancelled(followers, f"the one before it of {seat} missed its deadline")]

    @property
    def ready(self) -> bool:
        """Whether any stream is ready."""
        return bool(self._lanes)

    def _seats(self) -> list[Seat]:
        return [seat for lane in self._lanes.values() for seat in lane]

    def _oldest_lane(self) -> deque[Seat]:
        return (
            min(self._lanes.values(), key=_ticket, default=_NOBODY) if len(self._lanes) != 1 else next(iter(self._lanes.values()))
        )

    def _line_up(self, seat: Seat) -> None:
        seat.ticket = next(self._tickets)
        seat.lane = seat if seat.suspect else seat.queue[0].kind
        self._lanes.setdefault(seat.lane, deque()).append(seat)

    def _forget_empty_lanes(self) -> None:
        for key in [key for key, lane in self._lanes.items() if not lane]:
            del self._lanes[key]

    def _drop(self, seat: Seat, start: int) -> list[Step]:
        """Take the steps of a stream from one on, counted from its queue's head, out of the queue."""
        dropped = [seat.queue.pop() for _ in range(len(seat.queue) - start)][::-1]
        for step in dropped:
            self._vacate(step)
        if seat.lane is not None and not seat.queue:
            self._lanes[seat.lane].remove(seat)
            seat.lane = None
            self._forget_empty_lanes()
        self._open_gates()
        return dropped

    def _admit(self, seat: Seat) -> None:
        self._shared_taken += seat.admitted > 0
        seat.admitted += 1

    def _vacate(self, step: Step) -> None:
        self.waiting -= 1
        if step.gate is not None:
            self._gated.remove(step)
            _open(step)
        else:
            step.seat.admitted -= 1
            self._shared_taken -= step.seat.admitted > 0

    def _open_gates(self) -> None:
        for step in list(self._gated) if self._gated else ():
            if self.has_place(step.seat):
                self._gated.remove(step)
                self._admit(step.seat)
                _open(step)


_CANCELLED_BY_CLIENT = "the one before it of {} was cancelled by its client"
_NOBODY: deque[Seat] = deque()


def _ticket(lane: deque[Seat]) -> int:
    return lane[0].ticket


def _open(step: Step) -> None:
    gate, step.gate = step.gate, None
    if gate is not None:
        gate.release()


def _cancelled(steps: list[Step], reason: str) -> Failed:
    return [(step, StepCancelled(f"a step was not run, because {reason}; the stream's state is as before it")) for step in steps]


def _too_late(step: Step, now: float) -> DeadlineExceeded:
    allowed, waited = step.deadline - step.submitted, now - step.submitted
    return DeadlineExceeded(
        f"a step of {step.seat} had not started {waited * 1e3:.1f} ms after it was submitted, and its deadline is "
        f"{allowed * 1e3:.1f} ms; it was not run, and the stream's state is as before it"
    )
