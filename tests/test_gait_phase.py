"""The gait recipe: its network, its error, its data, and the vendor's models run as the vendor runs them."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeseq_export import ExportNotice, export_request
from edgeseq_recipes.experiments import gait_phase
from edgeseq_recipes.experiments.gait_data import (
    SIGNAL,
    VALIDATION,
    Recording,
    angular_error,
    package_folder,
    path_of_test,
    read_columns,
    read_test,
    read_training,
    reference_phase,
    squared_error,
)
from edgeseq_recipes.experiments.gait_network import GaitEnsemble, GaitNetwork, streaming_request
from edgeseq_recipes.experiments.gait_vendor import RECORDED, VALIDATED, WINDOW, VendorModel, vendor_scaling
from edgeseq_recipes.experiments.gait_windows import Variation, Windows
from edgeseq_recipes.run import Run
from edgeseq_runtime import load, measure_parity, open_bundle
from edgeseq_runtime.errors import UsageError

STILL = Variation(turns=0, pace=0, rhythm=0, bend=0, gain=0, tilt=0, noise=0)


def small_network(width=3, hidden=4):
    mean, scale = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 2.0])
    return GaitNetwork(mean, scale, channels=3, width=width, hidden=hidden).double()


def walk(name, signal, phase=None):
    return Recording(name, signal, signal if phase is None else phase, np.ones(len(signal), bool))


def unit_vectors(degrees):
    radians = np.radians(np.asarray(degrees, float))
    return np.stack([np.sin(radians), np.cos(radians)], axis=1)


@pytest.fixture(scope="module")
def training():
    return read_training()


@pytest.fixture(scope="module")
def scaling(training):
    return vendor_scaling(training)


# ---- the network


def phases_by_loop(network, x):
    """The equations in NumPy, one sample of one sequence at a time: x (T, 2) -> (T, 4)."""
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    width = network.conv.kernel_size[0]
    rows = np.concatenate([np.zeros((width - 1, 2)), x])
    h = np.zeros(network.gru.hidden_size)
    found = []
    for t in range(len(x)):
        normal = (rows[t : t + width] - weights["mean"]) / weights["scale"]
        seen = np.tanh(np.einsum("cik,ki->c", weights["conv.weight"], normal) + weights["conv.bias"])
        gates_x = weights["gru.weight_ih_l0"] @ seen + weights["gru.bias_ih_l0"]
        gates_h = weights["gru.weight_hh_l0"] @ h + weights["gru.bias_hh_l0"]
        (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(gates_x, 3), np.split(gates_h, 3)
        r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
        h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
        y = weights["readout.weight"] @ h + weights["readout.bias"]
        found.append(np.concatenate([y[:2] / np.hypot(*y[:2]), y[2:] / np.hypot(*y[2:])]))
    return np.array(found)


def test_network_equals_its_equations():
    network = small_network()
    x = torch.randn(9, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        now, ahead, context, h = network(x, *network.start(2))
    for b in range(2):
        expected = phases_by_loop(network, x[:, b].numpy())
        np.testing.assert_allclose(torch.cat([now, ahead], dim=-1)[:, b], expected, atol=1e-10)
    assert context.equal(x[-2:])
    assert h.shape == (1, 2, 4)


@pytest.mark.parametrize("members", [1, 2])
def test_chunk_by_chunk_equals_the_whole(members):
    networks = [small_network(width=5) for _ in range(members)]
    network = GaitEnsemble(networks) if members > 1 else networks[0]
    x = torch.randn(17, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x, *network.start(3))
        pieces, state = [], network.start(3)
        for piece in x.split([1, 2, 1, 7, 3, 3]):  # shorter and longer than the convolution's context
            now, ahead, *state = network(piece, *state)
            pieces.append((now, ahead))
    for found, expected in zip((*map(torch.cat, zip(*pieces, strict=True)), *state), whole, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_no_output_depends_on_a_later_sample():
    network, T = small_network(), 7
    x = torch.randn(T, 1, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.stack(network(x, *network.start(1))[:2]), x)
    size = jacobian.reshape(2, T, 2, T, 2).abs().amax(dim=(0, 2, 4))  # (output's row, input's row)
    assert size.triu(1).max() == 0
    assert (size[torch.ones(T, T).tril().bool()] > 0).all()  # and on every sample up to its own


def test_gradients():
    network = small_network()
    x, context = torch.randn(4, 2, 2, dtype=torch.float64), torch.randn(2, 2, 2, dtype=torch.float64)
    h = torch.randn(1, 2, 4, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (x, context, h)]
    assert torch.autograd.gradcheck(lambda *given: network(*given), inputs)


def test_an_ensemble_says_the_mean_direction_of_its_members():
    members = [small_network(), small_network(), small_network()]
    network = GaitEnsemble(members)
    x = torch.randn(9, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        now, ahead, context, h = network(x, *network.start(2))
        states = [member(x, *member.start(2))[3] for member in members]
    for b in range(2):
        total = sum(phases_by_loop(member, x[:, b].numpy()) for member in members)
        np.testing.assert_allclose(now[:, b], total[:, :2] / np.hypot(total[:, :1], total[:, 1:2]), atol=1e-10)
        np.testing.assert_allclose(ahead[:, b], total[:, 2:] / np.hypot(total[:, 2:3], total[:, 3:]), atol=1e-10)
    assert context.equal(x[-2:])
    torch.testing.assert_close(h, torch.cat(states))


def test_exported_network_streams_and_is_proved(tmp_path):
    mean, scale = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 2.0])
    network = GaitEnsemble([GaitNetwork(mean, scale), GaitNetwork(mean, scale)]).eval()
    path = tmp_path / "gait.edgeseq"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        export_request(streaming_request(network), path)
    bundle = open_bundle(path)
    assert bundle.manifest.census == {"GRU": 2}
    assert bundle.state == {"context": "context_out", "h": "h_out"}
    assert measure_parity(path, device="cpu").passed
    x = torch.randn(40, 1, 2)
    stream = load(path, device="cpu").stream()
    found = [stream.step({"x": sample[None].numpy()}) for sample in x]
    with torch.no_grad():
        now, ahead, _, h = network(x, *network.start(1))
    np.testing.assert_allclose(np.concatenate([step["now"] for step in found]), now, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([step["ahead"] for step in found]), ahead, atol=1e-5)
    np.testing.assert_allclose(stream.state["h"], h, atol=1e-5)


# ---- the error


def test_angles_go_the_shorter_way_round():
    predicted = unit_vectors([0, 10, 179, -179, 90, 180, 350])
    true = unit_vectors([0, -10, -179, 179, -90, 0, 10])
    np.testing.assert_allclose(angular_error(predicted, true), [0, 20, 2, 2, 180, 180, 20], atol=1e-9)


def test_angle_of_a_vector_of_any_length():
    np.testing.assert_allclose(angular_error(0.1 * unit_vectors([30]), unit_vectors([0])), [30])


def test_squared_error_is_one_minus_the_cosine():
    true = unit_vectors([0, 0, 0, 0])
    np.testing.assert_allclose(squared_error(unit_vectors([0, 60, 90, 180]), true), (0 + 0.5 + 1 + 2) / 4)
    assert squared_error(unit_vectors([179]), unit_vectors([-179])) == pytest.approx(1 - np.cos(np.radians(2)))


# ---- the data


def test_columns_are_read_by_name(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text("Time;b;a\n10:00;1.5;2\n10:01;-3e-2;4\n", encoding="utf-8")
    np.testing.assert_array_equal(read_columns(path, ("a", "b")), [[2, 1.5], [4, -0.03]])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no column"),
        ("Time;a\n10:00;1\n", r"no column \['b'\]"),
        ("a;b\n", "no row"),
        ("a;b\n1;2\n3\n", "row 2, has 1 fields"),
        ("a;b\n1;2\n3;x\n", "'x'"),
        ("a;b\n1;2\n3;\n", "not a number"),
        ("a;b\n1;2\n3;nan\n", "row 2.*not finite"),
        ("a;b\n1;\xff\n", "can't read"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, complaint):
    path = tmp_path / "walk.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=complaint) as error:
        read_columns(path, ("a", "b"))
    assert str(path) in str(error.value)


def test_a_missing_file_or_package_is_said(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="can't read"):
        read_columns(tmp_path / "none.csv", ("a",))
    with pytest.raises(UsageError, match=r"install version 0\.1\.6"):
        read_training(tmp_path)
    monkeypatch.setattr("edgeseq_recipes.experiments.gait_data.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps"):
        package_folder()


def test_reference_phase_of_a_known_swing():
    """A cosine of 1 Hz peaks at every whole second; the phase is -pi there and grows evenly. It is 0 where the hip rests."""
    t = np.arange(3000) / 100
    walking = (t >= 5) & (t < 24)
    phase, clear = reference_phase(np.where(walking, 0.4 * np.cos(2 * np.pi * t), 0.0))
    inside = (t >= 7) & (t < 22)
    expected = unit_vectors(360 * (t % 1) - 180)
    # The filter moves the peaks near the ends by a sample or two, 3.6 degrees each.
    assert angular_error(phase[inside], expected[inside]).max() < 8
    resting = (t < 3) | (t > 27)
    np.testing.assert_array_equal(phase[resting], [[0, 1]] * int(resting.sum()))
    assert clear[inside | resting].all()
    assert not clear[(t > 4.6) & (t < 4.9)].any()  # it has begun to move, and the first peak is still to come


def test_a_cycle_cut_by_a_stop_is_not_clear():
    """Walking, a stop of four seconds, walking: the cycle from the last peak before the stop to the first after it is cut."""
    t = np.arange(3000) / 100
    phase, clear = reference_phase(np.where((t < 13) | (t >= 17), 0.4 * np.cos(2 * np.pi * t), 0.0))
    resting = (t > 14.5) & (t < 15.5)
    np.testing.assert_array_equal(phase[resting], [[0, 1]] * int(resting.sum()))
    assert clear[resting].all()
    assert not clear[(t > 13.02) & (t < 13.3)].any()
    assert clear[(t > 3) & (t < 11)].all()


def test_reference_phase_is_the_rule_of_the_vendors_labels(training):
    """On 97 % of the rows to a degree; where it is clear, on all but a few hundred rows to 15 degrees."""
    assert len(training) == 8
    close, far_and_clear = [], []
    for name, recording in training.items():
        phase, clear = reference_phase(recording.signal[:, 0])
        errors = angular_error(phase, recording.phase)
        assert (errors < 1).mean() > 0.89, name
        assert np.median(errors) < 1e-6, name
        assert clear.mean() > 0.85, name
        close.append(errors < 1)
        far_and_clear.append((errors > 15)[clear])
    assert np.concatenate(close).mean() > 0.96
    assert np.concatenate(far_and_clear).mean() < 0.004


def test_windows_are_the_recordings_rows():
    rows = np.arange(400.0)
    recordings = [walk(str(k), np.stack([rows + k, rows + k], 1)) for k in (0, 1000)]
    x, now, ahead = Windows(recordings, 7, STILL).draw(torch.Generator().manual_seed(3), 50, 64)
    assert x.shape == now.shape == ahead.shape == (50, 64, 2)
    torch.testing.assert_close(x[1:] - x[:-1], torch.ones(49, 64, 2), atol=1e-3, rtol=0)  # never from one recording into another
    assert ((x[0] < 400) | (x[0] >= 1000)).all()
    assert (x[0, :, 0] < 400).any()
    assert (x[0, :, 0] >= 1000).any()
    assert (now - x).abs().max() <= 0.51  # the nearest row
    torch.testing.assert_close(ahead, now + 7)


@pytest.mark.parametrize(("rhythm", "bend"), [(0, 0), (0.25, 0), (0, 0.5), (0.25, 0.5)])
def test_a_faster_walk_has_a_faster_velocity(rhythm, bend):
    """The angle's slope stays the velocity, however fast a window is walked, in what rhythm, and however far it swings."""
    t = np.arange(2000) / 100
    angle, velocity = 0.4 * np.sin(2 * np.pi * t), 0.8 * np.pi * np.cos(2 * np.pi * t)
    recording = walk("swing", np.stack([angle, velocity], 1))
    recording = replace(recording, phase=unit_vectors(360 * (t % 1) - 180))
    vary = Variation(turns=0, pace=0.3, rhythm=rhythm, bend=bend, gain=0.3, tilt=0.5, noise=0)
    x, _, _ = Windows([recording], 20, vary).draw(torch.Generator().manual_seed(0), 300, 16)
    slope = (x[2:, :, 0] - x[:-2, :, 0]) / 0.02
    assert (slope - x[1:-1, :, 1]).abs().max() < 0.1
    assert x[:, :, 1].amax(dim=0).std() > 0.2  # and they do differ


