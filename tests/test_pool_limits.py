"""A pool's turns, places and deadlines."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import runtime_models
from pool_models import opened
from pool_watch import LATE, Watched, assert_equal, ended_if_it_hangs, solo, sound, until

from edgeseq_runtime.errors import (
    DeadlineExceeded,
    PoolBusy,
    StepCancelled,
    UsageError,
)
from edgeseq_runtime.pool.kinds import Kind
from edgeseq_runtime.pool.steps import Round, RoundStep, Seat
from edgeseq_runtime.pool.turns import Turns

KIND = Kind({}, ())


@pytest.fixture(autouse=True)
def watchdog():
    with ended_if_it_hangs(120):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def lstm(folder):
    return opened(runtime_models.lstm(), folder)


# Fairness and back-pressure


def test_a_flood_of_one_stream_delays_another_by_one_batch(lstm):
    with lstm.pool(workers=1, max_batch=1, per_stream=100) as pool:
        watched, flood, other = Watched(pool), pool.join(), pool.join()
        with watched.held(sound(1)):
            futures = [flood.submit(sound(1, seed)) for seed in range(100)]
            futures += [other.submit(sound(1, seed)) for seed in range(3)]
        for future in futures:
            future.result()
        one, two = flood._seat.number, other._seat.number
        assert [number for (number,) in watched.batches] == [one, two, one, two, one, two] + [one] * 97


def test_steps_beyond_the_places_of_a_stream_are_refused_or_wait(lstm):
    with lstm.pool(workers=1, per_stream=3) as pool:
        watched, stream = Watched(pool), pool.join()
        with watched.held(sound(1)), ThreadPoolExecutor(1) as threads:
            futures = [stream.submit(sound(1, seed)) for seed in range(3)]
            with pytest.raises(PoolBusy, match="wait=True"):
                stream.submit(sound(1, 3), wait=False)
            blocked = threads.submit(stream.submit, sound(1, 3))
            until(lambda: len(stream._seat.queue) == 4)
            assert not blocked.done()
            watched._free.set()
            futures.append(blocked.result())
        assert_equal([future.result() for future in futures], solo(lstm, [sound(1, seed) for seed in range(4)]))


def test_a_blocked_submit_goes_on_as_soon_as_a_step_before_it_has_started(lstm):
    with lstm.pool(workers=1, per_stream=2) as pool, ThreadPoolExecutor(1) as threads:
        watched, stream, told = Watched(pool), pool.join(), threading.Event()
        with watched.held(sound(1)):
            futures = [stream.submit(sound(1, seed)) for seed in range(2)]
            futures[0].add_done_callback(lambda _: told.wait(60))  # the worker stays there: the second step still waits
            blocked = threads.submit(stream.submit, sound(1, 2))
            until(lambda: len(stream._seat.queue) == 3)
            assert not blocked.done()
        futures.append(blocked.result(60))
        assert len(stream._seat.queue) == 2
        told.set()
        assert_equal([future.result() for future in futures], solo(lstm, [sound(1, seed) for seed in range(3)]))


def test_streams_that_flood_the_queue_leave_every_stream_its_own_place(lstm):
    with lstm.pool(workers=1, queue=4, per_stream=4) as pool:
        watched, floods, other = Watched(pool), [pool.join() for _ in range(3)], pool.join()
        with watched.held(sound(1)):
            futures = [stream.submit(sound(1), wait=False) for stream in (*floods, *floods, floods[0])]  # one each, and the queue
            for stream in floods:
                with pytest.raises(PoolBusy):
                    stream.submit(sound(1), wait=False)
            futures.append(other.submit(sound(1), wait=False))
        for future in futures:
            future.result()
        assert pool.stats.queued == 0


def test_many_threads_in_one_crowded_queue_all_get_through(lstm):
    with lstm.pool(workers=2, queue=2, per_stream=2, max_batch=3) as pool, ThreadPoolExecutor(12) as threads:

        def feed(seed):
            stream = pool.join()
            return [future.result() for future in [stream.submit(sound(1, seed + at)) for at in range(30)]]

        for seed, outputs in enumerate(threads.map(feed, range(24))):
            assert_equal(outputs, solo(lstm, [sound(1, seed + at) for at in range(30)]))
        turns = pool._scheduler._turns
        assert (turns.waiting, turns._shared_taken, len(turns._gated), len(turns._lanes)) == (0, 0, 0, 0)


# Deadlines


def test_a_step_that_is_too_late_is_not_run_and_takes_those_behind_it_along(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream = Watched(pool), pool.join()
        stream.step(sound(1))
        state = stream.state
        with watched.held(sound(1)):
            late = stream.submit(sound(1, 1), deadline=LATE)
            behind = [stream.submit(sound(1, 2)), stream.submit(sound(1, 3), deadline=60)]
        with pytest.raises(DeadlineExceeded, match=r"had not started .* ms after it was submitted"):
            late.result()
        for future in behind:
            with pytest.raises(StepCancelled, match="the one before it of stream 0 of the pool missed its deadline"):
                future.result()
        np.testing.assert_array_equal(stream.state["h"], state["h"])
        assert_equal([stream.step(sound(1, 4))], solo(lstm, [sound(1), sound(1, 4)])[1:])
        assert (pool.stats.missed_deadlines, pool.stats.cancelled) == (1, 2)


def test_a_late_step_in_the_middle_leaves_those_before_it(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream = Watched(pool), pool.join()
        with watched.held(sound(1)):
            futures = [stream.submit(sound(1, seed), deadline=deadline) for seed, deadline in enumerate((60, None, LATE, 60))]
        assert_equal([future.result() for future in futures[:2]], solo(lstm, [sound(1, 0), sound(1, 1)]))
        assert [type(future.exception()) for future in futures[2:]] == [DeadlineExceeded, StepCancelled]


def test_a_blocked_client_hears_of_its_deadline_while_the_workers_are_busy(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream, other = Watched(pool), pool.join(), pool.join()
        with watched.held(sound(1)):
            with pytest.raises(DeadlineExceeded):
                stream.step(sound(1), deadline=0.01)
            with pytest.raises(TimeoutError):
                other.step(sound(1), deadline=LATE)
            outcome = pool.step({stream: sound(1), other: sound(1)}, deadline=LATE)
            assert {type(error) for error in outcome.values()} == {DeadlineExceeded}
        assert_equal([stream.step(sound(1))], solo(lstm, [sound(1)]))


def test_a_submit_that_waits_for_a_place_waits_no_longer_than_its_deadline(lstm):
    with lstm.pool(workers=1, per_stream=1) as pool:
        watched, stream = Watched(pool), pool.join()
        with watched.held(sound(1)):
            first = stream.submit(sound(1))
            second = stream.submit(sound(1, 1), deadline=0.01)
            assert isinstance(second.exception(), DeadlineExceeded)
            assert not first.done()
        assert_equal([first.result(), stream.step(sound(1, 2))], solo(lstm, [sound(1), sound(1, 2)]))


def test_a_step_that_started_in_time_is_delivered_and_counted_as_late(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream, deadline = Watched(pool), pool.join(), 0.2
        watched._free.clear()
        future = stream.submit(sound(1), deadline=deadline)
        if not watched._arrived.acquire(timeout=60):
            raise AssertionError("the worker never took the step")
        threading.Event().wait(2 * deadline)
        watched._free.set()
        assert_equal([future.result()], solo(lstm, [sound(1)]))
        pool.join().step(sound(1))
        assert (pool.stats.late, pool.stats.missed_deadlines, pool.stats.steps) == (1, 0, 2)


def test_a_deadline_is_remembered_while_the_stream_is_in_a_workers_hands():
    turns, busy, other = Turns(shared=8, per_stream=8), Seat(0, 0), Seat(1, 1)
    turns.append(RoundStep(Round(), busy, KIND, [], 0, np.inf))
    turns.take(1)
    behind, late = RoundStep(Round(), busy, KIND, [], 0, 5), RoundStep(Round(), other, KIND, [], 0, 1)
    turns.append(behind)
    turns.append(late)
    assert [step for step, _ in turns.expire(2)] == [late]
    turns.give_back(busy)
    assert turns.expire(4) == []
    assert [step for step, _ in turns.expire(6)] == [behind]
    assert (turns.waiting, turns.ready) == (0, False)


@pytest.mark.parametrize("deadline", [-1, float("nan")])
def test_a_deadline_that_makes_no_sense_is_refused(lstm, deadline):
    with lstm.pool() as pool, pytest.raises(UsageError, match="give 0 or more"):
        pool.join().step(sound(1), deadline=deadline)
