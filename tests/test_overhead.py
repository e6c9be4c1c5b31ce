"""What a call costs beside the computing: what is looked at again, what is not, and what is allocated."""

from __future__ import annotations

import os
import pickle
import statistics
import sys
import time
import tracemalloc
from collections import OrderedDict
from itertools import cycle
from pathlib import Path
from types import MappingProxyType

import numpy as np
import overhead_models
import pytest
import runtime_models

import edgeseq_runtime
from edgeseq_runtime.errors import InputError

ONE_CASE = ({"T": 4, "B": 2},)
STEPS = 1000
NAMES = ("lstm", "lengths", "stacked")


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    models = {
        "lstm": runtime_models.lstm(),
        "lengths": runtime_models.lstm(lengths=True),
        "stacked": overhead_models.stacked_lstm(),
    }
    return {
        name: (model, edgeseq_runtime.load(model.write(folder / f"{name}.edgeseq", ONE_CASE, draws=1)))
        for name, model in models.items()
    }


def drawn(model, T=1, B=1, seed=0):
    return model.draw({"T": T, "B": B}, np.random.default_rng(seed))


def data_of(model, inputs):
    return {name: array for name, array in inputs.items() if name not in model.state}


def assert_equal(outputs, expected):
    assert set(outputs) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, atol=2e-6)


# The same values, and as strict, the second time as the first.


@pytest.mark.parametrize("name", NAMES)
def test_calls_alike_in_everything_but_values_equal_the_equations(name, sessions):
    model, session = sessions[name]
    for seed in range(3):
        for T, B in ((1, 1), (5, 3), (2, 40)):
            inputs = drawn(model, T, B, seed)
            assert_equal(session.run(inputs), model.expect(inputs))
            zeros = {name: np.zeros_like(array) for name, array in inputs.items() if name in model.state}
            assert_equal(session.run(data_of(model, inputs)), model.expect(inputs | zeros))


@pytest.mark.parametrize("name", NAMES)
def test_steps_alike_in_everything_but_values_equal_the_equations(name, sessions):
    model, session = sessions[name]
    stream, state = session.stream(3), {key: np.zeros((1, 3, 8 if name != "stacked" else 32), np.float32) for key in model.state}
    for seed, T in enumerate([1, 1, 4, 1, 4, 4, 1]):
        data = data_of(model, drawn(model, T, 3, seed))
        expected = model.expect(data | state)
        outputs = stream.step(data, copy=seed % 2 == 0)
        assert_equal(outputs, {key: array for key, array in expected.items() if key not in model.state.values()})
        state = {key: expected[output].astype(np.float32) for key, output in model.state.items()}


class Subclass(np.ndarray):
    """An array of another class, as memory maps are."""


def swapped(array):
    return array.astype(array.dtype.newbyteorder())


WRONG = {
    "no dict": lambda inputs: list(inputs.values()),
    "one missing": lambda inputs: {name: inputs[name] for name in list(inputs)[1:]},
    "one more": lambda inputs: inputs | {"z": inputs["x"]},
    "another name": lambda inputs: {name.replace("x", "z"): array for name, array in inputs.items()},
    "float64": lambda inputs: inputs | {"x": inputs["x"].astype(np.float64)},
    "int32 of the same size": lambda inputs: inputs | {"x": inputs["x"].view(np.int32)},
    "another byte order": lambda inputs: inputs | {"x": swapped(inputs["x"])},
    "a list": lambda inputs: inputs | {"x": inputs["x"].tolist()},
    "masked": lambda inputs: inputs | {"x": np.ma.masked_array(inputs["x"])},
    "another size": lambda inputs: inputs | {"x": inputs["x"][..., :2]},
    "another batch": lambda inputs: inputs | {"x": np.concatenate([inputs["x"]] * 2, axis=1)},
    "no steps": lambda inputs: inputs | {"x": inputs["x"][:0]},
    "one dimension less": lambda inputs: inputs | {"x": inputs["x"][0]},
    "lengths of 0": lambda inputs: inputs | {"lengths": np.zeros_like(inputs["lengths"])},
    "lengths below 0": lambda inputs: inputs | {"lengths": -inputs["lengths"]},
    "a last length of 0": lambda inputs: inputs | {"lengths": inputs["lengths"] * (np.arange(len(inputs["lengths"])) < 39)},
    "lengths past the end": lambda inputs: inputs | {"lengths": inputs["lengths"] * 100},
    "a last length past the end": lambda inputs: (
        inputs | {"lengths": inputs["lengths"] + 7 * (np.arange(len(inputs["lengths"])) == 39)}
    ),
    "lengths that wrap round": lambda inputs: inputs | {"lengths": inputs["lengths"].astype(np.int64) + 2**32},
    "unsigned lengths past the end": lambda inputs: inputs | {"lengths": inputs["lengths"].astype(np.uint64) + np.uint64(2**63)},
    "lengths with a fraction": lambda inputs: inputs | {"lengths": inputs["lengths"].astype(np.float32)},
    "lengths of bools": lambda inputs: inputs | {"lengths": inputs["lengths"].astype(np.bool_)},
    "too few lengths": lambda inputs: inputs | {"lengths": inputs["lengths"][:-1]},
}