def test_another_rhythm_and_swing_leave_the_peaks_where_they_were():
    t = np.arange(3000) / 100
    angle, velocity = 0.4 * np.cos(2 * np.pi * t), -0.8 * np.pi * np.sin(2 * np.pi * t)
    recording = walk("swing", np.stack([angle, velocity], 1), unit_vectors(360 * (t % 1) - 180))
    vary = Variation(turns=0, pace=0.2, rhythm=0.25, bend=0.5, gain=0.2, tilt=0.5, noise=0)
    x, phase, _ = Windows([recording], 20, vary).draw(torch.Generator().manual_seed(1), 300, 16)
    peak = (x[1:-1, :, 0] > x[:-2, :, 0]) & (x[1:-1, :, 0] >= x[2:, :, 0])
    at_peaks = phase[1:-1][peak].numpy()
    assert len(at_peaks) >= 32
    assert angular_error(at_peaks, unit_vectors(np.full(len(at_peaks), 180.0))).max() < 5  # a row is 3.6
    plain, _, _ = Windows([recording], 20, replace(vary, rhythm=0, bend=0)).draw(torch.Generator().manual_seed(1), 300, 16)
    assert (x - plain)[..., 0].abs().amax() > 0.05


def test_a_window_longer_than_a_recording_is_refused():
    recording = walk("short", np.zeros((60, 2)))
    with pytest.raises(ValueError, match="window of 72 rows"):
        Windows([recording], 20, STILL).draw(torch.Generator(), 51, 1)


