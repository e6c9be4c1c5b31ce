"""Nothing that goes wrong in a pool touches another stream, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pool_models
import pytest
import runtime_models
from pool_models import opened
from pool_watch import BAD_WORD, Watched, assert_equal, ended_if_it_hangs, solo, sound, until, word

from edgeseq_runtime import TensorSpec
from edgeseq_runtime.errors import (
    InputError,
    PoolBusy,
    PoolClosed,
    StepCancelled,
    StreamError,
    UsageError,
)


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
