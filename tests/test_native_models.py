"""Device "native" and whole models: parity with PyTorch, streams equal to whole sequences bit for bit, and what is refused."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pool_models
import pytest
import runtime_models
from low_precision_models import halved
from native_graphs import Drawn, model_of, needs_compiler, node, opened

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from library_models import MODELS, bundle_of

import edgeseq_runtime
from edgeseq_runtime.errors import InputError, UsageError

pytestmark = needs_compiler
ONE_CASE = ({"T": 4, "B": 2},)

SMALL = ("LayerNormLSTMCell", "packed with a padding value")  # for every run; the others are slow to export


def require_parity(name):
    path = bundle_of(name)
    report = edgeseq_runtime.measure_parity(path, device="native")
    assert report.passed, report
    assert edgeseq_runtime.load(path, device="native").providers == ("Native",)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in SMALL])
def test_a_model_of_the_library_is_computed(name):
    require_parity(name)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_model_of_the_library_is_computed(name):
    require_parity(name)


CASES = {
    "lstm": runtime_models.lstm(),
    "lstm with lengths": runtime_models.lstm(lengths=True),
    "lstm without state": runtime_models.lstm(state=False),
    "wide lstm": runtime_models.lstm(17, 75),
    "gru": runtime_models.gru(),
    "gru, reset before": runtime_models.gru(lbr=0),
    "gru with lengths": runtime_models.gru(lengths=True),
    "bidirectional rnn": runtime_models.bidirectional_rnn(),
    "convolution": runtime_models.strided_gru(),
    "two layers": pool_models.two_layer_gru(),
    "tokens": pool_models.token_gru(),
    "centred": pool_models.centred_gru(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_equations_of_a_model(name, tmp_path):
    """NumPy in float64, with the gates that a bundle has for fp32."""
    sizes = ({"T": 1, "B": 1}, {"T": 7, "B": 3})
    report = edgeseq_runtime.measure_parity(CASES[name].write(tmp_path / "m.edgeseq", sizes), device="native")
    assert report.passed, report


def test_a_fault_of_a_model_is_seen(tmp_path):
    """The two tests above are worth something only if this one passes."""
    faulty = runtime_models.faulty(
        runtime_models.lstm(),
        lambda proto: runtime_models.edit_weight(proto, runtime_models.node_of(proto, "LSTM").input[2], lambda r: r * 1.0001),
    )
    assert not edgeseq_runtime.measure_parity(faulty.write(tmp_path / "m.edgeseq"), device="native").passed


# Streams


def sound(T, B, K, seed=0):
    return np.random.default_rng(seed).standard_normal((T, B, K)).astype(np.float32)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Name -> a session of a model with state whose input is x, and its inputs' width."""
    folder = tmp_path_factory.mktemp("bundles")
    models = {
        "lstm": (runtime_models.lstm(17, 75), 17),
        "gru": (runtime_models.gru(17, 75), 17),
        "gru, reset before": (runtime_models.gru(5, 33, lbr=0), 5),
    }
    found = {
        name: (model.write(folder / f"{index}.edgeseq", ONE_CASE, draws=1), K)
        for index, (name, (model, K)) in enumerate(models.items())
    }
    found["LayerNorm-LSTM"] = (bundle_of("LayerNormLSTMCell"), None)
    return {name: (edgeseq_runtime.load(path, device="native"), K) for name, (path, K) in found.items()}


STREAMED = ("lstm", "gru", "gru, reset before", "LayerNorm-LSTM")


def input_of(session, K, T, B, seed=0):
    (spec,) = session.interface.data_inputs
    width = spec.shape[-1]
    assert K in (None, width)
    drawn = sound(T, B, width, seed)
    return spec.name, drawn if spec.shape[0] == "T" else np.swapaxes(drawn, 0, 1).copy(), spec.shape.index("T")


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("chunks", [[1] * 24, [7, 1, 14, 2]])
def test_pieces_are_bit_for_bit_the_whole(name, batch, chunks, sessions):
    """A promise of the kernels: in which order an output is summed up does not depend on how many rows there are."""
    session, K = sessions[name]
    of, x, axis = input_of(session, K, 24, batch)
    whole = session.run({of: x})
    stream = session.stream(batch)
    pieces = [stream.step({of: np.ascontiguousarray(piece)}) for piece in np.split(x, np.cumsum(chunks)[:-1], axis)]
    for output in pieces[0]:
        np.testing.assert_array_equal(np.concatenate([piece[output] for piece in pieces], axis), whole[output])
    for state, output in session.state.items():
        np.testing.assert_array_equal(stream.state[state], whole[output])


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("batch", [2, 7, 20])
def test_a_row_of_a_batch_is_bit_for_bit_what_it_is_alone(name, batch, sessions):
    session, K = sessions[name]
    of, x, axis = input_of(session, K, 5, batch, 1)
    together = session.run({of: x})
    rows = {spec.name: spec.shape.index("B") for spec in session.outputs}
    for row in range(batch):
        alone = session.run({of: x.take([row], 1 - axis)})
        for output, found in alone.items():
            np.testing.assert_array_equal(found, together[output].take([row], rows[output]))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("H", [1, 20, 75])
