"""Many streams at once: the public face of the pool."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from edgeseq_runtime.errors import InputError, StreamError, UsageError
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.pool.batches import BatchRunner
from edgeseq_runtime.pool.independence import require_independent, require_poolable
from edgeseq_runtime.pool.kinds import Admission
from edgeseq_runtime.pool.lifetime import join_workers, register
from edgeseq_runtime.pool.scheduler import Scheduler
from edgeseq_runtime.pool.slabs import Slabs
from edgeseq_runtime.pool.stats import PoolStats
from edgeseq_runtime.pool.steps import FutureStep, Outputs, Round, RoundStep, Seat
from edgeseq_runtime.pool.turns import Turns
from edgeseq_runtime.pool.worker import Worker
from edgeseq_runtime.snapshot import pack_snapshot, unpack_snapshot
from edgeseq_runtime.tensors.spec import Array

if TYPE_CHECKING:
    from edgeseq_runtime.backends.model import Model

MAX_WORKERS = 2


@dataclass(frozen=True)
class PoolSizes:
    """How large a pool is: each 1 or more."""

    capacity: int  # streams in it at a time
    max_batch: int  # steps in one call
    queue: int  # steps that may wait besides one of each stream
    per_stream: int  # steps of one stream that may wait
    workers: int  # threads that run batches

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if not isinstance(size, int) or size < 1:
                raise UsageError(f"a pool with {name}={size} was asked for; give 1 or more")


def default_workers() -> int:
    """As many as there are cores, but at most 2."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores)


class StreamPool:
    """Streams that share one session, their steps run in batches. Made by `Session.pool`.

    Everything may be called from any thread. Use it in a `with` statement, or close it.
    """

    def __init__(self, model: Model, interface: Interface, identity: str, sizes: PoolSizes) -> None:
        require_poolable(interface)
        require_independent(model, interface)
        self.sizes = sizes
        self._identity = identity
        self._admission = Admission(interface)
        self._slabs = Slabs(interface, sizes.capacity)
        self._scheduler = Scheduler(sizes.capacity, sizes.max_batch, Turns(sizes.queue, sizes.per_stream), self._slabs.clear)
        runners = (BatchRunner(model, interface, self._slabs) for _ in range(sizes.workers))
        self._workers = [Worker(self._scheduler, runner, number) for number, runner in enumerate(runners)]
        for worker in self._workers:
            worker.start()
        register(self._scheduler, self._workers)
        weakref.finalize(self, self._scheduler.abandon).atexit = False

    def join(self) -> PooledStream:
        """A new stream, its state zeros.

        Raises:
            PoolFull: as many streams as the pool's capacity are in it.
            PoolClosed: the pool is closed.
        """
        return PooledStream(self, self._scheduler.join())

    def step(
        self, inputs: Mapping[PooledStream, Mapping[str, Array]], *, deadline: float | None = None
    ) -> dict[PooledStream, Outputs | Exception]:
        """One step of each of several streams, and one wait for all: what a loop over events does with all that has come in.

        Costs less a step than `PooledStream.step` or `submit` in as many threads. Blocks until the last one is done.

        Args:
            inputs: as of `PooledStream.step`, by stream of this pool.
            deadline: seconds from now by which each must have started.

        Returns:
            What `PooledStream.step` would have returned, or in its place the exception that it would have raised.
        """
        results: dict[PooledStream, Outputs | Exception] = {}
        steps: dict[PooledStream, RoundStep] = {}
        round_ = Round()
        now, until = _now_and_deadline(deadline)
        for stream, arrays in inputs.items():
            try:
                kind, checked = self._admission.check(arrays)
                steps[stream] = RoundStep(round_, stream._seat_in(self), kind, checked, now, until)
            except (InputError, StreamError) as error:
                results[stream] = error
        self._scheduler.run_round(round_, list(steps.values()), until)
        return results | {stream: step.outcome for stream, step in steps.items() if step.outcome is not None}

    @property
    def stats(self) -> PoolStats:
        """What the pool has done so far."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Cancel what waits, let what runs finish, and end the workers. Once closed, nothing more happens."""
        self._scheduler.close()
        join_workers(self._workers)

    def __enter__(self) -> StreamPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


