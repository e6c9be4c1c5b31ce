"""Many jobs in parallel processes.

Not threads: a backend can end its process on a model that it should have refused. The processes are started anew, never forked:
ONNX Runtime's threads do not survive a fork.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from edgeseq_runtime.parity import Progress
from edgeseq_runtime.suite.outcome import Job, Outcome, measure

_STEPS = 100  # in which the progress of one job is counted


def default_jobs() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_all(jobs: Sequence[Job], workers: int, progress: Progress = lambda done, total: None) -> tuple[Outcome, ...]:
    """Measure every job; the outcomes are in the order of the jobs.

    A process that ends before its time costs the job it was at, and no other. All have ended when this returns or raises.
    """
    waiting = list(enumerate(jobs))[::-1]
    outcomes: dict[int, Outcome] = {}
    parts = dict.fromkeys(range(len(jobs)), 0)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Worker(*waiting.pop()))
            ready = wait([worker.connection for worker in running])
            for worker in [worker for worker in running if worker.connection in ready]:
                message = worker.receive()
                parts[worker.index] = message if isinstance(message, int) else _STEPS
                progress(sum(parts.values()), _STEPS * len(jobs))
                if isinstance(message, Outcome):
                    outcomes[worker.index] = message
                    running.remove(worker)
                    if waiting and worker.process.is_alive():
                        running.append(worker.next(*waiting.pop()))
                    else:
                        worker.end()
    finally:
        for worker in running:
            worker.end()
    return tuple(outcomes[index] for index in range(len(jobs)))


class _Worker:
    """A process, and the job it is at."""

    def __init__(self, index: int, job: Job) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Daemonic: ended at the latest when this process ends.
        self.process: BaseProcess = context.Process(target=_work, args=(theirs,), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()
        self.next(index, job)

    def next(self, index: int, job: Job) -> _Worker:
        """Give it a job."""
        self.index, self.job, self.started = index, job, time.perf_counter()
        with suppress(OSError):  # it has ended; `receive` says so
            self.connection.send(job)
        return self

    def receive(self) -> Any:
        """How far it is, in `_STEPS`, or the outcome."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Outcome(
                job=self.job,
                seconds=time.perf_counter() - self.started,
                error=f"the process that measured {self.job.path} ended before it was done ({_how(self.process.exitcode)})",
                error_type="ProcessEnded",
            )

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end of this, and never reaches a process that is started in it.

    It is sent to every process of a terminal; the one that started the others ends them, and they say nothing.
    """
    resource_tracker.ensure_running()  # it would be started with the first process, and let signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _work(connection: Connection) -> None:
    """Measure what comes until the other end closes, which it may do at any time."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        outcome = measure(job, _Steps(connection))
        with suppress(OSError):  # it has closed: the next look at it says so
            connection.send(outcome)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Steps:
    """Sends progress on when another step of `_STEPS` is done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent = 0

    def __call__(self, done: int, total: int) -> None:
        step = _STEPS * done // total
        if step > self._sent:
            self._sent = step
            with suppress(OSError):  # the other end has closed
                self._connection.send(step)