def refusal(call, inputs):
    with pytest.raises(InputError) as caught:
        call(inputs)
    return str(caught.value)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("states", [False, True], ids=["state left out", "state given"])
def test_what_a_first_call_refuses_a_later_one_refuses_in_the_same_words(wrong, states, sessions):
    model, warm = sessions["lengths"]
    good = drawn(model, 3, 40) if states else data_of(model, drawn(model, 3, 40))
    fresh = edgeseq_runtime.Session(warm._model, warm.interface, warm.plan)
    bad = WRONG[wrong](good)
    expected = warm.run(good)
    assert refusal(warm.run, bad) == refusal(fresh.run, bad)
    assert_equal(warm.run(good), expected)


@pytest.mark.parametrize("wrong", [name for name in WRONG if name != "a last length of 0"])
@pytest.mark.parametrize("batch", [1, 40])
def test_what_a_first_step_refuses_a_later_one_refuses_in_the_same_words(wrong, batch, sessions):
    model, session = sessions["lengths"]
    warm, fresh = session.stream(batch), session.stream(batch)
    good = data_of(model, drawn(model, 3, batch))
    bad = WRONG[wrong](good)
    if wrong == "a last length past the end" and batch == 1:
        bad = WRONG["lengths past the end"](good)
    warm.step(good)
    before = warm.state
    assert refusal(warm.step, bad) == refusal(fresh.step, bad)
    assert all(np.array_equal(warm.state[name], array) for name, array in before.items())


