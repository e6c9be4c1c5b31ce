"""One step of one stream on its way through the pool, and the two ways to hear of its end."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from edgeseq_runtime.pool.kinds import Kind
from edgeseq_runtime.tensors.spec import Array

Outputs = dict[str, Array]

_log = logging.getLogger("edgeseq_runtime.pool")


class Seat:
    """What the pool knows of one stream: its row in the slabs and its steps. All but `running` is guarded by the pool's lock."""

    __slots__ = ("admitted", "busy", "lane", "left", "number", "queue", "running", "slot", "suspect", "ticket")

    def __init__(self, number: int, slot: int) -> None:
        self.number = number
        self.slot = slot
        self.queue: deque[Step] = deque()
        self.admitted = 0  # steps of the queue that have a place; those of blocked submits come behind them
        self.lane: object = None  # where it stands while it is ready
        self.ticket = 0  # of its turn: the lower, the longer it has been ready
        self.busy = False  # a worker has a step of it, and may be telling the client of it
        self.running = False  # a worker may be reading or writing its state
        self.suspect = False  # its last step failed in the run: the next one is run alone
        self.left = False

    def __str__(self) -> str:
        return f"stream {self.number} of the pool"


class Step(ABC):
    """Inputs of one step, batch 1, checked. Subclasses know who waits for it."""

    __slots__ = ("arrays", "deadline", "finished", "gate", "kind", "seat", "submitted")

    def __init__(self, seat: Seat, kind: Kind, arrays: Sequence[Array], submitted: float, deadline: float) -> None:
        self.seat = seat
        self.kind = kind
        self.arrays = arrays  # in the order of the model's data inputs
        self.submitted = submitted  # seconds of time.monotonic
        self.deadline = deadline  # likewise
        self.finished: float | None = None  # likewise; None where it failed
        self.gate: threading.Lock | None = None  # a submit that waits for a place

    def start(self) -> bool:
        """Whether it is to be run; false where its client has cancelled it."""
        return True

    def cancelled(self) -> bool:
        """Whether its client has cancelled it."""
        return False

    @abstractmethod
    def deliver(self, outputs: Outputs) -> None:
        """Tell the client what came out."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Tell the client why nothing comes out."""


class FutureStep(Step):
    """A step whose client holds a future."""

    __slots__ = ("_owner", "future")

    def __init__(self, owner: object, *args: Any) -> None:
        super().__init__(*args)
        self._owner = owner  # the stream stays in the pool as long as steps of it are under way
        self.future: Future[Outputs] = Future()

    def start(self) -> bool:
        """False where the future was cancelled; from now on it can't be."""
        return self.future.set_running_or_notify_cancel()

    def cancelled(self) -> bool:
        """Whether the future was."""
        return self.future.cancelled()

    def deliver(self, outputs: Outputs) -> None:
        """Set the future's result, and run its callbacks."""
        try:
            self.future.set_result(outputs)
        except BaseException:  # what a callback raises must not end the worker that calls it
            _log.exception("a callback of a step's future raised")

    def fail(self, error: Exception) -> None:
        """Set the future's exception, and run its callbacks."""
        try:
            if self.future.running() or self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)
        except BaseException:
            _log.exception("a callback of a step's future raised")


class RoundStep(Step):
    """A step whose client is blocked until it and the others of its round are done."""

    __slots__ = ("outcome", "round")

    def __init__(self, round_: Round, *args: Any) -> None:
        super().__init__(*args)
        self.round = round_
        self.outcome: Outputs | Exception | None = None

    def deliver(self, outputs: Outputs) -> None:
        """Keep the outputs, and wake the client if this was the last one."""
        self.outcome = outputs
        self.round.count_down()

    def fail(self, error: Exception) -> None:
        """Keep the error, and wake the client if this was the last one."""
        self.outcome = error
        self.round.count_down()


class Round:
    """Steps that one thread waits for together."""

    __slots__ = ("_done", "_others")

    def __init__(self) -> None:
        self._others: list[None] = []
        self._done = threading.Lock()
        self._done.acquire()

    def expect(self, steps: int) -> None:
        """How many there are, at least 1; said before the first is submitted."""
        self._others = [None] * (steps - 1)

    def count_down(self) -> None:
        """One of the steps is done; the last one wakes the waiting thread."""
        try:
            self._others.pop()  # atomic, where a counter is not
        except IndexError:
            self._done.release()

    def wait(self, seconds: float) -> bool:
        """Block until all steps are done, or for so long; whether they are. Negative: without end."""
        return self._done.acquire(timeout=seconds)
