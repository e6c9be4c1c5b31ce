"""Feeding a model piece by piece."""

import re
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
import runtime_models
from onnx import helper

import edgeseq_runtime
from edgeseq_runtime import TensorSpec
from edgeseq_runtime.errors import InputError, SnapshotError, StreamError
from edgeseq_runtime.interface import shape_at
from edgeseq_runtime.stream import MAX_CHUNK_SIZES
from edgeseq_runtime.timing import KEPT, StepClock

ONE_CASE = ({"T": 4, "B": 2},)


def opened(model, folder):
    return edgeseq_runtime.load(model.write(folder / f"{model.name}.edgeseq", ONE_CASE, draws=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def lstm(folder):
    return opened(runtime_models.lstm(), folder)


@pytest.fixture(scope="module")
def with_lengths(folder):
    return opened(replace(runtime_models.gru(lengths=True), name="lengths"), folder)


def sound(T, B=1, seed=0):
    return np.random.default_rng(seed).standard_normal((T, B, 3)).astype(np.float32)


@pytest.mark.parametrize("chunks", [[30], [1] * 30, [7, 1, 1, 20, 1], [*range(1, 8), 2]])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", [runtime_models.lstm(), runtime_models.gru()], ids=lambda model: model.name)
def test_pieces_of_any_length_equal_the_whole(model, batch, chunks, folder):
    session = opened(model, folder)
    x, stream = sound(30, batch), session.stream(batch)
    pieces = [stream.step({"x": piece})["y"] for piece in np.split(x, np.cumsum(chunks)[:-1])]
    whole = session.run({"x": x})
    np.testing.assert_allclose(np.concatenate(pieces), whole["y"], atol=1e-6)
    for name, output in session.state.items():
        np.testing.assert_allclose(stream.state[name], whole[output], atol=1e-6)


def test_state_is_carried_at_all(lstm):
    stream = lstm.stream()
    first, second = (stream.step({"x": sound(1)})["y"] for _ in range(2))
    assert np.abs(first - second).max() > 0.01


def test_a_step_gives_every_output_but_the_states(lstm):
    assert list(lstm.stream().step({"x": sound(1)})) == ["y"]


def test_reset_starts_again_after_any_number_of_steps(lstm):
    stream = lstm.stream()
    fresh = stream.step({"x": sound(2)})["y"]
    for steps in range(1, 4):
        for _ in range(steps):
            stream.step({"x": sound(1, seed=steps)})
        stream.reset()
        assert all((value == 0).all() for value in stream.state.values())
        np.testing.assert_array_equal(stream.step({"x": sound(2)})["y"], fresh)
        stream.reset()


def test_a_snapshot_is_a_copy_both_ways(lstm):
    stream = lstm.stream()
    stream.step({"x": sound(3)})
    snapshot = stream.state
    kept = {name: value.copy() for name, value in snapshot.items()}
    after = stream.step({"x": sound(3, seed=1)})["y"]
    stream.step({"x": sound(3, seed=2)})  # writes the buffer that the snapshot was taken from
    for name, value in kept.items():
        np.testing.assert_array_equal(snapshot[name], value)
    stream.state = snapshot
    snapshot["h"][:] = 99
    np.testing.assert_array_equal(stream.step({"x": sound(3, seed=1)})["y"], after)


def test_a_snapshot_goes_from_one_stream_to_another(lstm):
    one, other = lstm.stream(), lstm.stream()
    one.step({"x": sound(3)})
    other.step({"x": sound(1)})
    other.step({"x": sound(1)})
    other.state = one.state
    np.testing.assert_array_equal(one.step({"x": sound(1)})["y"], other.step({"x": sound(1)})["y"])


@pytest.mark.parametrize(
    ("snapshot", "message"),
    [
        ({"h": np.zeros((1, 1, 8), np.float32)}, "missing: \\['c'\\]"),
        ({"h": np.zeros((1, 1, 8), np.float32), "c": np.zeros((1, 1, 8))}, "dtype float64"),
        ({name: np.zeros((1, 2, 8), np.float32) for name in "hc"}, "size 2, the stream was made for 1"),
        ({name: np.zeros((1, 1, 9), np.float32) for name in "hc"}, "size 9 in dimension 2"),
    ],
)
def test_a_wrong_snapshot_is_refused_and_changes_nothing(lstm, snapshot, message):
    stream = lstm.stream()
    stream.step({"x": sound(1)})
    before = stream.state
    with pytest.raises(InputError, match=message):
        stream.state = snapshot
    assert all((stream.state[name] == value).all() for name, value in before.items())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing: \\['x'\\]"),
        ({"z": sound(1)}, "unknown: \\['z'\\]"),
        ({"x": sound(1).astype(np.float64)}, "dtype float64"),
        ({"x": sound(1)[:, :, :2]}, "size 2 in dimension 2"),
        ({"x": sound(1)[0]}, "2 dimensions"),
        ({"x": sound(1, 2)}, r"the stream was made for 1; make another: session.stream\(batch=2\)"),
        ({"x": sound(1)[:0]}, "is empty: axis 'T'"),
        ({"x": sound(1)[:, :0]}, "is empty: axis 'B'"),
        ({"x": sound(1).tolist()}, "list; give a numpy array"),
        ({"x": sound(1), "h": np.zeros((1, 1, 8), np.float32)}, "keeps \\['h'\\] itself"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_a_wrong_input_is_refused_and_leaves_the_state(lstm, inputs, message, warm):
    stream = lstm.stream()
    if warm:
        stream.step({"x": sound(1)})
    before = stream.state
    with pytest.raises(InputError, match=message):
        stream.step(inputs)
    assert all((stream.state[name] == value).all() for name, value in before.items())


def test_an_input_in_another_memory_order_counts_by_its_values(lstm):
    x = sound(6, 2)
    turned = np.asfortranarray(x)
    np.testing.assert_array_equal(lstm.stream(2).step({"x": turned})["y"], lstm.stream(2).step({"x": x})["y"])
    every = np.repeat(x, 2, axis=0)[::2]
    np.testing.assert_array_equal(lstm.stream(2).step({"x": every})["y"], lstm.stream(2).step({"x": x})["y"])


def test_with_copy_the_caller_owns_the_arrays(lstm):
    stream = lstm.stream()
    first = stream.step({"x": sound(1)})["y"]
    kept = first.copy()
    stream.step({"x": sound(1, seed=1)})
    np.testing.assert_array_equal(first, kept)


def test_without_copy_the_same_arrays_come_back_each_step(lstm):
    stream = lstm.stream()
    first = stream.step({"x": sound(1)}, copy=False)
    values = first["y"].copy()
    second = stream.step({"x": sound(1, seed=1)}, copy=False)
    assert second is first
    assert second["y"] is first["y"]
    assert (values != first["y"]).any()


def allocated(step, times=20):
    """Most bytes that Python and NumPy held beyond the start, over some calls.

    ONNX Runtime's binding itself leaves about 120 bytes a call to the garbage collector.
    """
    step()
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(times):
            step()
        return tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()


def test_a_step_without_copy_allocates_nothing_of_the_size_of_its_arrays(folder):
    session = opened(replace(runtime_models.lstm(K=64, H=512), name="wide"), folder)
    stream = session.stream(4)
    inputs = {"x": np.ones((8, 4, 64), np.float32)}  # 8 KiB in, 64 KiB out, 16 KiB of state
    assert allocated(lambda: stream.step(inputs, copy=False)) < 6 * 1024
    assert allocated(lambda: stream.step(inputs)) > 64 * 1024  # what the measure sees where arrays are made


def test_chunk_lengths_are_remembered_within_bounds(lstm):
    stream = lstm.stream()
    for T in [*range(1, 3 * MAX_CHUNK_SIZES), 1]:
        stream.step({"x": sound(T)})
    assert len(stream._chunks) == MAX_CHUNK_SIZES
    stream.reset()
    np.testing.assert_allclose(stream.step({"x": sound(40)})["y"], lstm.run({"x": sound(40)})["y"], atol=1e-6)


def test_streams_of_one_session_are_independent_in_threads(lstm):
    def feed(seed):
        stream = lstm.stream()
        return np.concatenate([stream.step({"x": piece[None]})["y"] for piece in sound(50, seed=seed)])

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(feed, range(24)))
    for seed, y in enumerate(together):
        np.testing.assert_array_equal(y, feed(seed))


def test_one_stream_in_two_threads_is_an_error(lstm):
    stream, x = lstm.stream(), {"x": sound(20_000)}
    failures, started = [], threading.Barrier(4)

    def feed():
        started.wait()
        try:
            for _ in range(5):
                stream.step(x, copy=False)
        except StreamError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures
    assert "give each its own: session.stream()" in failures[0]
    stream.step({"x": sound(1)})  # and it can be used again


def test_outputs_whose_size_the_model_computes_come_at_each_size(folder):
    model = runtime_models.strided_gru()
    session = opened(model, folder)
    x, stream = sound(11), session.stream()
    whole = runtime_models.gru().expect({"x": x, "h": np.zeros((1, 1, 8))})["y"]
    at = 0
    for T in (4, 4, 3):
        for copy in (True, False):
            state = stream.state
            y = stream.step({"x": x[at : at + T]}, copy=copy)["y"]
            assert y.shape == ((T + 1) // 2, 1, 8)
            np.testing.assert_allclose(y, whole[at : at + T : 2], atol=2e-6)
            if copy:
                stream.state = state
        at += T


def test_a_computed_size_is_never_taken_from_an_input_that_has_the_same_words():
    """`T // 2` of an input is what the caller gave; of an output, what the model makes of it."""
    assert shape_at(TensorSpec("y", "float32", ("T // 2", "B")), {"T // 2": 3, "B": 1}) is None
    assert shape_at(TensorSpec("y", "float32", ("T", 4, "B")), {"T": 3, "B": 1}) == (3, 4, 1)
    assert shape_at(TensorSpec("y", "float32", ("T",)), {"B": 1}) is None


def trimmed_gru():
    """A GRU that gives max(lengths) steps, as PyTorch's packed sequences do."""
    base = runtime_models.gru(lengths=True)
    proto = onnx.load_from_string(base.onnx)
    runtime_models.node_of(proto, "Squeeze").output[0] = "every"
    for name, value in (("zero", 0), ("axis0", 0)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    proto.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["lengths"], ["longest"], keepdims=1),
            helper.make_node("Cast", ["longest"], ["end"], to=onnx.TensorProto.INT64),
            helper.make_node("Slice", ["every", "zero", "end", "axis0"], ["y"]),
        ]
    )
    outputs = (TensorSpec("y", "float32", ("max(lengths)", "B", 8)), *base.outputs[1:])
    del proto.graph.output[:]
    proto.graph.output.extend(runtime_models.value_info(spec) for spec in outputs)

    def equations(inputs, dtype):
        expected = base.equations(inputs, dtype)
        return {**expected, "y": expected["y"][: inputs["lengths"].max()]}

    return replace(base, name="trimmed", onnx=proto.SerializeToString(), equations=equations, outputs=outputs)


def test_a_size_that_depends_on_values_may_change_from_step_to_step(folder):
    model = trimmed_gru()
    session = opened(model, folder)
    stream, carried = session.stream(2), {"h": np.zeros((1, 2, 8), np.float32)}
    for lengths in ([5, 2], [1, 3], [4, 4], [1, 1]):
        inputs = {"x": sound(5, 2), "lengths": np.array(lengths, np.int32)}
        expected = model.expect({**inputs, **carried})
        y = stream.step(inputs)["y"]
        assert y.shape == (max(lengths), 2, 8)
        np.testing.assert_allclose(y, expected["y"], atol=2e-6)
        carried = stream.state
        np.testing.assert_allclose(carried["h"], expected["h_out"], atol=2e-6)


def test_lengths_in_a_stream_are_taken_and_checked_each_step(with_lengths):
    stream = with_lengths.stream(2)
    x = sound(4, 2)
    for lengths in ([4, 2], [1, 4]):
        before = stream.state["h"]
        stream.step({"x": x, "lengths": np.array(lengths, np.int64)})
        alone = with_lengths.run({"x": x, "lengths": np.array(lengths, np.int32), "h": before})
        np.testing.assert_allclose(stream.state["h"], alone["h_out"], atol=1e-6)
    for wrong in ([0, 4], [5, 1]):
        before = stream.state["h"]
        with pytest.raises(InputError, match=r"must be in 1..4"):
            stream.step({"x": x, "lengths": np.array(wrong, np.int64)})
        np.testing.assert_array_equal(stream.state["h"], before)


def test_a_model_without_state_says_how_to_export_one(folder):
    with pytest.raises(StreamError, match=re.escape('state={"h": "h_out", "c": "c_out"}')):
        opened(runtime_models.bidirectional_rnn(), folder).stream()


def test_a_batch_below_one_is_refused(lstm):
    with pytest.raises(StreamError, match="batch 0"):
        lstm.stream(batch=0)


def test_a_state_with_an_axis_of_its_own_is_refused(folder):
    base = runtime_models.gru()
    state = TensorSpec("h", "float32", (1, "M", 8))
    outputs = (base.outputs[0], TensorSpec("h_out", "float32", (1, "M", 8)))
    model = replace(base, name="odd", inputs=(base.inputs[0], state), outputs=outputs)
    path = model.write(folder / "odd.edgeseq", ({"T": 2, "B": 2, "M": 2},), draws=1)
    with pytest.raises(StreamError, match=r"axes \['M'\]"):
        edgeseq_runtime.load(path).stream()


def step_cell():
    """One step of a GRU as a graph of its own: no axis of time."""
    base = runtime_models.gru()
    proto = onnx.load_from_string(base.onnx)
    gru, squeeze = runtime_models.node_of(proto, "GRU"), runtime_models.node_of(proto, "Squeeze")
    gru.input[0], squeeze.input[0] = "steps", "Y"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1], np.int64), "both"))
    squeeze.input[1] = "both"
    proto.graph.node.insert(0, helper.make_node("Unsqueeze", ["x", "first"], ["steps"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first"))
    inputs = (TensorSpec("x", "float32", ("B", 3)), *base.inputs[1:])
    outputs = (TensorSpec("y", "float32", ("B", 8)), *base.outputs[1:])
    for declared, specs in ((proto.graph.input, inputs), (proto.graph.output, outputs)):
        del declared[:]
        declared.extend(runtime_models.value_info(spec) for spec in specs)

    def equations(arrays, dtype):
        expected = base.equations({**arrays, "x": arrays["x"][None]}, dtype)
        return {"y": expected["y"][0], "h_out": expected["h_out"]}

    return replace(base, name="cell", onnx=proto.SerializeToString(), equations=equations, inputs=inputs, outputs=outputs)


def test_a_model_of_one_step_streams_and_is_proved(folder):
    path = step_cell().write(folder / "cell.edgeseq", ({"B": 1}, {"B": 3}))
    stream = edgeseq_runtime.load(path).stream()
    whole = runtime_models.gru().expect({"x": sound(5), "h": np.zeros((1, 1, 8))})["y"]
    for x, expected in zip(sound(5), whole, strict=True):
        np.testing.assert_allclose(stream.step({"x": x})["y"], expected, atol=2e-6)
    report = edgeseq_runtime.measure_parity(path)
    assert report.passed
    assert {row.verdict for row in report.rows} == {"pass"}


def test_a_stream_goes_on_from_a_snapshot_in_another_process(lstm, tmp_path):
    stream = lstm.stream(batch=2)
    stream.step({"x": sound(5, 2)})
    (tmp_path / "snapshot").write_bytes(stream.snapshot())
    expected = stream.step({"x": sound(3, 2, seed=1)})["y"]
    np.savez(tmp_path / "x.npz", x=sound(3, 2, seed=1))
    program = (
        "import sys, numpy as np, edgeseq_runtime\n"
        "stream = edgeseq_runtime.load(sys.argv[1]).stream(batch=2)\n"
        "stream.restore(open(sys.argv[2], 'rb').read())\n"
        "np.save(sys.argv[4], stream.step({'x': np.load(sys.argv[3])['x']})['y'])\n"
    )
    bundle = runtime_models.lstm().write(tmp_path / "lstm.edgeseq", ONE_CASE, draws=1)
    files = [bundle, tmp_path / "snapshot", tmp_path / "x.npz", tmp_path / "y.npy"]
    subprocess.run([sys.executable, "-c", program, *files], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_a_snapshot_of_another_model_is_refused(lstm, folder):
    other = opened(replace(runtime_models.lstm(seed=1), name="other"), folder).stream()
    stream = lstm.stream()
    stream.step({"x": sound(1)})
    before = stream.state
    with pytest.raises(SnapshotError, match=r"the model [0-9a-f]{16} \(fp32\) and this stream runs [0-9a-f]{16} \(fp32\)"):
        stream.restore(other.snapshot())
    assert all((stream.state[name] == value).all() for name, value in before.items())


def test_a_snapshot_of_another_batch_is_refused(lstm):
    with pytest.raises(InputError, match="size 2, the stream was made for 1"):
        lstm.stream().restore(lstm.stream(batch=2).snapshot())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[:5], "no snapshot"),
        (lambda data: b"", "no snapshot"),
        (lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "damaged"),
        (lambda data: data.replace(b"snapshot 1", b"snapshot 9"), "format 'edgeseq snapshot 9'"),
        (lambda data: b"\xff" * 8 + data[8:], "no snapshot"),
        (lambda data: "text", "a str was given"),
    ],
)
def test_a_damaged_snapshot_is_refused_and_changes_nothing(lstm, damage, message):
    stream = lstm.stream()
    stream.step({"x": sound(2)})
    before, snapshot = stream.state, stream.snapshot()
    with pytest.raises(SnapshotError, match=message):
        stream.restore(damage(snapshot))
    assert all((stream.state[name] == value).all() for name, value in before.items())
    stream.restore(snapshot)


def test_steps_are_timed(lstm):
    stream = lstm.stream()
    assert (stream.times.steps, stream.times.kept) == (0, 0)
    for _ in range(3):
        stream.step({"x": sound(1)})
    with pytest.raises(InputError):
        stream.step({"x": sound(1).astype(np.float64)})
    times = stream.times
    assert (times.steps, times.kept) == (3, 3)
    assert 0 < times.median <= times.p99 <= times.longest
    assert 0 < times.last <= times.longest


def test_the_times_kept_are_the_last_ones():
    clock = StepClock()
    for step in range(KEPT + 10):
        clock.ring[clock.steps % KEPT] = 1000 * step
        clock.steps += 1
    times = clock.times()
    assert (times.steps, times.kept, times.last, times.longest) == (KEPT + 10, KEPT, KEPT + 9, KEPT + 9)
    assert times.median == 10 + (KEPT - 1) / 2


def with_context():
    """A GRU of x (T, B, 3) + context (B, 3), which the whole sequence shares."""
    base = runtime_models.gru()
    proto = onnx.load_from_string(base.onnx)
    next(node for node in proto.graph.node if node.op_type == "GRU").input[0] = "mixed"
    proto.graph.node.insert(0, helper.make_node("Add", ["x", "context"], ["mixed"]))
    context = TensorSpec("context", "float32", ("B", 3))
    proto.graph.input.append(runtime_models.value_info(context))

    def equations(inputs, dtype):
        return base.equations({**inputs, "x": inputs["x"].astype(dtype) + inputs["context"].astype(dtype)}, dtype)

    return replace(base, name="context", onnx=proto.SerializeToString(), equations=equations, inputs=(*base.inputs, context))


@pytest.fixture(scope="module")
def contextual(folder):
    return opened(with_context(), folder)


def contexts(*seeds):
    return [np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32) for seed in seeds]


