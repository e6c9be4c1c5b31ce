"""Many streams in one pool: each is what it would be alone, and none can harm another."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pool_models
import pytest
import runtime_models
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule
from pool_models import opened

from edgeseq_runtime import TensorSpec
from edgeseq_runtime.errors import (
    DeadlineExceeded,
    InputError,
    PoolBusy,
    PoolClosed,
    PoolFull,
    SnapshotError,
    StepCancelled,
    StreamError,
    UsageError,
)
from edgeseq_runtime.pool.batches import MAX_MEMORIES
from edgeseq_runtime.pool.kinds import MAX_KINDS, Kind
from edgeseq_runtime.pool.steps import Seat, Step
from edgeseq_runtime.pool.turns import Turns

CLOSE = {"rtol": 0, "atol": 1e-6}  # of values up to 1: kernels for other batch sizes round differently
KIND = Kind({}, ())
LATE = 0.0  # a deadline that is over before any worker can look


@pytest.fixture(autouse=True)
def watchdog():
    with pool_models.ended_if_it_hangs(120):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def lstm(folder):
    return opened(runtime_models.lstm(), folder)


@pytest.fixture(scope="module")
def tokens(folder):
    return opened(pool_models.token_gru(), folder)


def sound(T, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((T, 1, 3)).astype(np.float32)}


def word(*numbers):
    return {"tokens": np.array(numbers, np.int32)[:, None]}


BAD_WORD = word(77)


def solo(session, steps):
    stream = session.stream()
    return [stream.step(step) for step in steps]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_allclose(one[name], other[name], **CLOSE)


class Watched:
    """Looks over the shoulders of a pool's workers: notes the batches they run, and holds them before the next on request."""

    def __init__(self, pool):
        self.pool, self.batches = pool, []
        self._free, self._arrived = threading.Event(), threading.Semaphore(0)
        self._free.set()
        for worker in pool._workers:
            worker._runner.run = self._watching(worker._runner.run)

    def _watching(self, run):
        def watched(steps):
            self.batches.append([step.seat.number for step in steps])
            if not self._free.is_set():
                self._arrived.release()
                assert self._free.wait(60)
            return run(steps)

        return watched

    @contextmanager
    def held(self, inputs):
        """Every worker has taken a step of its own and runs it only at the end; what is submitted meanwhile waits."""
        self._free.clear()
        streams = [self.pool.join() for _ in self.pool._workers]
        futures = []
        for stream in streams:
            futures.append(stream.submit(inputs))
            assert self._arrived.acquire(timeout=60)
        self.batches.clear()
        try:
            yield futures
        finally:
            self._free.set()
            for future, stream in zip(futures, streams, strict=True):
                future.result()
                stream.leave()


# Equal to a stream of its own


MODELS = [
    runtime_models.lstm(),
    runtime_models.gru(lengths=True),
    pool_models.memory_gru(),
    pool_models.two_layer_gru(),
    pool_models.token_gru(),
]


def steps_for(session, count, seed):
    """Pieces of several lengths, with whatever the model takes besides."""
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        sizes = {"T": int(rng.integers(1, 4)), "B": 1, "S": int(rng.integers(1, 3))}
        step = {}
        for spec in session.interface.data_inputs:
            shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
            integers = {"lengths": (1, sizes["T"] + 1), "tokens": (0, pool_models.TOKENS)}.get(spec.name)
            step[spec.name] = (rng.integers(*integers, shape) if integers else rng.standard_normal(shape)).astype(spec.dtype)
        steps.append(step)
    return steps