def test_steps_of_a_node_are_bit_for_bit_the_whole(op, H):
    """Each sequence alone, step by step, beside all at once."""
    drawn = Drawn(30)
    G, K, T, B = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 13, 6, 5
    states = ["h", "c"] if op == "LSTM" else ["h"]
    outputs = ["y", *(f"{one}n" for one in states)]
    layer = node(op, f"x w r b - {' '.join(states)}", " ".join(outputs), hidden_size=H)
    constants = {
        "w": drawn.values((1, G * H, K)),
        "r": drawn.values((1, G * H, H)) * np.float32(H**-0.5),
        "b": drawn.values((1, 2 * G * H)),
    }
    inputs = {"x": drawn.values((T, B, K)), **{one: drawn.values((1, B, H)) for one in states}}
    model = opened(model_of([layer], inputs, outputs, constants))
    whole = model.run(inputs)
    for b in range(B):
        carried = {one: inputs[one][:, b : b + 1] for one in states}
        for t in range(T):
            found = model.run({"x": inputs["x"][t : t + 1, b : b + 1], **carried})
            np.testing.assert_array_equal(found["y"][0, :, 0], whole["y"][t, :, b])
            carried = {one: found[f"{one}n"] for one in states}
        for one in states:
            np.testing.assert_array_equal(carried[one][:, 0], whole[f"{one}n"][:, b])


def test_streams_at_the_same_time_do_not_disturb_each_other(sessions):
    session, K = sessions["lstm"]
    xs = [sound(9, 2, K, seed) for seed in range(3)]
    streams = [session.stream(2) for _ in xs]
    pieces = [[stream.step({"x": x[t : t + 1]})["y"].copy() for stream, x in zip(streams, xs, strict=True)] for t in range(9)]
    for index, x in enumerate(xs):
        np.testing.assert_array_equal(np.concatenate([one[index] for one in pieces]), session.run({"x": x})["y"])
    streams[0].reset()
    np.testing.assert_array_equal(streams[0].step({"x": xs[0][:1]})["y"], pieces[0][0])


@pytest.mark.parametrize("name", STREAMED)
def test_a_pool_gives_each_stream_bit_for_bit_its_own(name, sessions):
    session, K = sessions[name]
    work = [input_of(session, K, 6, 1, seed) for seed in range(7)]
    with session.pool(max_batch=4) as pool:
        streams = [pool.join() for _ in work]
        for t in range(6):
            given = {stream: {of: x.take([t], axis)} for stream, (of, x, axis) in zip(streams, work, strict=True)}
            found = pool.step(given)
            for stream, (of, x, axis) in zip(streams, work, strict=True):
                whole = session.run({of: x.take(range(t + 1), axis)})
                for output, value in found[stream].items():
                    np.testing.assert_array_equal(value, whole[output].take([t], axis))


# Refusals


def saved(model, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def test_a_model_whose_weights_are_in_another_file_is_refused(tmp_path):
    proto = onnx.load_from_string(runtime_models.lstm().onnx)
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(UsageError, match=r"the constant '.*' is in another file, which the native kernels don't read"):
        edgeseq_runtime.load(tmp_path / "m.onnx", device="native")


def test_a_plain_model_is_computed(tmp_path):
    model = runtime_models.gru()
    inputs = model.draw({"T": 5, "B": 2}, np.random.default_rng(0))
    found = edgeseq_runtime.load(saved(model.onnx, tmp_path), device="native").run(inputs)
    for name, expected in model.expect(inputs).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep_interface", [True, False])
def test_a_model_of_float16_is_refused(keep_interface, tmp_path):
    path = saved(halved(runtime_models.lstm().onnx, keep_interface=keep_interface), tmp_path)
    with pytest.raises(UsageError, match=r"the native kernels (compute with float32, .* is float16|.*don't cast to)"):
        edgeseq_runtime.load(path, device="native")


@pytest.mark.parametrize(("change", "message"), [({"x": (0, 2, 3)}, "T"), ({"x": (4, 2, 5)}, "5")])
def test_inputs_that_do_not_fit_are_refused_as_elsewhere(change, message, tmp_path):
    path = runtime_models.lstm().write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    given = {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    messages = []
    for device in ("native", "cpu"):
        with pytest.raises(InputError, match=message) as caught:
            edgeseq_runtime.load(path, device=device).run(given)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_lengths_out_of_range_are_refused(tmp_path):
    model = replace(runtime_models.gru(lengths=True), name="lengths")
    session = edgeseq_runtime.load(model.write(tmp_path / "m.edgeseq", ONE_CASE, draws=1), device="native")
    given = model.draw({"T": 4, "B": 2}, np.random.default_rng(0))
    for bad in (5, -1):
        with pytest.raises(InputError, match=re.compile("length|range")):
            session.run({**given, "lengths": np.array([4, bad], np.int32)})