def test_neither_the_validation_nor_the_test_recording_is_learned_from(monkeypatch, tmp_path):
    learned = []
    real = gait_phase.Windows

    class Stop(Exception):
        pass

    def windows(recordings, lead):
        learned.extend(recordings)
        real(recordings, lead)
        raise Stop

    rng = np.random.default_rng(0)
    names = (VALIDATION, "H_4km", "J_4km")
    recordings = {name: walk(name, rng.standard_normal((900, 2))) for name in names}
    monkeypatch.setattr(gait_phase, "Windows", windows)
    with pytest.raises(Stop):
        gait_phase.trained_network(Run(tmp_path, quick=True), recordings)
    assert [recording.name for recording in learned] == ["H_4km", "J_4km"]


# ---- the vendor's models


def test_the_vendors_scaler_is_reproduced(scaling):
    """Its file holds the very numbers that we compute; it is searched as bytes and never unpickled."""
    stored = (package_folder() / "model" / VALIDATED / "scaler.pkl").read_bytes()
    assert stored == (package_folder() / "model" / RECORDED / "scaler.pkl").read_bytes()
    for pair in scaling:
        assert struct.pack("<2d", *pair) in stored


def test_the_vendors_recorded_predictions_are_reproduced(scaling):
    """The test file holds the phase that a vendor's model gave on the device. Ours is to be that, row by row."""
    recorded = read_columns(path_of_test(), ("GP_Model",))[:, 0]
    rows = np.arange(WINDOW - 1, len(recorded), 29)
    found = VendorModel(RECORDED, scaling).phases(read_columns(path_of_test(), SIGNAL), rows)
    assert angular_error(found, unit_vectors(np.degrees(recorded[rows]))).max() < 1e-3  # degrees