class PooledStream:
    """One sequence in a pool. Made by `StreamPool.join`; leaves when it is told to, or when nobody refers to it any more.

    Its methods may be called from any thread; steps run in the order of their calls, one at a time.
    """

    def __init__(self, pool: StreamPool, seat: Seat) -> None:
        self._pool = pool
        self._seat = seat

    def step(self, inputs: Mapping[str, Array], *, deadline: float | None = None) -> Outputs:
        """Feed the next piece of the sequence, of any length; the state goes on from the last one. Blocks until it is done.

        Args:
            inputs: every input but the state's, batch 1, of a multiple of the model's `chunk` steps (mostly 1).
            deadline: seconds from now by which it must have started.

        Returns:
            Every output but the state's, arrays of the caller's own.

        Raises:
            InputError: an input does not fit, or the backend could not compute the model on it.
            DeadlineExceeded: it was not run, because it was too late.
            StepCancelled: it was not run, because an earlier step failed, or because the stream left or the pool closed.
            StreamError: the stream has left. PoolClosed: the pool is closed.

        Whatever it raises, the state is as before.
        """
        pool = self._pool
        kind, arrays = pool._admission.check(inputs)
        round_ = Round()
        now, until = _now_and_deadline(deadline)
        step = RoundStep(round_, self._seat, kind, arrays, now, until)
        pool._scheduler.run_round(round_, [step], until)
        if isinstance(step.outcome, dict):
            return step.outcome
        assert step.outcome is not None  # the round is over
        raise step.outcome

    def submit(self, inputs: Mapping[str, Array], *, deadline: float | None = None, wait: bool = True) -> Future[Outputs]:
        """Feed the next piece without waiting for its outputs. The inputs are copied.

        Args:
            inputs: as of `step`.
            deadline: seconds from now by which it must have started.
            wait: where there is no place for the step, True blocks until there is one or the step is over; False raises.

        Returns:
            A future of what `step` would return or raise. Cancelling it before the step starts cancels the steps behind it too.

        Raises:
            InputError: an input does not fit.
            PoolBusy: there is no place.
            StreamError: the stream has left. PoolClosed: the pool is closed.
        """
        kind, arrays = self._pool._admission.check(inputs)
        copies = [array.copy() for array in arrays]
        step = FutureStep(self, self._seat, kind, copies, *_now_and_deadline(deadline))
        self._pool._scheduler.submit(step, wait)
        return step.future

    def reset(self) -> None:
        """Set the state to zeros.

        Raises:
            StreamError: steps are under way, or the stream has left.
        """
        with self._pool._scheduler.idle(self._seat) as slot:
            self._pool._slabs.clear(slot)

    @property
    def state(self) -> dict[str, Array]:
        """A copy of the state by input name, batch 1. Setting it copies one in, checked first.

        It goes between pools, and to and from a stream of batch 1, of the same model.

        Raises:
            InputError: when set, a name is missing or unknown, or a dtype or shape differs; the state is as before.
            StreamError: steps are under way, or the stream has left.
        """
        with self._pool._scheduler.idle(self._seat) as slot:
            return self._pool._slabs.read(slot)

    @state.setter
    def state(self, state: Mapping[str, Array]) -> None:
        checked = self._pool._slabs.checked(state)
        with self._pool._scheduler.idle(self._seat) as slot:
            self._pool._slabs.write(slot, checked)

    def snapshot(self) -> bytes:
        """The state as bytes that outlive the process; `restore` takes them in any stream of the same bundle and precision.

        Raises:
            StreamError: steps are under way, or the stream has left.
        """
        return pack_snapshot(self._pool._identity, self.state)

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, taken here or of a stream of batch 1.

        Raises:
            SnapshotError: the bytes are no snapshot, are damaged, or belong to another bundle or precision; the state is as before.
            StreamError: steps are under way, or the stream has left.
        """
        self.state = unpack_snapshot(snapshot, self._pool._identity)

    def leave(self) -> None:
        """Cancel what waits, and free the place for another stream. A step that runs is delivered."""
        self._pool._scheduler.leave(self._seat)

    def _seat_in(self, pool: StreamPool) -> Seat:
        if pool is not self._pool:
            raise StreamError(f"{self._seat} belongs to another pool than the one it was given to")
        return self._seat

    def __del__(self) -> None:
        # Where `join` itself failed there is no seat.
        if hasattr(self, "_seat"):
            self._pool._scheduler.forget(self._seat)

    def __repr__(self) -> str:
        return f"PooledStream({self._seat.number}{', left' if self._seat.left else ''})"


def _now_and_deadline(deadline: float | None) -> tuple[float, float]:
    now = time.monotonic()
    if deadline is None:
        return now, math.inf
    if not deadline >= 0:
        raise UsageError(f"a deadline of {deadline} seconds was given; give 0 or more, or none")
    return now, now + deadline
