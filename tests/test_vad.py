"""The voice-activity example: our definition against the vendor's own, the exported bundle, the stream, and the segments."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import warnings
import wave
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq_export import export_request
from edgeseq_runtime import load, make_forecast, measure_parity, open_bundle

EXAMPLE = Path(__file__).parents[1] / "examples" / "vad"
NAMES = ("segments", "clip", "vendor", "latency", "model", "export_vad")
sys.path.insert(0, str(EXAMPLE.parents[1] / "benchmarks"))
import device_pages  # noqa: E402

TOLERANCE = 1e-5  # on a probability, against the vendor's own


def import_example() -> list[ModuleType]:
    """The example's modules, which stand beside each other in a plain folder; their plain names are given back afterwards."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return [import_module(name) for name in NAMES]
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in NAMES:
            sys.modules.pop(name, None)


segments, clip_module, vendor, latency, model, export_vad = import_example()
Segment, Rule, find_segments = segments.Segment, segments.Rule, segments.find_segments


def vendor_file(name: str) -> Path:
    try:
        return vendor.vendor_file(name)
    except (vendor.VendorMissing, RuntimeError) as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"CI must have what this test needs: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads make PyTorch twenty times slower on frames this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip():
    return clip_module.read_clip()


@pytest.fixture(scope="module")
def truth(clip):
    """What the vendor's TorchScript model says of each frame of the clip."""
    path = vendor_file("silero_vad.jit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch has deprecated TorchScript, in which the vendor ships its model
        script = torch.jit.load(str(path)).eval()
        script.reset_states()
        with torch.no_grad():
            return np.array([script(torch.from_numpy(frame[None].copy()), 16_000).item() for frame in clip.frames()])


@pytest.fixture(scope="module")
def network():
    vendor_file(vendor.WEIGHTS)
    return model.pretrained()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    vendor_file(vendor.WEIGHTS)
    return export_request(model.request(), tmp_path_factory.mktemp("vad") / "vad.edgeseq")


@pytest.fixture(scope="module")
def session(bundle):
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def probabilities(session, clip):
    """Of each frame, streamed one by one."""
    stream = session.stream(batch=1)
    return np.array([stream.step({"x": frame[None, None]})["probability"].item() for frame in clip.frames()])


def zeros(batch: int) -> list[torch.Tensor]:
    return [torch.zeros(batch, 64), torch.zeros(1, batch, 128), torch.zeros(1, batch, 128)]


# The definition


def test_definition_is_the_vendors_over_the_whole_clip_at_once(network, clip, truth):
    with torch.no_grad():
        probability, *_ = network(torch.from_numpy(clip.frames())[:, None], *zeros(1))
    assert np.abs(probability[:, 0].numpy() - truth).max() <= TOLERANCE


def test_definition_is_the_vendors_frame_by_frame(network, clip, truth):
    state, heard = zeros(1), []
    with torch.no_grad():
        for frame in torch.from_numpy(clip.frames()):
            probability, *state = network(frame[None, None], *state)
            heard.append(probability.item())
    assert np.abs(np.array(heard) - truth).max() <= TOLERANCE


def test_clips_of_a_batch_do_not_mix(network, clip):
    frames = torch.from_numpy(clip.frames())[:90]
    clips = torch.stack([frames, frames.flip(0), 0.3 * frames], dim=1)
    with torch.no_grad():
        together, *_ = network(clips, *zeros(3))
        alone = [network(clips[:, i : i + 1], *zeros(1))[0][:, 0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone, dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("stride", "length"), [(1, 1), (2, 2), (2, 4), (1, 4)])
def test_matrix_of_a_convolution_does_what_the_convolution_does(stride, length):
    convolution = torch.nn.Conv1d(5, 7, 3, stride=stride, padding=1)
    x = torch.randn(6, 5, length)
    with torch.no_grad():
        weight, bias = model.matrix_of_conv1d(convolution.weight, convolution.bias, stride=stride, length=length)
        product = torch.nn.functional.linear(x.transpose(1, 2).flatten(1), weight, bias)
        torch.testing.assert_close(product, convolution(x).transpose(1, 2).flatten(1))


def test_two_gates_swapped_are_noticed(clip, truth):
    vendor_file(vendor.WEIGHTS)
    swapped = model.pretrained()
    with torch.no_grad():
        i, f, g, o = swapped.lstm.weight_hh_l0.chunk(4)
        swapped.lstm.weight_hh_l0.copy_(torch.cat([f, i, g, o]))
        probability, *_ = swapped(torch.from_numpy(clip.frames())[:, None], *zeros(1))
    assert np.abs(probability[:, 0].numpy() - truth).max() > 100 * TOLERANCE


def test_missing_package_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(vendor, "find_spec", lambda name: None)
    with pytest.raises(vendor.VendorMissing, match="pip install"):
        vendor.vendor_file(vendor.WEIGHTS)


# The bundle


def test_graph_holds_one_lstm_and_few_nodes(bundle):
    ours = export_vad.census(onnx.load_from_string(open_bundle(bundle).model()))
    assert ours["LSTM"] == 1
    assert ours.total() <= 60
    assert not {"If", "Loop", "Scan", "GRU", "RNN"} & set(ours)


def test_census_counts_nodes_inside_branches():
    theirs = export_vad.census(onnx.load(vendor_file(vendor.MAIN)))
    assert (theirs.total(), theirs["If"]) == (689, 25)


def test_whole_sequence_run_is_the_vendors(session, clip, truth):
    heard = session.run({"x": clip.frames()[:, None]})["probability"][:, 0]
    assert np.abs(heard - truth).max() <= TOLERANCE


def test_stream_is_the_vendors(probabilities, truth):
    assert np.abs(probabilities - truth).max() <= TOLERANCE


def test_stream_equals_whole_sequence_whatever_the_pieces(session, clip, probabilities):
    frames = clip.frames()[:, None]
    whole = session.run({"x": frames})["probability"]
    stream = session.stream(batch=1)
    cuts = np.cumsum([1, 2, 50, 3, 300])
    pieces = np.concatenate([stream.step({"x": piece})["probability"] for piece in np.split(frames, cuts)])
    np.testing.assert_allclose(pieces, whole, atol=1e-6, rtol=0)
    np.testing.assert_allclose(probabilities, whole[:, 0], atol=1e-6, rtol=0)


def test_reset_starts_the_clip_anew(session, clip):
    stream = session.stream(batch=1)
    first = [stream.step({"x": frame[None, None]})["probability"].item() for frame in clip.frames()[:40]]
    stream.reset()
    again = [stream.step({"x": frame[None, None]})["probability"].item() for frame in clip.frames()[:40]]
    assert first == again


def test_parity_holds_from_the_bundle_alone(bundle):
    report = measure_parity(bundle)
    assert report.passed, [row for row in report.rows if row.verdict != "pass"]


def test_vendors_onnx_files_agree_with_the_stream(session, clip):
    vendor_file(vendor.MAIN)
    contenders = {
        "ours": latency.EdgeseqStream(session.stream(batch=1)),
        "main": latency.VendorStream(vendor.MAIN),
        "sequence": latency.VendorStream("silero_vad_16k_sequence.onnx"),
    }
    assert max(latency.agreement(contenders, clip.frames()[:200]).values()) <= TOLERANCE


@pytest.mark.slow
def test_a_frame_takes_less_time_than_with_the_vendors_onnx(session, clip):
    vendor_file(vendor.MAIN)
    contenders = {"ours": latency.EdgeseqStream(session.stream(batch=1)), "theirs": latency.VendorStream(vendor.MAIN)}
    latency.agreement(contenders, clip.frames())
    taken = latency.interleaved(contenders, clip.frames(), passes=10)
    assert taken["ours"].median < taken["theirs"].median


def test_stream_program_runs_where_torch_cannot_be_imported(tmp_path, bundle):
    picture = tmp_path / "deep" / "vad.png"
    done = subprocess.run(
        [sys.executable, EXAMPLE / "stream_vad.py", bundle, "--picture", picture, "--passes", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Real-time factor" in done.stdout
    assert "0 false alarms" in done.stdout
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1600, 720)


# The segments


def test_segments_of_the_clip_meet_its_labels(clip, probabilities):
    found = find_segments(probabilities, len(clip.samples))
    match = segments.overlap(found, clip.labels)
    assert match.missed == ()
    assert match.precision > 0.99
    assert match.recall > 0.9  # a label is a whole file, pauses included
    assert segments.false_alarms(found, clip.labels, margin=0.1) == []


def test_no_frame_of_silence_or_noise_counts_as_speech(clip, probabilities):
    starts = np.arange(len(probabilities)) * clip_module.FRAME_SECONDS
    ends = starts + clip_module.FRAME_SECONDS
    margin = clip_module.FRAME_SECONDS  # a frame beyond a label still remembers it
    outside = np.all([(ends < label.start) | (starts > label.end + margin) for label in clip.labels], axis=0)
    assert outside.sum() > 120
    assert probabilities[outside].max() < segments.VENDOR_RULE.release


def vendors_rule():
    """The vendor's own function from probabilities to segments, in samples."""
    vendor_file(vendor.MAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from silero_vad.utils_vad import get_speech_timestamps_from_probs  # its import sets PyTorch to one thread
    return get_speech_timestamps_from_probs


def test_segments_are_the_vendors_for_any_probabilities():
    theirs = vendors_rule()
    random = np.random.default_rng(0)
    for _ in range(300):
        T = int(random.integers(1, 200))
        walk = np.cumsum(random.normal(0, random.choice([0.05, 0.2, 0.6]), T))
        heard = 1 / (1 + np.exp(-3 * walk))
        samples = T * 512 - int(random.integers(0, 512))
        rule = Rule(min_silence=int(random.choice([0, 50, 100, 300])), pad=int(random.choice([0, 30, 200])))
        expected = theirs(
            list(heard), audio_length_samples=samples, min_silence_duration_ms=rule.min_silence, speech_pad_ms=rule.pad
        )
        found = find_segments(heard, samples, rule=rule)
        in_samples = [(round(start * 16_000), round(end * 16_000)) for start, end in found]
        assert in_samples == [(segment["start"], segment["end"]) for segment in expected]


def frames_of(*runs: tuple[float, int]) -> list[float]:
    return [level for level, count in runs for _ in range(count)]


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        pytest.param(frames_of((0.1, 50)), [], id="silence"),
        pytest.param(frames_of((0.9, 50)), [(0, 25_600)], id="speech throughout"),
        pytest.param(frames_of((0.1, 10), (0.9, 20), (0.1, 20)), [(10 * 512 - 480, 30 * 512 + 480)], id="padded"),
        pytest.param(frames_of((0.1, 10), (0.9, 7), (0.1, 20)), [], id="shorter than 250 ms"),
        pytest.param(frames_of((0.9, 10), (0.1, 3), (0.9, 10)), [(0, 23 * 512)], id="a pause of 96 ms"),
        pytest.param(
            frames_of((0.9, 10), (0.1, 5), (0.9, 10)), [(0, 5120 + 480), (15 * 512 - 480, 25 * 512)], id="a pause of 160 ms"
        ),
        pytest.param(frames_of((0.9, 10), (0.4, 30), (0.9, 5)), [(0, 45 * 512)], id="between the thresholds nothing changes"),
        pytest.param(frames_of((0.4, 10), (0.5, 10), (0.4, 10)), [(5120 - 480, 30 * 512)], id="reaching the threshold counts"),
    ],
)
def test_segments_by_rule(heard, expected):
    found = find_segments(heard, len(heard) * 512)
    assert [(round(start * 16_000), round(end * 16_000)) for start, end in found] == expected


@st.composite
def heard_and_rule(draw):
    heard = draw(st.lists(st.floats(0, 1), min_size=0, max_size=120))
    low, high = sorted((draw(st.floats(0, 1)), draw(st.floats(0, 1))))
    durations = {name: draw(st.integers(0, 500)) for name in ("min_silence", "min_speech", "pad")}
    return heard, Rule(threshold=high, release=low, **durations)


@settings(deadline=None)
@given(heard_and_rule(), st.integers(0, 511))
def test_segments_are_in_order_disjoint_and_inside_the_clip(case, missing):
    heard, rule = case
    samples = max(0, len(heard) * 512 - missing)
    found = find_segments(heard, samples, rule=rule)
    times = [time for segment in found for time in segment]
    assert times == sorted(times)
    assert all(end > start for start, end in found)
    assert all(0 <= time <= samples / 16_000 for time in times)


@settings(deadline=None)
@given(heard_and_rule())
def test_what_never_reaches_the_threshold_is_no_speech(case):
    heard, rule = case
    assert find_segments([value for value in heard if value < rule.threshold], len(heard) * 512, rule=rule) == []


@settings(deadline=None)
@given(heard_and_rule())
def test_a_segment_is_longer_than_the_shortest_speech(case):
    heard, rule = case
    for start, end in find_segments(heard, len(heard) * 512, rule=rule):
        assert end - start > rule.min_speech / 1000 - 1e-9


@pytest.mark.parametrize("wrong", [{"threshold": 0.3}, {"release": -0.1}, {"threshold": 1.5}, {"pad": -1}])
def test_rule_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="found"):
        Rule(**wrong)


def test_overlap_is_measured_in_time():
    found = [Segment(0.0, 1.0), Segment(5.0, 6.0)]
    labelled = [Segment(0.5, 1.5), Segment(3.0, 4.0)]
    match = segments.overlap(found, labelled)
    assert match.precision == pytest.approx(0.25)
    assert match.recall == pytest.approx(0.25)
    assert match.missed == (Segment(3.0, 4.0),)


def test_false_alarms_are_the_parts_outside_labels_and_margin():
    labelled = [Segment(1.0, 2.0), Segment(3.0, 4.0)]
    assert segments.false_alarms([Segment(0.95, 2.05)], labelled) == []
    assert segments.false_alarms([Segment(0.5, 5.0)], labelled, margin=0.25) == [
        Segment(0.5, 0.75),
        Segment(2.25, 2.75),
        Segment(4.25, 5.0),
    ]


# The clip


def test_clip_is_framed_without_loss(clip):
    frames = clip.frames()
    assert frames.shape == (705, 512)
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames.reshape(-1)[: len(clip.samples)], clip.samples)
    assert all(label.end <= clip.seconds for label in clip.labels)