def test_the_vendors_validated_model_looks_twenty_rows_ahead(training, scaling):
    recording = training[VALIDATION]
    rows = np.arange(2000, 30_000, 97)
    found = VendorModel(VALIDATED, scaling).phases(recording.signal, rows)
    errors = {lead: squared_error(found, recording.phase[rows + lead]) for lead in (0, 10, 20, 30)}
    assert min(errors, key=errors.get) == 20


def test_a_vendor_model_that_is_not_there_is_said(scaling):
    with pytest.raises(UsageError, match="no edge model"):
        VendorModel("none", scaling)


# ---- the comparison


def turning_walk():
    """A phase that grows by a degree a row, not clear in every fifth; ours and the vendor's off by so many degrees."""
    test = walk("test", np.zeros((300, 2)), unit_vectors(np.arange(300.0)))
    test.clear[::5] = False
    rows = gait_phase.scored_rows(test, every=1)
    off = np.where(test.clear, 10.0, 170.0)
    ours = {"now": unit_vectors(rows + off[rows]), "ahead": unit_vectors(rows + 20.0)}
    theirs = {"now": unit_vectors(rows - 20.0), "ahead": unit_vectors(rows + 0.0)}
    return gait_phase.Compared(test, rows, ours, theirs)


def test_rows_are_scored_from_the_first_window_to_the_last_known_phase():
    rows = gait_phase.scored_rows(turning_walk().recording, every=1)
    assert rows[0] == WINDOW - 1
    assert rows[-1] + 20 == 299