def test_what_a_stream_holds_is_given_to_every_step(contextual):
    x, (first, second) = sound(9, 2), contexts(1, 2)
    given, held = contextual.stream(2), contextual.stream(2)
    mine = first.copy()
    held.hold({"context": mine})
    mine[:] = 99  # it was copied
    for context, pieces in ((first, [x[:3], x[3:4], x[4:5]]), (second, [x[5:6], x[6:9]])):
        if context is second:
            held.hold({"context": second})
        for piece in pieces:
            expected = given.step({"x": piece, "context": context})["y"]
            np.testing.assert_array_equal(held.step({"x": piece})["y"], expected)
    held.hold({})
    expected = given.step({"x": x[:1], "context": first})["y"]
    np.testing.assert_array_equal(held.step({"x": x[:1], "context": first})["y"], expected)


def test_reset_leaves_what_is_held(contextual):
    stream, (context,) = contextual.stream(2), contexts(1)
    stream.hold({"context": context})
    fresh = stream.step({"x": sound(2, 2)})["y"]
    stream.reset()
    np.testing.assert_array_equal(stream.step({"x": sound(2, 2)})["y"], fresh)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"x": sound(1, 2)}, r"\['x'\] can't be held; .* without the time axis 'T': \['context'\]"),
        ({"h": np.zeros((1, 2, 8), np.float32)}, r"\['h'\] can't be held"),
        ({"context": np.zeros((3, 3), np.float32)}, "size 3, the stream was made for 2"),
        ({"context": np.zeros((2, 3))}, "dtype float64"),
    ],
)
def test_what_cant_be_held_is_refused_and_changes_nothing(contextual, held, message):
    stream, (context,) = contextual.stream(2), contexts(1)
    stream.hold({"context": context})
    with pytest.raises(InputError, match=message):
        stream.hold(held)
    assert stream.step({"x": sound(1, 2)})["y"].shape == (1, 2, 8)