@pytest.mark.parametrize("way", ["step", "submit", "round"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.name}{len(model.inputs)}")
def test_every_stream_equals_its_solo_run(model, way, folder):
    sizes = ({"T": 2, "B": 2, "S": 2},) if model.name == "memory" else ({"T": 2, "B": 2},)
    session = opened(model, folder, sizes)
    work = [steps_for(session, 12, seed) for seed in range(10)]
    with session.pool(max_batch=4) as pool:
        watched, streams = Watched(pool), [pool.join() for _ in work]
        if way == "round":
            rounds = [pool.step(dict(zip(streams, each, strict=True))) for each in zip(*work, strict=True)]
            found = [[outputs[stream] for outputs in rounds] for stream in streams]
        elif way == "submit":
            futures = [[stream.submit(step) for step in steps] for stream, steps in zip(streams, work, strict=True)]
            found = [[future.result() for future in each] for each in futures]
        else:
            with ThreadPoolExecutor(len(work)) as threads:
                run = lambda stream, steps: [stream.step(step) for step in steps]  # noqa: E731
                found = list(threads.map(run, streams, work))
        for outputs, steps in zip(found, work, strict=True):
            assert_equal(outputs, solo(session, steps))
        assert max(map(len, watched.batches)) <= 4
        assert way != "round" or len(watched.batches) < 12 * 10


def test_a_batch_holds_what_is_ready_when_a_worker_is_free(lstm):
    with lstm.pool(workers=1, max_batch=4) as pool:
        watched, streams = Watched(pool), [pool.join() for _ in range(10)]
        with watched.held(sound(1)):
            futures = [stream.submit(sound(1)) for stream in streams]
        for future in futures:
            future.result()
        assert [len(batch) for batch in watched.batches] == [4, 4, 2]


@pytest.mark.parametrize(
    ("ready", "workers", "share"),
    [(0, 2, 0), (1, 2, 1), (7, 2, 7), (8, 2, 4), (9, 2, 5), (20, 2, 8), (8, 4, 4), (16, 4, 4), (8, 1, 8)],
)
def test_free_workers_share_what_is_ready_but_not_in_crumbs(ready, workers, share):
    turns = Turns(shared=1, per_stream=1)
    for number in range(ready):
        turns.append(Step(Seat(number, number), KIND, [], 0, np.inf))
    assert turns.share(workers, most=8) == share


def test_pieces_of_different_lengths_go_in_different_batches_oldest_first(lstm):
    with lstm.pool(workers=1) as pool:
        watched, streams = Watched(pool), [pool.join() for _ in range(6)]
        with watched.held(sound(1)):
            futures = [stream.submit(sound(1 + at % 2)) for at, stream in enumerate(streams)]
        for future in futures:
            future.result()
        numbers = [stream._seat.number for stream in streams]
        assert watched.batches == [numbers[::2], numbers[1::2]]


def test_steps_of_one_stream_never_run_at_the_same_time_and_keep_their_order(lstm):
    steps = [sound(1, seed) for seed in range(200)]
    with lstm.pool(workers=4, per_stream=200) as pool:
        streams = [pool.join() for _ in range(3)]
        order = {stream: [] for stream in streams}
        futures = []
        for at, step in enumerate(steps):
            for stream in streams:
                futures.append(stream.submit(step))
                futures[-1].add_done_callback(lambda _, stream=stream, at=at: order[stream].append(at))
        results = [future.result() for future in futures]
        for at in range(3):
            assert_equal(results[at::3], solo(lstm, steps))
        # A callback added after the end runs in this thread, so its place among the others is nobody's promise.
        assert all(sorted(seen) == list(range(200)) for seen in order.values())


def test_the_inputs_of_a_submitted_step_are_its_own(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream, buffer = Watched(pool), pool.join(), sound(1)
        with watched.held(sound(1)):
            futures = []
            for seed in range(3):
                buffer["x"][:] = sound(1, seed)["x"]
                futures.append(stream.submit(buffer))
            buffer["x"].fill(np.nan)
        assert_equal([future.result() for future in futures], solo(lstm, [sound(1, seed) for seed in range(3)]))


def test_a_workers_buffers_stay_within_bounds(lstm):
    with lstm.pool(workers=1) as pool:
        stream, steps = pool.join(), [sound(T) for T in range(1, 2 * MAX_MEMORIES)]
        assert_equal([stream.step(step) for step in steps], solo(lstm, steps))
        assert len(pool._workers[0]._runner._memories) == MAX_MEMORIES
        assert len(pool._admission._kinds) == MAX_KINDS


def test_outputs_are_arrays_of_the_callers_own(lstm):
    with lstm.pool() as pool:
        stream = pool.join()
        first = stream.step(sound(1))["y"]
        kept = first.copy()
        stream.step(sound(1, 1))
        np.testing.assert_array_equal(first, kept)
        assert first.base is None


# State


def test_a_slot_used_again_starts_from_zeros(lstm):
    with lstm.pool(capacity=1) as pool:
        for _ in range(3):
            stream = pool.join()
            assert_equal([stream.step(sound(2))], solo(lstm, [sound(2)]))
            stream.leave()


def test_state_is_read_set_and_reset_and_goes_to_and_from_a_stream(lstm):
    steps = [sound(1, seed) for seed in range(6)]
    with lstm.pool() as pool:
        one, other, alone = pool.join(), pool.join(), lstm.stream()
        assert_equal([one.step(step) for step in steps[:3]], solo(lstm, steps[:3]))
        alone.state = one.state
        other.state = alone.state
        after = [one.step(step) for step in steps[3:]]
        assert_equal([other.step(step) for step in steps[3:]], after)
        assert_equal([alone.step(step) for step in steps[3:]], after)
        one.reset()
        assert_equal([one.step(steps[0])], solo(lstm, steps[:1]))
        with pytest.raises(InputError, match="missing"):
            one.state = {}
        with pytest.raises(InputError, match="size 2 in dimension 1"):
            one.state = {name: np.zeros((1, 2, 8), np.float32) for name in "hc"}


def test_a_snapshot_goes_between_pools_and_streams_of_one_model_only(lstm, tokens):
    with lstm.pool() as pool, lstm.pool() as elsewhere, tokens.pool() as foreign:
        stream, other, alone = pool.join(), elsewhere.join(), lstm.stream()
        stream.step(sound(3))
        snapshot = stream.snapshot()
        other.restore(snapshot)
        alone.restore(other.snapshot())
        expected = stream.step(sound(2, 1))
        assert_equal([other.step(sound(2, 1)), alone.step(sound(2, 1))], [expected] * 2)
        stream.restore(snapshot)
        assert_equal([stream.step(sound(2, 1))], [expected])
        with pytest.raises(SnapshotError, match="belongs to the model"):
            foreign.join().restore(snapshot)


def test_state_is_refused_while_steps_are_under_way(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream = Watched(pool), pool.join()
        with watched.held(sound(1)):
            future = stream.submit(sound(1))
            for use in (
                lambda: stream.state,
                stream.reset,
                lambda: setattr(stream, "state", {n: np.zeros((1, 1, 8), np.float32) for n in "hc"}),
            ):
                with pytest.raises(StreamError, match="under way"):
                    use()
        future.result()
        assert set(stream.state) == {"h", "c"}


def test_the_client_may_read_the_state_as_soon_as_it_has_the_outputs(lstm):
    with lstm.pool() as pool:
        stream, states = pool.join(), []
        for seed in range(50):
            future = stream.submit(sound(1, seed))
            future.add_done_callback(lambda _: states.append(stream.state["h"]))
            future.result()
            stream.state  # noqa: B018
        assert len(states) == 50


# Joining and leaving


def test_a_full_pool_takes_no_stream_until_one_leaves(lstm):
    with lstm.pool(capacity=2) as pool:
        streams = [pool.join(), pool.join()]
        with pytest.raises(PoolFull, match=re.escape("all 2 slots of the pool are taken")):
            pool.join()
        streams[0].step(sound(1))
        streams[0].leave()
        streams[0].leave()  # again is no harm
        streams.append(pool.join())
        with pytest.raises(PoolFull):
            pool.join()


def test_a_stream_that_has_left_takes_no_more_steps_and_harms_not_its_successor(lstm):
    with lstm.pool(capacity=1) as pool:
        gone = pool.join()
        gone.leave()
        stream = pool.join()
        stream.step(sound(1))
        for use in (lambda: gone.step(sound(1)), lambda: gone.submit(sound(1)), gone.reset, lambda: gone.state):
            with pytest.raises(StreamError, match="has left"):
                use()
        gone.leave()
        assert_equal([stream.step(sound(1, 1))], solo(lstm, [sound(1), sound(1, 1)])[1:])
        assert pool.stats.streams == 1


def test_leaving_cancels_what_waits_and_delivers_what_runs(lstm):
    with lstm.pool(workers=1, capacity=2) as pool:
        watched = Watched(pool)
        stream = pool.join()
        watched._free.clear()
        running = stream.submit(sound(1))
        assert watched._arrived.acquire(timeout=60)
        waiting = [stream.submit(sound(1)) for _ in range(3)]
        stream.leave()
        for future in waiting:
            with pytest.raises(StepCancelled, match="left"):
                future.result()
        other = pool.join()
        with pytest.raises(PoolFull):  # the slot of a step that runs is not given away
            pool.join()
        watched._free.set()
        assert_equal([running.result()], solo(lstm, [sound(1)]))
        assert_equal([other.step(sound(2))], solo(lstm, [sound(2)]))
        assert_equal([pool.join().step(sound(2))], solo(lstm, [sound(2)]))


def test_a_stream_nobody_refers_to_leaves_once_its_steps_are_done(lstm):
    with lstm.pool(workers=1, capacity=2) as pool:
        watched = Watched(pool)
        with watched.held(sound(1)):
            future = pool.join().submit(sound(1))
            gc.collect()
            with pytest.raises(PoolFull):
                pool.join()
        assert_equal([future.result()], solo(lstm, [sound(1)]))
        del future
        pool.join().step(sound(1))  # once this is done, so is the worker with what was before it
        assert_equal([pool.join().step(sound(1))], solo(lstm, [sound(1)]))


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


def until(condition):
    """Wait for something another thread is about to do."""
    for _ in range(60_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never happened")


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


@pytest.mark.parametrize("deadline", [-1, float("nan")])
def test_a_deadline_that_makes_no_sense_is_refused(lstm, deadline):
    with lstm.pool() as pool, pytest.raises(UsageError, match="give 0 or more"):
        pool.join().step(sound(1), deadline=deadline)


# Bad input


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing: \\['x'\\]"),
        ([], "list; give a dict"),
        ({"z": sound(1)["x"]}, "unknown: \\['z'\\]"),
        ({"x": sound(1)["x"].astype(np.float64)}, "dtype float64"),
        ({"x": sound(1)["x"][0]}, "2 dimensions"),
        ({"x": np.zeros((1, 2, 3), np.float32)}, "axis 'B' has size 2; a stream of a pool is one sequence"),
        ({"x": sound(1)["x"][:0]}, "is empty: axis 'T'"),
        ({"x": sound(1)["x"].tolist()}, "list; give a numpy array"),
        ({**sound(1), "h": np.zeros((1, 1, 8), np.float32)}, "keeps \\['h'\\] itself"),
    ],
)
def test_a_wrong_input_is_refused_on_the_clients_thread(lstm, inputs, message, warm):
    with lstm.pool() as pool:
        stream = pool.join()
        if warm:
            stream.step(sound(1))
        before = stream.state
        for use in (stream.step, stream.submit, lambda inputs: pool.step({stream: inputs})[stream]):
            try:
                outcome = use(inputs)
            except InputError as error:
                outcome = error
            assert isinstance(outcome, InputError)
            assert re.search(message, str(outcome))
        assert all((stream.state[name] == value).all() for name, value in before.items())
        assert pool.stats.failures == 0


def test_lengths_are_checked_each_time(folder):
    session = opened(runtime_models.gru(lengths=True), folder)
    with session.pool() as pool:
        stream = pool.join()
        for wrong in (0, 3, 2, 0, 3):
            inputs = {**sound(2), "lengths": np.array([wrong], np.int64)}
            if wrong == 2:
                stream.step(inputs)
            else:
                with pytest.raises(InputError, match=r"must be in 1\.\.2"):
                    stream.step(inputs)


def test_one_bad_member_of_a_batch_fails_alone(tokens):
    with tokens.pool(workers=1, max_batch=16) as pool:
        watched, streams = Watched(pool), [pool.join() for _ in range(11)]
        outcome = pool.step({stream: word(at % 5) for at, stream in enumerate(streams)})
        states = [stream.state["h"] for stream in streams]
        with watched.held(word(1)):
            futures = [stream.submit(BAD_WORD if at in (0, 7) else word(1)) for at, stream in enumerate(streams)]
            behind = streams[7].submit(word(2))
        for at, (stream, future) in enumerate(zip(streams, futures, strict=True)):
            if at in (0, 7):
                with pytest.raises(InputError, match="out of data bounds"):
                    future.result()
                np.testing.assert_array_equal(stream.state["h"], states[at])
            else:
                assert_equal([outcome[stream], future.result()], solo(tokens, [word(at % 5), word(1)]))
        with pytest.raises(StepCancelled, match="the one before it of stream 7 of the pool failed"):
            behind.result()
        assert len(watched.batches[0]) == 11
        assert (pool.stats.failures, pool.stats.cancelled) == (2, 1)
        for at in (0, 7):  # and they go on from where they were
            assert_equal([streams[at].step(word(3))], solo(tokens, [word(at % 5), word(3)])[1:])


def test_a_stream_that_failed_is_run_alone_until_it_succeeds(tokens):
    with tokens.pool(workers=1) as pool:
        watched, streams = Watched(pool), [pool.join() for _ in range(4)]
        bad = streams[2]
        pool.step({stream: BAD_WORD if stream is bad else word(1) for stream in streams})
        for inputs in (BAD_WORD, word(1), word(1)):
            with watched.held(word(1)):
                futures = [stream.submit(inputs if stream is bad else word(1)) for stream in streams]
            [future.exception() for future in futures]
            sizes = sorted(map(len, watched.batches))
            assert sizes == [1, 3] or (sizes == [4] and inputs is not BAD_WORD)
        assert sizes == [4]


def test_nan_in_one_stream_stays_there(lstm):
    steps = [sound(1, seed) for seed in range(8)]
    with lstm.pool(workers=1) as pool:
        streams = [pool.join() for _ in range(5)]
        sick = {"x": np.full_like(steps[0]["x"], np.nan)}
        for step, expected, nonsense in zip(steps, solo(lstm, steps), solo(lstm, [sick] * 8), strict=True):
            outcome = pool.step({stream: sick if at == 2 else step for at, stream in enumerate(streams)})
            assert_equal([outcome.pop(streams[2])], [nonsense])
            assert_equal(list(outcome.values()), [expected] * 4)


def test_a_round_gives_each_stream_its_outputs_or_its_own_error(tokens):
    with tokens.pool() as pool, tokens.pool() as elsewhere:
        good, bad, wrong, gone, strange = (pool.join(), pool.join(), pool.join(), pool.join(), elsewhere.join())
        gone.leave()
        outcome = pool.step({good: word(1), bad: BAD_WORD, wrong: {}, gone: word(1), strange: word(1)})
        assert_equal([outcome[good]], solo(tokens, [word(1)]))
        assert "out of data bounds" in str(outcome[bad])
        assert "missing" in str(outcome[wrong])
        assert "has left" in str(outcome[gone])
        assert "belongs to another pool" in str(outcome[strange])
        assert pool.step({}) == {}


# Futures


def test_a_cancelled_future_is_not_run_and_takes_those_behind_it_along(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream = Watched(pool), pool.join()
        with watched.held(sound(1)):
            futures = [stream.submit(sound(1, seed)) for seed in range(4)]
            assert futures[1].cancel()
        assert_equal([futures[0].result()], solo(lstm, [sound(1, 0)]))
        with pytest.raises(CancelledError):
            futures[1].result()
        for future in futures[2:]:
            with pytest.raises(StepCancelled, match="cancelled by its client"):
                future.result()
        assert_equal([stream.step(sound(1, 5))], solo(lstm, [sound(1, 0), sound(1, 5)])[1:])


def test_a_stream_whose_steps_were_all_cancelled_is_idle(lstm):
    with lstm.pool(workers=1) as pool:
        watched, stream = Watched(pool), pool.join()
        with watched.held(sound(1)):
            cancelled, behind = stream.submit(sound(1)), stream.submit(sound(1))
            assert cancelled.cancel()
            assert not any(value.any() for value in stream.state.values())
            assert isinstance(behind.exception(), StepCancelled)
        assert pool.stats.steps == 1


def test_callbacks_may_use_the_pool_and_even_raise(lstm, caplog):
    with lstm.pool(workers=1, per_stream=1) as pool:
        watched, stream, chained, refused = Watched(pool), pool.join(), [], []

        def go_on(_):
            chained.append(stream.submit(sound(1, 1)))
            with pytest.raises(PoolBusy):
                stream.submit(sound(1, 2))  # would wait for a place that only its own thread can make
            with pytest.raises(StreamError, match="use submit"):
                stream.step(sound(1, 2))
            refused.append(True)
            raise SystemExit

        with watched.held(sound(1)):
            first = stream.submit(sound(1))
            first.add_done_callback(go_on)
        until(lambda: refused)
        assert_equal([first.result(), chained[0].result()], solo(lstm, [sound(1), sound(1, 1)]))
        assert "callback of a step's future raised" in caplog.text


def test_an_event_loop_awaits_a_future_or_a_round(lstm):
    async def serve(pool):
        one, other = pool.join(), pool.join()
        first = await asyncio.wrap_future(one.submit(sound(1)))
        outcome = await asyncio.get_running_loop().run_in_executor(None, pool.step, {one: sound(1, 1), other: sound(1)})
        return [first, outcome[one], outcome[other]]

    with lstm.pool() as pool:
        assert_equal(asyncio.run(serve(pool)), solo(lstm, [sound(1), sound(1, 1)]) + solo(lstm, [sound(1)]))


# The end


def test_closing_cancels_what_waits_and_finishes_what_runs(lstm):
    pool = lstm.pool(workers=1, per_stream=2)
    watched, stream, other = Watched(pool), pool.join(), pool.join()
    with ThreadPoolExecutor(4) as threads:
        with watched.held(sound(1)) as running:
            waiting = [stream.submit(sound(1)) for _ in range(2)]
            blocked = threads.submit(stream.submit, sound(1))
            stepping = threads.submit(other.step, sound(1))
            until(lambda: pool.stats.queued == 4)
            closing = threads.submit(pool.close)
            for future in [*waiting, stepping, blocked.result()]:
                with pytest.raises(StepCancelled, match="the pool was closed"):
                    future.result()
            assert not closing.done()
            for leaving in list(running):
                assert not leaving.done()
        closing.result()
    assert_equal([running[0].result()], solo(lstm, [sound(1)]))
    assert not any(worker.is_alive() for worker in pool._workers)
    pool.close()
    for use in (lambda: stream.step(sound(1)), lambda: stream.submit(sound(1)), pool.join, lambda: stream.state):
        with pytest.raises(PoolClosed, match=r"make another: session.pool\(\)"):
            use()
    stream.leave()


def test_followers_of_a_running_step_are_cancelled_too_when_the_pool_closes(lstm):
    pool = lstm.pool(workers=1)
    watched, stream = Watched(pool), pool.join()
    watched._free.clear()
    running, behind = stream.submit(sound(1)), stream.submit(sound(1))
    assert watched._arrived.acquire(timeout=60)
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(pool.close)
        until(lambda: pool._scheduler._closed)
        watched._free.set()
        closing.result()
    assert_equal([running.result()], solo(lstm, [sound(1)]))
    assert isinstance(behind.exception(), StepCancelled)


def test_a_pool_nobody_refers_to_ends_its_workers(lstm):
    pool = lstm.pool()
    workers, stream = pool._workers, pool.join()
    del pool
    gc.collect()
    stream.step(sound(1))  # its stream keeps it
    del stream
    gc.collect()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()


SCRIPT = """
import os, sys, threading
import numpy as np
import edgeseq_runtime
pool = edgeseq_runtime.load(sys.argv[1]).pool()
stream = pool.join()
x = {"x": np.zeros((20_000, 1, 3), np.float32)}
"""


def run_script(lines, lstm, folder):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT + lines, folder / "lstm.edgeseq"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_interpreter_ends_though_nobody_closed_the_pool(lstm, folder):
    assert run_script("futures = [stream.submit(x) for _ in range(8)]\nprint('end')", lstm, folder) == "end\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_to_make_a_pool_of_its_own(lstm, folder):
    lines = """
stream.step(x)
future = stream.submit(x)
if os.fork() == 0:
    for use in (lambda: stream.step(x), pool.join):
        try:
            use()
        except edgeseq_runtime.errors.PoolClosed as error:
            print(error, flush=True)
    pool.close()
    os._exit(0)  # at a normal exit ONNX Runtime itself hangs in a forked child, with or without a pool
assert os.wait()[1] == 0
print(future.result()["y"].shape)
"""
    *child, parent = run_script(lines, lstm, folder).splitlines()
    assert len(child) == 2
    assert all("made before the process forked" in line for line in child)
    assert parent == "(20000, 1, 8)"


# What can't be pooled


def without_batch():
    base = runtime_models.gru()
    inputs = (base.inputs[0], TensorSpec("h", "float32", (1, "M", 8)))
    outputs = (base.outputs[0], TensorSpec("h_out", "float32", (1, "M", 8)))
    return pool_models.replace(base, name="unbatched", inputs=inputs, outputs=outputs)


@pytest.mark.parametrize(
    ("model", "sizes", "message"),
    [
        (runtime_models.bidirectional_rnn(), {"T": 2, "B": 2}, "declares no state"),
        (without_batch(), {"T": 2, "B": 2, "M": 2}, re.escape("along the axis 'B', which must be once in each tensor; found h")),
        (runtime_models.strided_gru(), {"T": 2, "B": 2}, "size of the output y.* is computed by the model"),
        (pool_models.centred_gru(), {"T": 2, "B": 2}, "output 'y' for one sequence changes when the other"),
    ],
    ids=["no state", "no batch axis", "computed size", "members see each other"],
)
def test_what_cannot_be_pooled_is_refused_with_the_reason(model, sizes, message, folder):
    session = opened(model, folder, (sizes,))
    before = threading.active_count()
    with pytest.raises(StreamError, match=message):
        session.pool()
    assert threading.active_count() == before


def test_a_model_quantised_at_run_time_is_refused(folder):
    session = opened(pool_models.quantised_lstm(folder), folder)
    with pytest.raises(StreamError, match="Quantisation at run time does that"):
        session.pool()


@pytest.mark.parametrize(
    "sizes", [{"capacity": 0}, {"max_batch": 0}, {"queue": 0}, {"per_stream": -1}, {"workers": 0}, {"queue": 1.5}]
)
def test_sizes_that_make_no_sense_are_refused(lstm, sizes):
    with pytest.raises(UsageError, match="give 1 or more"):
        lstm.pool(**sizes)


# Any order of events


class AnySchedule(RuleBasedStateMachine):
    """Streams of one pool under every order of calls, each compared with a stream that was fed what the pool accepted."""

    session = None  # set by the test below
    streams = Bundle("streams")

    def __init__(self):
        super().__init__()
        self.pool = self.session.pool(capacity=3, max_batch=2, queue=2, per_stream=2)
        self.alive = []

    @rule(target=streams)
    def join(self):
        if len(self.alive) == 3:
            with pytest.raises(PoolFull):
                self.pool.join()
            return None
        self.alive.append((self.pool.join(), []))
        return self.alive[-1]

    @rule(stream=consumes(streams))
    def leave(self, stream):
        if stream is not None:
            self.settle(stream)
            stream[0].leave()
            self.alive.remove(stream)

    @rule(stream=streams, number=st.integers(0, 4), bad=st.booleans(), deadline=st.sampled_from([None, LATE, 60]))
    def submit(self, stream, number, bad, deadline):
        if stream is not None:
            inputs = BAD_WORD if bad else word(number)
            stream[1].append((inputs, stream[0].submit(inputs, deadline=deadline)))

    @rule(stream=streams, numbers=st.lists(st.integers(0, 4), max_size=3))
    def step(self, stream, numbers):
        if stream is not None:
            for number in numbers:
                future: Future = Future()
                try:
                    future.set_result(stream[0].step(word(number)))
                except StepCancelled as error:
                    future.set_exception(error)
                stream[1].append((word(number), future))

    @rule(stream=streams)
    def reset(self, stream):
        if stream is not None:
            self.settle(stream)
            stream[0].reset()
            stream[1].clear()

    def settle(self, stream):
        """Everything under way has ended, and what was delivered is what a stream of its own gives."""
        done = [(inputs, future) for inputs, future in stream[1] if future.exception() is None]
        for _, future in stream[1]:
            assert isinstance(future.exception(), None | InputError | DeadlineExceeded | StepCancelled)
        assert_equal([future.result() for _, future in done], solo(self.session, [inputs for inputs, _ in done]))
        alone = self.session.stream()
        for inputs, _ in done:
            alone.step(inputs)
        np.testing.assert_allclose(stream[0].state["h"], alone.state["h"], **CLOSE)

    def teardown(self):
        for stream in self.alive:
            self.settle(stream)
        self.pool.close()
        assert not any(worker.is_alive() for worker in self.pool._workers)
        assert self.pool._scheduler._turns.waiting == 0


def test_any_order_of_events(tokens):
    AnySchedule.session = tokens
    test = AnySchedule.TestCase
    test.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
    test().runTest()
