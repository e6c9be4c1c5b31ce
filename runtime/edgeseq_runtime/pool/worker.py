"""A thread that runs batches and tells the clients what came out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from edgeseq_runtime.pool.batches import BatchRunner
from edgeseq_runtime.pool.scheduler import Scheduler, tell
from edgeseq_runtime.pool.steps import Step


class Worker(threading.Thread):
    """Takes batches from the scheduler until the pool is closed.

    A daemon, so that a pool nobody closed keeps no interpreter alive; what ends it before the interpreter goes is in `lifetime`.
    """

    def __init__(self, scheduler: Scheduler, runner: BatchRunner, number: int) -> None:
        super().__init__(name=f"edgeseq-pool-{number}", daemon=True)
        self._scheduler = scheduler
        self._runner = runner

    def run(self) -> None:
        """Work; called by the thread itself."""
        gate = self._scheduler.enter()
        batch: list[Step] | None = []
        while batch is not None:
            batch, failed = self._scheduler.exchange(batch, gate)
            tell(failed)
            if batch:
                self._run_batch(batch)
            elif batch is not None and not failed:
                gate.acquire()
            del failed  # or it would keep streams alive that have been forgotten

    def _run_batch(self, steps: Sequence[Step]) -> None:
        try:
            results = self._runner.run(steps)
        except Exception as error:
            self._isolate(steps, error)
            return
        now = time.monotonic()
        for step, outputs in zip(steps, results, strict=True):
            step.finished = now
            step.seat.running = False
            step.deliver(outputs)

    def _isolate(self, steps: Sequence[Step], error: Exception) -> None:
        """A batch failed as a whole: run its halves, down to the steps that fail alone."""
        if len(steps) == 1:
            (step,) = steps
            followers = self._scheduler.give_up(step.seat)
            step.fail(error)
            tell(followers)
            return
        half = len(steps) // 2
        self._run_batch(steps[:half])
        self._run_batch(steps[half:])