def test_errors_are_ratios_of_ours_to_the_vendors():
    found = turning_walk()
    now, ours, theirs, ahead, _, theirs_ahead = gait_phase.error_measures("test", found, clear=True, highest=1.0)
    assert ours.reached == pytest.approx(1 - np.cos(np.radians(10)))
    assert theirs.reached == pytest.approx(1 - np.cos(np.radians(20)))
    assert now.reached == pytest.approx(ours.reached / theirs.reached)
    assert now.ok
    assert ahead.reached == pytest.approx(0, abs=1e-9)
    assert theirs_ahead.reached == pytest.approx(1 - np.cos(np.radians(20)))
    every = gait_phase.error_measures("test", found, clear=False, highest=1.0)
    assert every[1].reached > 10 * ours.reached
    assert every[0].ok is False


def test_angles_are_of_the_clear_rows():
    assert [measure.reached for measure in gait_phase.angle_measures("test", turning_walk())] == pytest.approx(
        [10, 20, 0, 20], abs=1e-5
    )


def test_latencies_are_compared_round_by_round():
    """A slow round slows all: the ratio is taken within each, and its median over the rounds."""
    rounds = {"ours": [10.0, 30.0, 10.0], RECORDED: [20.0, 60.0, 10.0], VALIDATED: [5.0, 15.0, 5.0]}
    ours, recorded, _, validated, _ = gait_phase.latency_measures(rounds)
    assert (ours.reached, recorded.reached, validated.reached) == (10, 0.5, 2)
    assert (ours.ok, recorded.ok, validated.ok) == (None, True, False)


def test_the_test_file_is_read_with_a_reference(scaling):
    test = read_test()
    assert len(test) == 6020
    np.testing.assert_allclose(np.hypot(*test.phase.T), 1)
    assert 0.8 < test.clear.mean() < 0.9
