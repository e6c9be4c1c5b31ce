"""A pool under any order of events."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pool_models
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule
from pool_models import opened
from pool_watch import BAD_WORD, CLOSE, LATE, assert_equal, ended_if_it_hangs, solo, word

from edgeseq_runtime.errors import (
    DeadlineExceeded,
    InputError,
    PoolFull,
    StepCancelled,
)


@pytest.fixture(autouse=True)
def watchdog():
    with ended_if_it_hangs(120):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def tokens(folder):
    return opened(pool_models.token_gru(), folder)


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