RIGHT = {
    "an ordered dict": OrderedDict,
    "a mapping that is no dict": MappingProxyType,
    "in another order": lambda inputs: dict(reversed(inputs.items())),
    "unpickled": lambda inputs: pickle.loads(pickle.dumps(inputs)),
    "a subclass of array": lambda inputs: {name: array.view(Subclass) for name, array in inputs.items()},
    "read-only": lambda inputs: {name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in inputs.items()},
    "with gaps": lambda inputs: inputs | {"x": np.repeat(inputs["x"], 2, axis=2)[..., ::2]},
    "Fortran order": lambda inputs: inputs | {"x": np.asfortranarray(inputs["x"])},
    "lengths of int64": lambda inputs: inputs | {"lengths": inputs["lengths"].astype(np.int64)},
    "lengths of uint8": lambda inputs: inputs | {"lengths": inputs["lengths"].astype(np.uint8)},
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_a_first_call_takes_a_later_one_takes(kind, sessions):
    model, session = sessions["lengths"]
    good = data_of(model, drawn(model, 3, 40))
    expected, stream = session.run(good), session.stream(40)
    for _ in range(3):
        assert_equal(session.run(RIGHT[kind](good)), expected)
        stream.reset()
        np.testing.assert_allclose(stream.step(RIGHT[kind](good))["y"], expected["y"], atol=2e-6)


def test_a_call_keeps_nothing_of_its_arrays(sessions):
    model, session = sessions["lstm"]
    inputs = data_of(model, drawn(model, 4, 2))
    first = session.run(inputs)
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array.fill(7)  # the next call is not to see it
    assert_equal(session.run(inputs), kept)


# What it costs, in what can be counted.


def calls_of(call):
    """Python and C functions that one call enters."""
    count = 0

    def note(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", NAMES)
def test_a_step_like_the_last_calls_few_functions_whatever_the_state(name, sessions):
    model, session = sessions[name]
    stream, data = session.stream(), data_of(model, drawn(model))
    first = calls_of(lambda: stream.step(data, copy=False))
    binding = stream._chunk.calls[0]._binding
    raw = calls_of(lambda: session._model._session.run_with_iobinding(binding))
    again = calls_of(lambda: stream.step(data, copy=False))
    stream.step(data_of(model, drawn(model, T=2)))
    before_last = calls_of(lambda: stream.step(data, copy=False))
    assert again - raw <= (20 if name == "lengths" else 14)
    assert before_last - raw <= 2.5 * (again - raw)
    assert first > 100  # what the measure sees where everything is checked


@pytest.mark.parametrize("name", NAMES)
def test_a_run_like_one_of_the_last_calls_few_functions(name, sessions):
    model, warm = sessions[name]
    session = edgeseq_runtime.Session(warm._model, warm.interface, warm.plan)
    inputs = drawn(model)
    first = calls_of(lambda: session.run(inputs))
    raw = calls_of(lambda: session._model._session.run(None, inputs))
    assert calls_of(lambda: session.run(inputs)) - raw <= 8 + 3 * len(inputs)
    for T in (2, 3):
        session.run(drawn(model, T))
    assert calls_of(lambda: session.run(inputs)) - raw <= 18 + 3 * len(inputs)
    assert first - raw > 10 * len(inputs)  # what the measure sees where everything is checked


def traced(call, times=STEPS):
    """Bytes that stay, and most bytes at a time, over many calls; NumPy tells tracemalloc of its arrays' memory.

    Python's own lists of freed objects fill up once, some KiB; what grows with the calls grows in every window of them.
    """
    windows = []
    tracemalloc.start()
    try:
        for _ in range(4):
            call()
            base = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            for _ in range(times):
                call()
            now, peak = tracemalloc.get_traced_memory()
            windows.append((now - base, peak - base))
        return min(windows)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
def test_steps_without_copy_leave_nothing_and_hold_next_to_nothing(name, sessions):
    model, session = sessions[name]
    stream, data = session.stream(), data_of(model, drawn(model))
    stays, most = traced(lambda: stream.step(data, copy=False))
    assert stays < 1024  # less than two bytes a step
    assert most < 2048
    outputs = []
    assert traced(lambda: outputs.append(stream.step(data)))[0] > STEPS * 32  # what the measure sees where arrays are made


def test_pieces_of_ever_other_lengths_leave_nothing(sessions):
    model, session = sessions["lstm"]
    stream, lengths = session.stream(), cycle(range(1, 41))  # more than a stream keeps buffers for
    pieces = [data_of(model, drawn(model, T)) for T in range(41)[1:]]
    stays, most = traced(lambda: stream.step(pieces[next(lengths) - 1], copy=False), times=120)
    assert stays < 16 * 1024
    assert most < 64 * 1024


@pytest.mark.parametrize("kind", ["a mapping that is no dict", "a subclass of array"])
def test_what_only_the_full_check_can_tell_gets_the_buffers_it_had(kind, sessions):
    model, session = sessions["lengths"]
    stream, data = session.stream(), data_of(model, drawn(model))
    stream.step(data)
    chunk = stream._chunk
    stream.step(RIGHT[kind](data))
    assert stream._chunk is chunk


@pytest.mark.parametrize("copy", [True, False])
def test_the_process_does_not_grow_with_steps(copy, sessions):
    model, session = sessions["lengths"]
    stream, data = session.stream(), data_of(model, drawn(model))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(STEPS):
        stream.step(data, copy=copy)
    before = resident()
    for _ in range(10 * STEPS):
        stream.step(data, copy=copy)
    assert resident() - before < 10 * STEPS * 16  # not 16 bytes a step


def test_a_step_takes_little_more_than_the_bound_call(sessions, tmp_path):
    session = edgeseq_runtime.load(runtime_models.lstm(64, 256).write(tmp_path / "m.edgeseq", ONE_CASE, draws=1))
    stream, data = session.stream(), {"x": np.ones((1, 1, 64), np.float32)}
    stream.step(data)
    bindings = [call._binding for call in stream._chunk.calls]
    raw = session._model._session.run_with_iobinding

    def timed(call):
        start = time.perf_counter_ns()
        for _ in range(10):
            call(0)
            call(1)
        return time.perf_counter_ns() - start

    ratios = []
    for _ in range(60):
        bound = timed(lambda turn: raw(bindings[turn]))
        ratios.append(timed(lambda _: stream.step(data, copy=False)) / bound)
    assert statistics.median(ratios) < 1.5
