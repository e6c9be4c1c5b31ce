"""The program `edgeseq`."""

import json
import os
import subprocess
import sys
import wave
from importlib.metadata import EntryPoint, version

import numpy as np
import pytest
import runtime_models
from test_parity import swapped_gates
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_runtime.cli import bench as bench_module
from edgeseq_runtime.cli import plugins
from edgeseq_runtime.cli.main import app

ONE_CASE = ({"T": 4, "B": 2},)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def good(folder):
    return str(runtime_models.lstm().write(folder / "good.edgeseq", notes=("a note",), hazards=("rule: text",)))


@pytest.fixture(scope="module")
def bad(folder):
    return str(runtime_models.faulty(runtime_models.lstm(), swapped_gates).write(folder / "bad.edgeseq", ONE_CASE))


def edgeseq(*arguments, code=0):
    """The finished call in this process; its exit code is checked, and that no line is over 80 columns."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert not isinstance(result.exception, Exception), result.exception
    assert "--json" in arguments or max(map(len, result.stdout.splitlines()), default=0) <= 80
    return result


def program(*arguments, **environment):
    """The finished call of the real program."""
    command = [sys.executable, "-m", "edgeseq_runtime.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_version_and_help():
    assert edgeseq("--version").stdout == f"edgeseq {version('edgeseq')}\n"
    listed = edgeseq("--help").stdout
    for command in ("inspect", "devices", "plan", "run", "parity", "records", "bench", "export", "train"):
        assert f"  {command} " in listed


@pytest.mark.parametrize("command", ["inspect", "devices", "plan", "run", "parity", "records", "bench"])
def test_every_command_has_help(command):
    assert "--debug" in edgeseq(command, "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [["inspekt"], ["parity"], ["parity", "--speed"], ["bench", "x", "--steps", "many"], ["run", "a", "b"]],
)
def test_bad_usage_exits_2(arguments):
    edgeseq(*arguments, code=2)


@pytest.mark.parametrize("command", ["inspect", "parity", "bench", "plan"])
def test_bad_input_exits_2_with_a_message_and_no_traceback(command, folder):
    result = edgeseq(command, folder / "none.edgeseq", code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: can't read the bundle")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback(before, folder):
    arguments = ["parity", folder / "none.edgeseq"]
    result = edgeseq(*(["--debug", *arguments] if before else [*arguments, "--debug"]), code=2)
    assert "Traceback" in result.stderr
    assert "UsageError" in result.stderr


def test_inspect_shows_what_the_bundle_holds(good):
    shown = edgeseq("inspect", good).stdout
    for text in ("lstm", "1 LSTM", "[T, B, 3]", "continues h", "T=20 B=2", "rule: text", "a note", "model.onnx"):
        assert text in shown
    found = json.loads(edgeseq("inspect", good, "--json").stdout)
    assert found["state"] == {"h": "h_out", "c": "c_out"}
    assert found["bundle_sha256"] == edgeseq_runtime.open_bundle(good).sha256


def test_inspect_shows_a_plain_onnx_too(folder):
    (folder / "m.onnx").write_bytes(runtime_models.gru().onnx)
    assert "[T, B, 3]" in edgeseq("inspect", folder / "m.onnx").stdout
    assert json.loads(edgeseq("inspect", folder / "m.onnx", "--json").stdout)["inputs"][0]["name"] == "x"


def test_devices_are_listed_and_shown(tmp_path):
    assert "cpu-aarch64" in edgeseq("devices").stdout
    assert "cuda-falls-back-per-node" in edgeseq("devices", "cuda").stdout
    assert "did you mean cuda" in edgeseq("devices", "cudda", code=2).stderr


def test_a_plan_needs_no_device(good):
    assert "CUDAExecutionProvider" in edgeseq("plan", good, "--device", "cuda").stdout
    assert json.loads(edgeseq("plan", good, "--json", "--threads", "3").stdout)["threads"] == 3


def test_parity_exits_0_where_all_is_equal(good):
    result = edgeseq("parity", good)
    assert "PASS: 18 pass, 0 fail, 0 skip" in result.stdout
    assert "k <= 4, k999 <= 8" in result.stdout
    assert result.stderr == ""
    assert json.loads(edgeseq("parity", good, "--json").stdout)["passed"] is True


def test_parity_exits_1_where_something_is_not(bad):
    result = edgeseq("parity", bad, code=1)
    assert "FAIL: " in result.stdout
    assert "fail: y, whole, T=4 B=2: k " in result.stdout
    assert json.loads(edgeseq("parity", bad, "--json", code=1).stdout)["passed"] is False


def test_parity_on_a_provider_that_is_not_there_exits_2(good):
    if "CUDAExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert "asks for CUDAExecutionProvider" in edgeseq("parity", good, "--device", "cuda", code=2).stderr


def arrays(T=6, B=1, **others):
    return {"x": np.random.default_rng(0).standard_normal((T, B, 3)).astype(np.float32), **others}


def test_run_gives_what_the_session_gives(good, tmp_path):
    inputs = arrays(T=6, B=2)
    np.savez(tmp_path / "in.npz", **inputs)
    shown = edgeseq("run", good, tmp_path / "in.npz", "-o", tmp_path / "out.npz").stdout
    assert "[6, 2, 8]" in shown
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        expected = edgeseq_runtime.load(good).run(inputs)
        assert set(out.files) == {"y", "h_out", "c_out"}
        for name, array in expected.items():
            np.testing.assert_array_equal(out[name], array)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("with_state", [False, True])
def test_run_in_chunks_gives_the_same(good, chunk, with_state, tmp_path):
    state = {name: np.full((1, 2, 8), 0.3, np.float32) for name in ("h", "c")} if with_state else {}
    inputs = arrays(T=10, B=2, **state)
    np.savez(tmp_path / "in.npz", **inputs)
    edgeseq("run", good, tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--chunk", chunk)
    with np.load(tmp_path / "out.npz") as out:
        for name, array in edgeseq_runtime.load(good).run(inputs).items():
            np.testing.assert_allclose(out[name], array, atol=1e-6)


def test_run_fills_in_lengths_and_refuses_ragged_chunks(tmp_path):
    model = runtime_models.gru(lengths=True)
    path = model.write(tmp_path / "m.edgeseq", ONE_CASE, draws=1)
    full = arrays(B=2, lengths=np.array([6, 6], np.int32))
    expected = edgeseq_runtime.load(path).run(full)["y"]
    for given in (arrays(B=2), full):
        np.savez(tmp_path / "in.npz", **given)
        for chunked in ([], ["--chunk", "4"]):
            edgeseq("run", path, tmp_path / "in.npz", "-o", tmp_path / "out.npz", *chunked)
            np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], expected, atol=1e-6)
    np.savez(tmp_path / "in.npz", **arrays(B=2, lengths=np.array([6, 2], np.int32)))
    edgeseq("run", path, tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    refused = edgeseq("run", path, tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--chunk", 2, code=2)
    assert "can't be cut into the same chunks" in refused.stderr


@pytest.mark.parametrize("chunked", [[], ["--chunk", "5"]])
def test_run_takes_a_sound_as_frames_and_says_what_it_filled_up(good, chunked, tmp_path):
    samples = np.arange(-500, 500, dtype="<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    result = edgeseq("run", good, tmp_path / "a.wav", "-o", tmp_path / "out.npz", *chunked)
    assert "334 frames of 3, the last filled up with 2 zeros" in " ".join(result.stderr.split())
    frames = np.append(samples / 32768, [0, 0]).astype(np.float32).reshape(334, 1, 3)
    expected = edgeseq_runtime.load(good).run({"x": frames})["y"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], expected, atol=1e-6)


def test_run_refuses_what_it_can_not_read_and_leaves_no_output(good, tmp_path):
    out = tmp_path / "out.npz"
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "a.txt").write_text("no arrays")
    np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 1, 3)))
    np.savez(tmp_path / "unknown.npz", z=np.zeros(1))
    for name, message in (
        ("pickled.npz", "Object arrays cannot be loaded"),
        ("text.npz", "as an .npz of plain arrays"),
        ("none.npz", "No such file"),
        ("a.txt", "neither .npz nor .wav"),
        ("wrong.npz", "dtype float64"),
        ("unknown.npz", "unknown: ['z']"),
    ):
        for chunked in ([], ["--chunk", "2"]):
            assert message in edgeseq("run", good, tmp_path / name, "-o", out, *chunked, code=2).stderr
    assert not out.exists()


def test_run_replaces_an_output_whole(good, tmp_path):
    np.savez(tmp_path / "in.npz", **arrays())
    (tmp_path / "out.npz").write_bytes(b"old")
    edgeseq("run", good, tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["y"].shape == (6, 1, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "out.npz"]
    assert "can't write" in edgeseq("run", good, tmp_path / "in.npz", "-o", tmp_path, code=2).stderr


def test_an_output_may_have_any_name(tmp_path):
    """`numpy.savez` itself fails on an array called `file`."""
    from edgeseq_runtime.cli.arrays import read_npz, write_npz

    write_npz(tmp_path / "o.npz", {"file": np.arange(3), "a/b": np.zeros(())})
    assert read_npz(tmp_path / "o.npz")["file"].tolist() == [0, 1, 2]


def test_bench_prints_both_modes_and_a_hint(good):
    result = edgeseq("bench", good, "--seconds", "0.01", "--steps", "9")
    assert "step" in result.stdout
    assert "sequence" in result.stdout
    assert "--torch module.path:factory" in result.stderr
    report = json.loads(edgeseq("bench", good, "--seconds", "0.01", "--json").stdout)
    assert [row["T"] for row in report["rows"]] == [1, 100]


def test_bench_times_a_pytorch_module_that_the_user_names(good, monkeypatch):
    asked = []

    def load_pytorch(spec):
        asked.append(spec)
        return lambda inputs: runtime_models.lstm().expect(inputs, "float32")

    point = EntryPoint("pytorch", f"{__name__}:load", bench_module.PEERS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: load_pytorch)
    monkeypatch.setattr(bench_module, "entry_points", lambda group, name: [point])
    shown = edgeseq("bench", good, "--seconds", "0.01", "--torch", "my.module:make")
    assert asked == ["my.module:make"]
    assert shown.stdout.count("pytorch") == 2
    assert "hint" not in shown.stderr
    edgeseq("bench", good, "--seconds", "0.01")
    assert len(asked) == 1


class TestPlugins:
    """Commands of other packages."""

    @pytest.fixture
    def install(self, monkeypatch):
        def install(main):
            point = EntryPoint("export", "some.where:main", plugins.GROUP)
            monkeypatch.setattr(plugins, "entry_points", lambda group, name=None: [point])

            def load(self):
                if isinstance(main, Exception):
                    raise main
                return main

            monkeypatch.setattr(EntryPoint, "load", load)

        return install

    def test_arguments_go_through_as_they_are(self, install):
        seen = []
        install(seen.append)
        given = ["pkg:make", "-o", "x y.edgeseq", "--help", "--axes", "x=T,B", "-v", "--", "--last"]
        edgeseq("export", *given)
        assert [one for one in seen[0] if one != "--"] == [one for one in given if one != "--"]
        edgeseq("export", "--help", "pkg:make")
        assert seen[1] == ["--help", "pkg:make"]

    @pytest.mark.parametrize("code", [0, 1, 2])
    def test_its_exit_code_is_the_programs(self, install, code):
        install(lambda argv: code)
        edgeseq("export", code=code)
        install(lambda argv: sys.exit(code))
        edgeseq("export", code=code)

    def test_its_errors_are_reported_like_all_others(self, install):
        def main(argv):
            raise edgeseq_runtime.errors.ExportError(f"no module in {argv}")

        install(main)
        assert edgeseq("export", "a", code=2).stderr == "error: no module in ['a']\n"
        assert "Traceback" in edgeseq("export", "a", "--debug", code=2).stderr

    @pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'torch'"), ImportError("torch is broken")])
    def test_where_pytorch_is_absent_it_says_which_extra_brings_it(self, install, error):
        install(error)
        shown = edgeseq("export", "a", code=2).stderr
        assert 'pip install "edgeseq[export]"' in shown
        assert str(error) in shown

    def test_help_loads_no_command(self, install):
        install(AssertionError("loaded"))
        edgeseq("--help")


def test_the_real_program_writes_results_to_stdout_and_nothing_else(good, bad, folder):
    passed = program("parity", good, COLUMNS="80")
    assert (passed.returncode, passed.stderr) == (0, "")
    assert "PASS" in passed.stdout
    assert "\x1b" not in passed.stdout
    assert max(map(len, passed.stdout.splitlines())) <= 80
    assert program("parity", bad).returncode == 1
    missing = program("parity", folder / "none.edgeseq")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: ")
    assert json.loads(program("inspect", good, "--json").stdout)["name"] == "lstm"


def test_the_real_program_reads_well_where_only_ascii_can_be_written(good):
    shown = program("inspect", good, PYTHONIOENCODING="ascii", COLUMNS="80")
    assert (shown.returncode, shown.stderr) == (0, "")


def test_a_closed_pipe_is_no_traceback(good):
    command = f"{sys.executable} -m edgeseq_runtime.cli.main inspect {good} --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr
