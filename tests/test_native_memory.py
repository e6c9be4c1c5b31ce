"""Device "native": memory that is planned, programs that are kept, and calls at the same time."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import runtime_models
from blocked_imports import run_python
from native_graphs import Drawn, computed, model_of, near, needs_compiler, node, opened
from native_random import evaluated, random_steps

from edgeseq_runtime.backends.native_backend import load_model
from edgeseq_runtime.errors import InputError
from edgeseq_runtime.native.program import KEPT
from edgeseq_runtime.native.values import Scratch
from edgeseq_runtime.plan import plan_for_device

pytestmark = needs_compiler


def drawn_inputs(rng):
    shapes = {"a": (1, 5), "b": (4, 3), "c": (3, 4), "d": (7, 11)}
    return {name: np.round(rng.standard_normal(shape) * 8).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("seeds", np.arange(200).reshape(10, 20).tolist(), ids=lambda seeds: f"from {seeds[0]}")
def test_values_that_live_share_no_memory(seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        inputs = drawn_inputs(rng)
        steps, constants = random_steps(rng, inputs, int(rng.integers(5, 45)))
        wanted = sorted({str(rng.choice([step.output for step in steps])) for _ in range(4)} | {steps[-1].output})
        given = {name: array.copy() for name, array in inputs.items()}
        found = computed([step.node for step in steps], given, wanted, constants)
        assert all(np.array_equal(given[name], array) for name, array in inputs.items())  # the caller's stay as they are
        expected = evaluated(steps, inputs)
        for name, array in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(array, expected[name], err_msg=f"seed {seed}, {name}")


def test_memory_is_used_again():
    """A chain of a hundred nodes needs room for two or three values, not for a hundred."""
    x = np.ones((64, 64), np.float32)
    chain = [node("Neg", f"v{index}", f"v{index + 1}") for index in range(100)]
    model = opened(model_of(chain, {"v0": x}, ["v100"]))
    np.testing.assert_array_equal(model.run({"v0": x})["v100"], x)
    (program,) = model.programs._made.values()
    assert program.scratch <= 3 * x.nbytes


@pytest.mark.parametrize("seed", range(20))
def test_what_the_planner_lends_is_lent_once(seed):
    rng = np.random.default_rng(seed)
    scratch, lent = Scratch(), {}
    for _ in range(300):
        if lent and rng.integers(2):
            start = int(rng.choice(list(lent)))
            scratch.give_back(start, lent.pop(start))
        else:
            size = int(rng.integers(1, 400))
            start = scratch.take_new(size) if rng.integers(8) == 0 else scratch.take(size)
            assert start % 64 == 0
            assert start + size <= scratch.size
            assert all(start + size <= other or other + held <= start for other, held in lent.items())
            lent[start] = size
    for start, size in lent.items():
        scratch.give_back(start, size)
    whole = scratch.size
    assert scratch.take(whole) == 0  # all pieces became one again
    assert scratch.size == whole


def test_a_result_that_is_an_input_a_constant_or_there_twice():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [node("Identity", "x", "same"), node("Transpose", "x", "turned"), node("Neg", "x", "n"), node("Identity", "n", "m")]
    same, turned, n, m, k = computed(
        [*nodes, node("Identity", "k0", "k")], {"x": x}, ["same", "turned", "n", "m", "k"], {"k0": x[0]}
    )
    for found, expected in ((same, x), (turned, x.T), (n, -x), (m, -x), (k, x[0])):
        np.testing.assert_array_equal(found, expected)
        assert not np.shares_memory(found, x)
    assert not np.shares_memory(n, m)


def test_a_result_without_axes_and_an_input_without_axes():
    a, b = np.array(3, np.float32), np.array(4, np.float32)
    nodes = [node("Add", "a b", "s"), node("ReduceSum", "x", "t", keepdims=0), node("Exp", "z", "e"), node("Sub", "s t", "d")]
    found = computed(nodes, {"a": a, "b": b, "x": np.float32([1, 2]), "z": np.array(0, np.float32)}, ["s", "t", "e", "d"])
    assert [(one.shape, float(one)) for one in found] == [((), 7), ((), 3), ((), 1), ((), 4)]


def test_nothing_at_all_is_computed():
    """Arrays without elements go through, where an operator knows what that is."""
    x = np.zeros((0, 3), np.float32)
    nodes = [node("Tanh", "x", "t"), node("Add", "t x", "a"), node("Transpose", "a", "u"), node("Concat", "x y", "c", axis=0)]
    nodes += [node("MatMul", "x w", "p"), node("ReduceSum", "x one", "r"), node("Not", "q", "nq"), node("Gather", "y i", "g")]
    inputs = {"x": x, "y": np.ones((2, 3), np.float32), "q": np.zeros(0, bool), "i": np.zeros(0, np.int64)}
    found = computed(nodes, inputs, ["a", "u", "c", "p", "r", "nq", "g"], {"w": np.ones((3, 4), np.float32), "one": np.array([1])})
    assert [one.shape for one in found] == [(0, 3), (3, 0), (2, 3), (0, 4), (0, 1), (0,), (0, 3)]


@pytest.fixture
def layered():
    """A model of some layers, its input and its equations."""
    drawn = Drawn(20)
    w, v = drawn.values((6, 40)), drawn.values((40, 5))
    nodes = [node("MatMul", "x w", "p"), node("Tanh", "p", "t"), node("MatMul", "t v", "q"), node("Softmax", "q", "y")]
    model = opened(model_of(nodes, {"x": np.ones((1, 6), np.float32)}, ["y"], {"w": w, "v": v}))

    def expected(x):
        q = np.tanh(x.astype(np.float64) @ w) @ v
        return np.exp(q) / np.exp(q).sum(-1, keepdims=True)

    return model, expected


def test_more_sizes_than_programs_are_kept(layered):
    model, expected = layered
    rng = np.random.default_rng(0)
    for _ in range(2):
        for rows in range(1, KEPT + 9):
            x = rng.standard_normal((rows, 6)).astype(np.float32)
            near(model.run({"x": x})["y"], expected(x), 1.0, 40.0)
            assert len(model.programs._made) <= KEPT
    kept = [key[0] for key in model.programs._made]
    assert kept[-1] == (KEPT + 8, 6)
    model.run({"x": np.ones((kept[0][0], 6), np.float32)})
    assert [key[0] for key in model.programs._made][-1] == kept[0]  # used last, so it goes last


def test_calls_from_several_threads_do_not_disturb_each_other(layered):
    model, expected = layered
    barrier = threading.Barrier(4)

    def caller(seed):
        rng = np.random.default_rng(seed)
        barrier.wait()
        for turn in range(60):
            x = rng.standard_normal((1 + (seed + turn) % 7, 6)).astype(np.float32)
            near(model.run({"x": x})["y"], expected(x), 1.0, 40.0)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(caller, range(4)))


def test_a_bound_call_reads_and_writes_the_same_memory(layered):
    model, expected = layered
    x, y = np.zeros((3, 6), np.float32), np.zeros((3, 5), np.float32)
    bound, other = model.bind({"x": x}, {"y": y}), model.bind({"x": x}, {"y": None})
    for seed in range(3):
        x[...] = np.random.default_rng(seed).standard_normal(x.shape)
        bound()
        other()
        near(y, expected(x), 1.0, 40.0)
        results = other.computed()
        np.testing.assert_array_equal(results["y"], y)
        results["y"][...] = 9  # the caller's own
        np.testing.assert_array_equal(other.computed()["y"], y)


def test_arrays_in_another_order_in_memory_are_given_like_others(layered):
    model, expected = layered
    x = np.asfortranarray(np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32))
    near(model.run({"x": x})["y"], expected(x), 1.0, 40.0)
    near(model.run({"x": x[::-1]})["y"], expected(x[::-1]), 1.0, 40.0)


@pytest.fixture
def masked():
    """A mask as wide as the greatest length, and rows of a table chosen by tokens: a size depends on lengths, none on tokens."""
    drawn = Drawn(21)
    table = drawn.values((9, 3))
    nodes = [
        node("ReduceMax", "lengths", "most", keepdims=0),
        node("Range", "zero most one", "places"),
        node("Unsqueeze", "lengths last", "column"),
        node("Less", "places column", "mask"),
        node("Cast", "mask", "y", to=1),
        node("Gather", "table tokens", "rows"),
    ]
    inputs = {"tokens": np.zeros(1, np.int64), "lengths": np.zeros(1, np.int64)}
    constants = {"zero": np.array(0), "one": np.array(1), "last": np.array([1]), "table": table}
    model = opened(model_of(nodes, inputs, ["y", "rows"], constants))

    def expected(tokens, lengths):
        return (np.arange(lengths.max()) < lengths[:, None]).astype(np.float32), table[tokens]

    return model, expected


def test_a_size_that_depends_on_lengths_follows_them(masked):
    model, expected = masked
    for tokens, lengths in (([1, 2, 3], [3, 1]), ([4, 5, 8], [3, 1]), ([0, 0, 0], [2, 5]), ([1, 2], [5, 2]), ([1, 2, 3], [1, 3])):
        given = {"tokens": np.array(tokens), "lengths": np.array(lengths)}
        for found, reference in zip(model.run(given).values(), expected(**given), strict=True):
            np.testing.assert_array_equal(found, reference)
    assert model.programs.reads == ("lengths",)
    assert len(model.programs._made) == 4  # tokens don't count, but for how many there are


def test_a_bound_call_looks_at_lengths_each_time(masked):
    model, expected = masked
    given = {"tokens": np.array([1, 2]), "lengths": np.array([2, 1])}
    bound = model.bind(given, {"y": None, "rows": None})
    for lengths, tokens in (([2, 1], [3, 4]), ([1, 4], [3, 4]), ([1, 4], [5, 6]), ([2, 1], [0, 8])):
        given["lengths"][...], given["tokens"][...] = lengths, tokens
        bound()
        for found, reference in zip(bound.computed().values(), expected(**given), strict=True):
            np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize("op", ["MatMul", "LSTM", "GRU"])
def test_more_threads_compute_the_same_bits(op):
    drawn = Drawn(22)
    G, H = {"MatMul": (3, 96), "LSTM": (4, 96), "GRU": (3, 96)}[op]
    x = drawn.values((5, 7, 64))
    if op == "MatMul":
        nodes, constants = [node("MatMul", "x w", "y")], {"w": drawn.values((64, 700))}
    else:
        nodes = [node(op, "x w r", "y", hidden_size=H)]
        constants = {"w": drawn.values((1, G * H, 64)), "r": drawn.values((1, G * H, H)) * np.float32(0.1)}
    data = model_of(nodes, {"x": x}, ["y"], constants).SerializeToString()
    one, two = (load_model(data, plan_for_device("native", threads=threads)).run({"x": x})["y"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_a_run_like_an_earlier_one_makes_its_outputs_alone():
    rng = np.random.default_rng(6)
    constants = {"w": rng.standard_normal((1, 256, 8)), "r": rng.standard_normal((1, 256, 64)) / 8}
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    x = rng.standard_normal((200, 4, 8)).astype(np.float32)
    model = opened(model_of([node("LSTM", "x w r", "y h", hidden_size=64)], {"x": x}, ["h"], constants))
    expected = model.run({"x": x})["h"]
    program = model.programs.at({"x": x})
    assert program.scratch > 50 * expected.nbytes
    (ready,) = program.calls
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = model.run({"x": x})["h"]
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)
    assert expected.nbytes <= peak < expected.nbytes + 8192
    assert program.calls == [ready]
    assert model.run({"x": x})["h"] is not found


def test_arrays_that_can_not_be_written_to_are_read():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    x.setflags(write=False)
    nodes = [node("Transpose", "x", "t", perm=[1, 0]), node("Neg", "t", "y")]
    for _ in range(2):
        np.testing.assert_array_equal(computed(nodes, {"x": x}, ["y"])[0], -x.T)


def test_a_run_that_failed_leaves_the_model_as_it_was():
    x, i = np.arange(4, dtype=np.float32), np.array([0, 3], np.int64)
    model = opened(model_of([node("Gather", "x i", "y")], {"x": x, "i": i}, ["y"]))
    for _ in range(3):
        with pytest.raises(InputError, match="Gather"):
            model.run({"x": x, "i": np.array([0, 4])})
        np.testing.assert_array_equal(model.run({"x": x, "i": i})["y"], x[i])


READERS = {  # of the weights of a layer, beside that
    "nothing else": [],
    "an output": [node("Identity", "w", "other")],
    "a product": [node("Squeeze", "r first", "matrix"), node("MatMul", "matrix ones", "other")],
    "a function": [node("Relu", "r", "other")],
    "another layer": [node("LSTM", "x w r b", "other", hidden_size=80, direction="reverse")],
    "another layer with another bias": [node("LSTM", "x w r small", "other", hidden_size=80)],
    "the graph's outputs": [],
}


@pytest.mark.parametrize("reader", READERS)
def test_weights_are_let_go_only_where_nothing_needs_them_again(reader):
    rng = np.random.default_rng(5)
    constants = {  # the weights have as many bytes as it counts from
        "w": rng.standard_normal((1, 320, 96)).astype(np.float32) / 10,
        "r": rng.standard_normal((1, 320, 80)).astype(np.float32) / 10,
        "b": rng.standard_normal((1, 640)).astype(np.float32),
        "small": np.zeros((1, 640), np.float32),
        "first": np.zeros(1, np.int64),
        "ones": np.ones((80, 2), np.float32),
    }
    nodes = [node("LSTM", "x w r b", "y", hidden_size=80), *READERS[reader]]
    outputs = ["y", *(["other"] if READERS[reader] else []), *(["w"] if reader == "the graph's outputs" else [])]
    sizes = [rng.standard_normal((T, B, 96)).astype(np.float32) for T, B in ((1, 1), (3, 2), (1, 4), (9, 1))]
    proto = model_of(nodes, {"x": sizes[0]}, outputs, constants)
    model, other = opened(proto), onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in sizes:  # the first writes a program, which packs the weights; the others have to do with that
        results = model.run({"x": x})
        for name, expected in zip(outputs, other.run(outputs, {"x": x}), strict=True):
            np.testing.assert_allclose(results[name], expected, rtol=0, atol=1e-5)


def test_weights_of_a_layer_are_held_once(tmp_path):
    path = runtime_models.lstm(256, 1024).write(tmp_path / "m.edgeseq", ({"T": 1, "B": 1},), draws=1)
    run = run_python(
        f"""
import numpy, edgeseq_runtime, edgeseq_runtime.backends.native_backend
def held():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024
before = held()
session = edgeseq_runtime.load({str(path)!r}, device="native")
for steps in (1, 3):
    session.run({{"x": numpy.ones((steps, 1, 256), "float32")}})
print((held() - before) / {4 * 4 * 1024 * (256 + 1024)})
"""
    )
    assert not run.returncode, run.stderr
    assert 0.9 < float(run.stdout) < 1.5
