"""What clients and workers of a pool share: who is in it, what waits, and one lock around both."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from edgeseq_runtime.errors import DeadlineExceeded, PoolBusy, PoolClosed, PoolFull, StreamError
from edgeseq_runtime.pool.stats import Counters, PoolStats
from edgeseq_runtime.pool.steps import Round, RoundStep, Seat, Step
from edgeseq_runtime.pool.turns import Failed, Turns

_CLOSED = "this pool is closed; make another: session.pool()"
_FORKED = "this pool was made before the process forked, and its threads are not in this process; make a pool in each process"


class Scheduler:
    """Takes steps from clients and hands batches of them to workers."""

    def __init__(self, capacity: int, max_batch: int, turns: Turns, clear: Callable[[int], None]) -> None:
        self._lock = threading.Lock()
        self._turns = turns
        self._capacity = capacity
        self._max_batch = max_batch
        self._clear = clear
        self._free = list(range(capacity - 1, -1, -1))  # slots
        self._numbers = itertools.count()
        self._dropped: deque[Seat] = deque()  # of streams that were garbage-collected: appended to without the lock
        self._closed = ""  # why nothing is taken any more
        self._counters = Counters()
        self._gates: dict[int, threading.Lock] = {}  # of every worker, by its thread's ident: shut but to wake it
        self._idle: list[threading.Lock] = []  # gates of those that wait for work
        self._running = 0  # workers that have a batch

    # For clients

    def join(self) -> Seat:
        """A seat for one more stream, its state zeros.

        Raises:
            PoolFull: every slot is taken.
            PoolClosed: the pool is closed.
        """
        with self._lock:
            self._require_open()
            self._collect_dropped()
            if not self._free:
                raise PoolFull(
                    f"all {self._capacity} slots of the pool are taken; let a stream leave, or make a larger pool: "
                    f"session.pool(capacity={2 * self._capacity})"
                )
            seat = Seat(next(self._numbers), self._free.pop())
            self._clear(seat.slot)
            return seat

    def leave(self, seat: Seat) -> None:
        """Cancel a stream's waiting steps and free its slot, at the latest when its running step is done."""
        with self._lock:
            failed = self._turns.cancel(seat, f"{seat} left") if not seat.left else []
            self._note(failed)
            self._free_slot(seat)
        tell(failed)

    def forget(self, seat: Seat) -> None:
        """Let a stream leave that nobody can use any more. Takes no lock: garbage is collected wherever it happens to be."""
        self._dropped.append(seat)

    def submit(self, step: Step, wait: bool) -> None:
        """Take a step, once there is a place for it or it is over.

        Raises:
            PoolBusy: there is no place, and the client does not want to wait for one, or is a worker and can't.
            PoolClosed, StreamError: the pool is closed; the stream has left.
        """
        gate = None
        with self._lock:
            self._require_in(step.seat)
            if not self._turns.has_place(step.seat):
                self._require_patient(step.seat, wait)
                step.gate = gate = _shut_gate()
            if self._turns.append(step) and self._idle:
                self._wake(1)
        if gate is not None and not gate.acquire(timeout=_seconds_until(step.deadline)):
            self.expire([step.seat])
            gate.acquire()

    def run_round(self, round_: Round, steps: Sequence[RoundStep], deadline: float) -> None:
        """Take steps and block until all of them are done; those that can't be taken fail.

        Its client is blocked, and that is what keeps the number of its steps within bounds.

        Raises:
            StreamError: the client is a worker, and would wait for itself.
        """
        if not steps:
            return
        if threading.get_ident() in self._gates:
            raise StreamError("a callback of a step waits for another step, on the thread that would run it; use submit")
        round_.expect(len(steps))
        self._submit_all(steps)
        if not round_.wait(_seconds_until(deadline)):
            self.expire([step.seat for step in steps])
            round_.wait(-1)

    def _submit_all(self, steps: Sequence[RoundStep]) -> None:
        failed: Failed = []
        ready = 0
        with self._lock:
            for step in steps:
                try:
                    self._require_in(step.seat)
                except StreamError as error:
                    failed.append((step, error))
                else:
                    ready += self._turns.append(step)
            self._wake(ready)
        tell(failed)

    def expire(self, seats: Sequence[Seat]) -> None:
        """Fail the steps of streams for which it is too late; their clients don't wait for a worker to notice."""
        with self._lock:
            now = time.monotonic()
            failed = [failure for seat in seats for failure in self._turns.expire_of(seat, now)]
            self._note(failed)
        tell(failed)

    @contextmanager
    def idle(self, seat: Seat) -> Iterator[int]:
        """The slot of a stream none of whose steps waits or runs, held still.

        Raises:
            StreamError: one does, or the stream has left.
        """
        self.expire([seat])
        with self._lock:
            self._require_in(seat)
            if seat.queue or seat.running:
                raise StreamError(f"{seat} has steps under way; wait for their results before you read or set its state")
            yield seat.slot

    def close(self) -> None:
        """Take no more steps, cancel those that wait, and wake the workers so that they end. Lets none be interrupted."""
        with self._lock:
            self._closed = self._closed or _CLOSED
            failed = self._turns.cancel_all("the pool was closed")
            self._note(failed)
            self._wake(len(self._idle))
        tell(failed)

    def abandon(self) -> None:
        """Close a pool that nobody can use any more and in which no step is left. Takes no lock, as `forget`."""
        self._closed = self._closed or _CLOSED
        for gate in list(self._gates.values()):
            _open(gate)

    def renounce(self) -> None:
        """Close in a forked child, where there are no workers and the lock may be held by a thread that is not there."""
        self._lock = threading.Lock()
        self._turns = Turns(0, 1)
        self._closed = _FORKED

    def stats(self) -> PoolStats:
        """Counts and latencies so far."""
        with self._lock:
            self._collect_dropped()
            counters, streams, waiting = self._counters.copy(), self._capacity - len(self._free), self._turns.waiting
        return counters.report(streams, waiting)

    # For workers

    def enter(self) -> threading.Lock:
        """Register the calling thread as a worker; its gate."""
        with self._lock:
            gate = self._gates[threading.get_ident()] = _shut_gate()
            return gate

    def exchange(self, done: Sequence[Step], gate: threading.Lock) -> tuple[list[Step] | None, Failed]:
        """Give back a batch whose clients have been told, and take the next. None once the pool is closed.

        An empty batch with no failed steps means that nothing is ready: wait at the gate.
        """
        with self._lock:
            self._take_back(done)
            if self._closed:
                failed = self._turns.cancel_all("the pool was closed")
                self._note(failed)
                return None, failed
            failed = self._turns.expire(time.monotonic())
            batch, cancelled = self._turns.take(self._turns.share(len(self._gates) - self._running, self._max_batch))
            failed += cancelled
            self._note(failed)
            if batch:
                self._running += 1
                self._wake(int(self._turns.ready))
            elif not failed:
                self._idle.append(gate)
            return batch, failed

    def give_up(self, seat: Seat) -> Failed:
        """A stream's step failed in the run: cancel those behind it, and run the next one alone."""
        with self._lock:
            seat.running = False
            seat.suspect = True
            self._counters.failures += 1
            failed = self._turns.cancel(seat, f"the one before it of {seat} failed")
            self._note(failed)
            return failed

    # Within the lock

    def _take_back(self, done: Sequence[Step]) -> None:
        if not done:
            return
        self._running -= 1
        counters = self._counters
        counters.batches += 1
        for step in done:
            seat = step.seat
            if step.finished is not None:
                seat.suspect = False
                counters.steps += 1
                counters.late += step.finished > step.deadline
                counters.latencies.append(step.finished - step.submitted)
            self._turns.give_back(seat)
            if seat.left:
                self._free_slot(seat)

    def _free_slot(self, seat: Seat) -> None:
        seat.left = True
        if not seat.running and seat.slot >= 0:
            self._free.append(seat.slot)
            seat.slot = -1

    def _collect_dropped(self) -> None:
        while self._dropped:
            self._free_slot(self._dropped.popleft())

    def _wake(self, workers: int) -> None:
        for _ in range(min(workers, len(self._idle))):
            _open(self._idle.pop())

    def _note(self, failed: Failed) -> None:
        for _, error in failed:
            if isinstance(error, DeadlineExceeded):
                self._counters.missed += 1
            else:
                self._counters.cancelled += 1

    def _require_open(self) -> None:
        if self._closed:
            raise PoolClosed(self._closed)

    def _require_in(self, seat: Seat) -> None:
        self._require_open()
        if seat.left:
            raise StreamError(f"{seat} has left; join again: pool.join()")

    def _require_patient(self, seat: Seat, wait: bool) -> None:
        if wait and threading.get_ident() not in self._gates:
            return
        raise PoolBusy(
            f"{len(seat.queue)} steps of {seat} and {self._turns.waiting} of all streams wait already; take results before you "
            "submit more, wait for a place (wait=True), or make a pool with more: session.pool(queue=..., per_stream=...)"
        )


def tell(failed: Failed) -> None:
    """Tell clients why their steps failed. Runs their callbacks, so without the lock."""
    for step, error in failed:
        step.fail(error)


def _seconds_until(deadline: float) -> float:
    """For a lock's timeout: never negative, which would mean no timeout, but where there is no deadline."""
    return -1 if deadline == math.inf else min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)


def _shut_gate() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


def _open(gate: threading.Lock) -> None:
    with suppress(RuntimeError):  # open already
        gate.release()