def test_clip_of_another_rate_is_refused(tmp_path):
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 100)
    (tmp_path / "speech.json").write_text(json.dumps({"speech": []}))
    with pytest.raises(ValueError, match="8000"):
        clip_module.read_clip(tmp_path)


# What `edgeseq plan` says of it: docs/plans.md

# Layer by layer: (rows, inputs, outputs) of each product, and its weights and biases.
LAYERS = {
    "stft": (4, 256, 258, 0),
    "conv1": (4, 3 * 129, 128, 128),
    "conv2": (1, 4 * 128, 128, 128),
    "conv3": (1, 128, 64, 64),
    "conv4": (1, 64, 128, 128),
    "lstm": (1, 128 + 128, 4 * 128, 2 * 4 * 128),
    "head": (1, 128, 1, 1),
}
OPERATIONS = sum(2 * rows * inputs * outputs for rows, inputs, outputs, _ in LAYERS.values())
WEIGHTS = sum(inputs * outputs + biases for _, inputs, outputs, biases in LAYERS.values())
RECURRENT = 128 * 4 * 128
NUMBERS = 512 + 64 + 128 + 128 + 1 + 64 + 128 + 128  # in and out, of a step of one clip
# (bandwidth in GB/s, TFLOPS in fp32, memory in GB, cache in MB), from the pages that the profiles name.
FIGURES = {
    "jetson-orin-nano-8gb": (68.22, 1.28, 8, 2),
    "jetson-t5000": (273.2, 12.9, 128, 50),
    "rtx-4090": (1010, 82.6, 24, 72),
    "h100-sxm5-80gb": (3360, 66.9, 80, 50),
}