def test_an_input_that_is_held_and_given_too_is_refused(contextual):
    stream, (context, other) = contextual.stream(2), contexts(1, 2)
    stream.step({"x": sound(1, 2), "context": context})
    stream.hold({"context": context})
    for _ in range(2):
        with pytest.raises(InputError, match=r"the stream holds \['context'\]; leave them out"):
            stream.step({"x": sound(1, 2), "context": other})
        stream.step({"x": sound(1, 2)})


@pytest.mark.parametrize("steps", [1, 2])  # either buffer may hold the state
def test_select_goes_on_with_other_sequences(lstm, steps):
    x = sound(4, 3)
    stream = lstm.stream(3)
    for t in range(steps):
        stream.step({"x": x[t : t + 1]})
    before = stream.state
    stream.select(np.array([2, 0, 2]))
    for name, value in stream.state.items():
        np.testing.assert_array_equal(value, before[name][:, [2, 0, 2]])
    found = stream.step({"x": np.ascontiguousarray(x[2:3, [2, 0, 2]])})["y"]
    whole = lstm.run({"x": np.concatenate([x[:steps], x[2:3]])})["y"][-1:]
    np.testing.assert_allclose(found, whole[:, [2, 0, 2]], atol=1e-6)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 3], [-1, 0, 1], [0.0, 1.0, 2.0], [[0, 1, 2]]])
def test_rows_that_are_none_are_refused(lstm, rows):
    stream = lstm.stream(3)
    stream.step({"x": sound(1, 3)})
    before = stream.state
    with pytest.raises(InputError, match="give 3 integers from 0 to 2"):
        stream.select(np.array(rows))
    assert all((stream.state[name] == value).all() for name, value in before.items())
