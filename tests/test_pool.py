"""Many streams in one pool: each is what it would be alone."""

from __future__ import annotations

import gc
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pool_models
import pytest
import runtime_models
from pool_models import opened
from pool_watch import Watched, assert_equal, ended_if_it_hangs, solo, sound

from edgeseq_runtime.errors import (
    InputError,
    PoolFull,
    SnapshotError,
    StepCancelled,
    StreamError,
)
from edgeseq_runtime.pool.batches import MAX_MEMORIES
from edgeseq_runtime.pool.kinds import MAX_KINDS, Kind
from edgeseq_runtime.pool.steps import Round, RoundStep, Seat
from edgeseq_runtime.pool.turns import Turns


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


@pytest.fixture(scope="module")
def tokens(folder):
    return opened(pool_models.token_gru(), folder)


KIND = Kind({}, ())


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
        turns.append(RoundStep(Round(), Seat(number, number), KIND, [], 0, np.inf))
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


def test_state_is_refused_while_steps_wait_or_run(lstm):
    with lstm.pool(workers=1) as pool:
        watched, waiting, running = Watched(pool), pool.join(), pool.join()
        state = {name: np.zeros((1, 1, 8), np.float32) for name in "hc"}

        def assert_refused(stream):
            for use in (lambda: stream.state, stream.reset, stream.snapshot, lambda: setattr(stream, "state", state)):
                with pytest.raises(StreamError, match="under way"):
                    use()

        with watched.held(sound(1)):
            future = waiting.submit(sound(1))
            assert_refused(waiting)
        future.result()
        watched._free.clear()
        future = running.submit(sound(1))
        assert watched._arrived.acquire(timeout=60)
        assert_refused(running)
        watched._free.set()
        future.result()
        assert set(running.state) == set(waiting.state) == {"h", "c"}


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