def test_the_network_is_the_one_counted_by_hand(bundle):
    assert int(open_bundle(bundle).manifest.provenance["parameters"]) == WEIGHTS
    assert tuple(FIGURES) == device_pages.PLANNED


def test_the_plans_of_the_page_are_what_the_command_shows(bundle):
    page = (EXAMPLE.parents[1] / "docs" / "plans.md").read_text("utf-8")
    assert device_pages.filled(page, device_pages.plan_blocks(bundle)) == page


@pytest.mark.parametrize("device", FIGURES)
def test_the_bounds_and_the_memory_are_those_computed_by_hand(device, bundle):
    bandwidth, tflops, gigabytes, cache = FIGURES[device]
    T, B = 2000, 8
    opened = open_bundle(bundle)
    forecast = make_forecast(opened, device, rate=31.25, axes=["T=1:100:2000"])
    found = {(bound.mode, bound.precision): bound for bound in forecast.bounds}
    for precision, width in (("fp32", 4), ("fp16", 2), ("int8", 1)):
        step, sequence = found["step", precision], found["sequence", precision]
        assert width * WEIGHTS <= cache * 1e6  # so all of them stay in the cache
        assert (step.operations, sequence.operations) == (OPERATIONS, 100 * OPERATIONS)
        assert step.streaming_seconds == pytest.approx((width * WEIGHTS + 4 * NUMBERS) / (bandwidth * 1e9))
        assert step.memory_seconds == pytest.approx(4 * NUMBERS / (bandwidth * 1e9))
        numbers = 100 * (512 + 1) + 2 * (64 + 128 + 128)
        once = width * (WEIGHTS + 99 * RECURRENT)
        assert sequence.streaming_seconds == pytest.approx((once + 4 * numbers) / (bandwidth * 1e9))
    step = found["step", "fp32"]
    assert step.compute_seconds == pytest.approx(OPERATIONS / (tflops * 1e12))
    assert step.seconds == pytest.approx(max(OPERATIONS / (tflops * 1e12), 4 * NUMBERS / (bandwidth * 1e9)))
    assert forecast.busy_share(step) == pytest.approx(31.25 * step.seconds)
    need = forecast.memory
    assert (need.weights, need.states, need.device) == (4 * WEIGHTS, 2 * 4 * B * (64 + 128 + 128), gigabytes * 10**9)
    # Of the largest neighbours in the graph: three bands of the spectrum side by side, and what they were cut from, are alive.
    assert 4 * T * B * 4 * 2 * 387 < need.activations < 4 * T * B * 4 * 3 * 387
    assert need.total == need.weights + need.states + need.activations + (need.workspace or 0)
    assert need.workspace == (min(1 << 30, gigabytes * 10**9 // 8) if device.startswith("jetson") else None)
