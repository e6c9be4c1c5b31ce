"""A pool under 200 streams that join, leave, fail and time out at random: each is what it would be alone, and nothing leaks.

Each client takes one stream after another through a life of random steps, notes what the pool accepted, and at the end of the
life gives the same to a stream of its own.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import Future

import numpy as np
import pool_models
import pytest
from pool_watch import ended_if_it_hangs

from edgeseq_runtime.errors import DeadlineExceeded, InputError, PoolBusy, PoolFull, StepCancelled

STREAMS = 200
CLIENTS = 220  # some are turned away at a full pool, and come again
SECONDS = 60
SHORT_SECONDS = 3
STEPS_OF_A_LIFE = 40
TOLERANCE = 1e-6

BAD_DTYPE = {"tokens": np.zeros((1, 1), np.float32)}  # refused on the client's thread
BAD_TOKEN = {"tokens": np.full((1, 1), 77, np.int32)}  # refused by ONNX Runtime, in the middle of a batch


@pytest.fixture(autouse=True)
def watchdog():
    with ended_if_it_hangs(SECONDS + 240):
        yield


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return pool_models.opened(pool_models.token_gru(), tmp_path_factory.mktemp("bundles"))


class Client:
    """Lives one life after another until the time is over."""

    def __init__(self, session, pool, seed, until):
        self.session, self.pool, self.until = session, pool, until
        self.random = random.Random(seed)
        self.seen = Counter()
        self.error = None

    def __call__(self):
        try:
            while time.monotonic() < self.until:
                self.live()
        except BaseException as error:
            self.error = error

    def live(self):
        try:
            stream = self.pool.join()
        except PoolFull:
            self.seen["full"] += 1
            time.sleep(0.001)
            return
        self.seen["lives"] += 1
        history: list[tuple[dict, Future | dict]] = []
        for _ in range(self.random.randrange(STEPS_OF_A_LIFE)):
            getattr(self, self.random.choice(ACTIONS))(stream, history)
        if self.random.random() < 0.5:
            self.compare(history)
            expected = self.replayed(history)
            assert np.abs(stream.state["h"] - expected["h"]).max() <= TOLERANCE
            stream.leave()
        else:
            stream.leave()  # with steps under way
            self.compare(history)

    def inputs(self):
        steps = self.random.choice((1, 1, 1, 2))
        return {"tokens": np.array([[self.random.randrange(pool_models.TOKENS)] for _ in range(steps)], np.int32)}

    def submit(self, stream, history):
        inputs = self.inputs()
        history.append((inputs, stream.submit(inputs)))

    def hurry(self, stream, history):
        """A deadline that some steps meet and others miss."""
        inputs = self.inputs()
        history.append((inputs, stream.submit(inputs, deadline=self.random.choice((0, 0.001, 0.01, 0.1)))))

    def flood(self, stream, history):
        try:
            for _ in range(20):
                inputs = self.inputs()
                history.append((inputs, stream.submit(inputs, wait=False)))
        except PoolBusy:
            self.seen["busy"] += 1

    def step(self, stream, history):
        inputs = self.inputs()
        try:
            history.append((inputs, stream.step(inputs, deadline=self.random.choice((None, 0.01)))))
        except (DeadlineExceeded, StepCancelled) as error:
            self.seen[type(error).__name__] += 1

    def fail(self, stream, history):
        history.append((BAD_TOKEN, stream.submit(BAD_TOKEN)))

    def misspell(self, stream, history):
        with pytest.raises(InputError, match="dtype float32"):
            stream.submit(BAD_DTYPE)
        self.seen["misspelt"] += 1

    def cancel(self, stream, history):
        inputs = self.inputs()
        future = stream.submit(inputs)
        if future.cancel():
            self.seen["cancelled"] += 1
        else:
            history.append((inputs, future))

    def rest(self, stream, history):
        time.sleep(self.random.random() * 0.005)

    def settle(self, stream, history):
        """Wait for all, compare, and go on from zeros."""
        self.compare(history)
        stream.reset()
        history.clear()

    def delivered(self, history):
        """Inputs and outputs of the steps that were run, in their order; the reason of every other."""
        for inputs, outcome in history:
            error = None if isinstance(outcome, dict) else outcome.exception(60)
            if error is None:
                yield inputs, outcome if isinstance(outcome, dict) else outcome.result()
            else:
                assert isinstance(error, InputError | DeadlineExceeded | StepCancelled)
                assert not isinstance(error, InputError) or inputs is BAD_TOKEN
                self.seen[type(error).__name__] += 1

    def compare(self, history):
        alone = self.session.stream()
        for inputs, outputs in self.delivered(history):
            assert inputs is not BAD_TOKEN
            expected = alone.step(inputs)
            assert outputs.keys() == expected.keys()
            assert np.abs(outputs["y"] - expected["y"]).max() <= TOLERANCE
            self.seen["compared"] += 1

    def replayed(self, history):
        alone = self.session.stream()
        for inputs, _ in self.delivered(history):
            alone.step(inputs)
        return alone.state


ACTIONS = (*["submit"] * 8, *["step"] * 4, "hurry", "hurry", "flood", "fail", "misspell", "cancel", "rest", "settle")


def soak(session, seconds):
    with session.pool(capacity=STREAMS, queue=STREAMS, per_stream=6) as pool:
        until = time.monotonic() + seconds
        clients = [Client(session, pool, seed, until) for seed in range(CLIENTS)]
        threads = [threading.Thread(target=client) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 120)
        assert not any(thread.is_alive() for thread in threads)
        for client in clients:
            if client.error is not None:
                raise client.error
        stats, turns = pool.stats, pool._scheduler._turns
        assert (stats.streams, stats.queued) == (0, 0)
        assert (turns._shared_taken, len(turns._gated), len(turns._lanes)) == (0, 0, 0)
        everyone = [pool.join() for _ in range(pool.sizes.capacity)]
        assert len({stream._seat.slot for stream in everyone}) == pool.sizes.capacity
        seen = sum((client.seen for client in clients), Counter())
        assert all(
            seen[what] > 0 for what in ("full", "busy", "misspelt", "cancelled", "InputError", "DeadlineExceeded", "StepCancelled")
        )
        assert seen["lives"] > STREAMS
        assert seen["compared"] > 10 * STREAMS
        return seen, stats


def test_streams_that_come_and_go_and_fail_equal_their_solo_runs(session):
    soak(session, SHORT_SECONDS)


@pytest.mark.slow
def test_a_minute_of_streams_that_come_and_go_and_fail(session):
    seen, stats = soak(session, SECONDS)
    print(dict(seen), stats)
