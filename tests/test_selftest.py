"""`edgeseq selftest` on planted boards and on this machine: what is missing, what is proved, what the page and the screen show."""

import importlib.util
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import runtime_models
from html_tree import parsed
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_models import faulty
from selftest_boards import orin_nano, plant
from test_parity import swapped_gates
from typer.testing import CliRunner

from edgeseq_runtime import load, load_device, open_bundle
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.detect import detect_machine
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.provider_needs import Missing
from edgeseq_runtime.selftest import builtin_bundle, run_selftest, selftest_page
from edgeseq_runtime.selftest.board import read_board
from edgeseq_runtime.selftest.environment import environment_checks
from edgeseq_runtime.suite.record import read_record

ONE_CASE = ({"T": 4, "B": 2},)
FAST = 0.002  # seconds of a bench
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "selftest_bundle.py"


def run(*arguments, code=0, columns="120"):
    done = CliRunner().invoke(app, ["selftest", *map(str, arguments)], env={"COLUMNS": columns, "TERM": "dumb"})
    assert done.exit_code == code, done.output
    return done


def selftest_of(root, tmp_path, *, device="cpu", model=None):
    with builtin_bundle() as path:
        if model is not None:
            path = model.write(tmp_path / "m.edgeseq", ONE_CASE)
        return run_selftest(path, device=device, seconds=FAST, root=root), open_bundle(path)


def by_name(test):
    return {check.name: check for check in test.checks}


def checks_of(root, device="cpu"):
    """The environment alone: nothing is opened."""
    with builtin_bundle() as path:
        bundle, profile = open_bundle(path), load_device(device)
    plan = make_plan(bundle, profile)
    checks = environment_checks(detect_machine(root, nvml=None), read_board(root), profile, plan, 1_000_000, root)
    return {check.name: check for check in checks}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("board"), orin_nano())


def test_the_bundle_that_comes_with_it_is_small_and_streams():
    with builtin_bundle() as path:
        assert path.stat().st_size < 100_000
        assert open_bundle(path).manifest.census == {"LSTM": 1, "GRU": 1}
        assert load(path).stream().step({"x": np.ones((3, 1, 2), np.float32)})["y"].shape == (3, 1, 2)


@pytest.mark.slow
def test_the_bundle_that_comes_with_it_is_what_the_script_makes(tmp_path):
    spec = importlib.util.spec_from_file_location("selftest_bundle", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = open_bundle(script.write_selftest_bundle(tmp_path / "made.edgeseq"))
    with builtin_bundle() as path:
        shipped = open_bundle(path)
    # Float arithmetic of another CPU may differ in its last bits, and versions are those it was made with.
    same = {"provenance": {}, "sha256": {}}
    assert msgspec.structs.replace(shipped.manifest, **same) == msgspec.structs.replace(made.manifest, **same)
    for ours, theirs in zip(shipped.reference(), made.reference(), strict=True):
        assert all(np.array_equal(array, theirs.inputs[name]) for name, array in ours.inputs.items())
        assert all(np.allclose(array, theirs.float64[name], rtol=0, atol=1e-12) for name, array in ours.float64.items())


def test_this_machine_passes_with_the_bundle_that_comes_with_it(tmp_path):
    shown = run("-o", tmp_path / "out", "--seconds", FAST, "--device", "cpu").stdout
    found = json.loads((tmp_path / "out/selftest.json").read_text())
    assert found["passed"]
    assert found["kind"] == "edgeseq self-test"
    assert [(step["name"], step["verdict"]) for step in found["steps"]] == [
        (name, "pass") for name in ("environment", "session", "parity", "bench")
    ]
    assert f"PASS: {tmp_path / 'out/selftest.json'}, {tmp_path / 'out/selftest.html'}" in shown
    assert {row["mode"] for row in found["bench"]["rows"]} == {"step", "sequence"}
    assert (tmp_path / "out/selftest.html").read_text().startswith("<!doctype html>")


def test_its_record_is_one_that_edgeseq_records_reads(board, tmp_path):
    test, bundle = selftest_of(board, tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(test.to_json()["record"]))
    record = read_record(tmp_path / "record.json")
    assert (record.verdict, record.report.sha256) == ("pass", bundle.sha256)


def test_a_board_is_described_as_its_files_say(board, tmp_path):
    test, _ = selftest_of(board, tmp_path)
    checks = by_name(test)
    assert checks["device"].found.startswith("NVIDIA Jetson Orin Nano Developer Kit: jetson-orin-nano-8gb")
    assert checks["JetPack"].found == "6.2 (Jetson Linux 36.4.3), which brings CUDA 12.6, TensorRT 10.3"
    assert checks["memory"].found.startswith("8.0 GB, 5.1 GB of it free; the bundle needs ")
    assert checks["swap"].found == "/dev/zram0 0.7 GB, /dev/zram1 0.7 GB"
    assert checks["power mode"].found == "2 MAXN_SUPER; there are also 0 15W, 1 25W"
    assert checks["clocks"].found.startswith(
        "CPU 0 to 5: 115 to 1728 MHz, now 730 (schedutil); GPU: 306 to 1020 MHz, now 306 (nvhost"
    )
    assert checks["clocks"].do == ("sudo jetson_clocks",)
    assert checks["temperature"].found == "at most 51 °C (cpu-thermal)"
    assert test.passed  # nothing of this is in the way of a CPU
    assert test.to_json()["board"]["power"] == {"number": 2, "name": "MAXN_SUPER", "modes": {0: "15W", 1: "25W", 2: "MAXN_SUPER"}}


def test_the_python_of_the_board_is_told_where_this_is_another(board, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.12.3")
    assert checks_of(board)["Python"].do == ("python3.10 -m venv --system-site-packages .venv",)
    monkeypatch.setattr("platform.python_version", lambda: "3.10.12")
    assert checks_of(board)["Python"].verdict == "good"


def test_a_small_board_without_swap_on_disk_is_told_how_to_make_one(tmp_path):
    small = checks_of(plant(tmp_path / "a", orin_nano(total=3_900_000)))["swap"]
    assert (small.verdict, small.do[1].split()[:3]) == ("note", ["sudo", "fallocate", "-l"])
    assert checks_of(plant(tmp_path / "b", orin_nano(total=3_900_000, disk=True)))["swap"].verdict == "good"


def test_locked_clocks_heat_and_little_memory(tmp_path):
    locked = checks_of(plant(tmp_path / "a", orin_nano(locked=True)))["clocks"]
    assert (locked.verdict, locked.found.partition(",")[0]) == ("good", "CPU 0 to 5: 1728 MHz")
    hot = checks_of(plant(tmp_path / "b", orin_nano(hot=True)))["temperature"]
    assert (hot.verdict, hot.found.partition(":")[0]) == ("note", "gpu-thermal 100 °C, slowed from 99 °C")
    full = checks_of(plant(tmp_path / "c", orin_nano(free=100)))["memory"]
    assert (full.verdict, full.do[0].partition("  ")[0]) == ("note", "sudo init 3")


def test_a_gpu_that_is_not_asked_for_is_in_nobodys_way(board, tmp_path):
    gpu = checks_of(board)["GPU"]
    assert gpu.verdict == "note"
    assert "--device cuda lacks: onnxruntime-gpu, libcudart.so, libcublas.so" in gpu.found
    assert "sudo apt update && sudo apt install nvidia-jetpack" in gpu.do


@pytest.mark.parametrize("device", ["cuda", "jetson-orin-nano-8gb"])
def test_what_a_device_needs_and_is_not_there_fails_the_test_with_its_command(device, board, tmp_path):
    if "onnxruntime-gpu" in detect_machine().packages or importlib.util.find_spec("tensorrt"):
        pytest.skip("a GPU's packages are installed here")
    test, bundle = selftest_of(board, tmp_path, device=device)
    assert not test.passed
    lacking = [check for check in test.checks if check.verdict == "missing"]
    has_bindings = device != "cuda" and importlib.util.find_spec("tensorrt_rtx") is not None
    assert {check.name for check in lacking} >= {"library"} | ({"driver"} if has_bindings else {"package"})
    assert all(check.do for check in lacking)
    assert any("sudo apt" in command for check in lacking for command in check.do)
    assert {step.name: step.verdict for step in test.steps} == {
        "environment": "pass", "session": "fail", "parity": "skip", "bench": "skip",
    }  # fmt: skip
    assert device in test.steps[1].text
    assert [check.verdict for check in test.to_do][: len(lacking)] == ["missing"] * len(lacking)
    found = json.loads(json.dumps(test.to_json()))
    assert (found["record"], found["bench"], found["passed"]) == (None, None, False)
    page = parsed(selftest_page(test, bundle))
    assert "FAIL" in page.one("h2", id_="verdict-title").text
    commands = {code.text for code in page.one("section", id_="to-do").all("code")}
    assert {command for check in lacking for command in check.do} <= commands


def test_a_model_that_computes_something_else_fails_and_is_timed_all_the_same(board, tmp_path):
    test, bundle = selftest_of(board, tmp_path, model=faulty(runtime_models.lstm(), swapped_gates))
    assert [step.verdict for step in test.steps] == ["pass", "pass", "fail", "pass"]
    assert not test.passed
    assert test.bench is not None
    assert "parity did not pass." in parsed(selftest_page(test, bundle)).one("section", id_="verdict").text


def test_a_step_that_raises_anything_does_not_stop_the_others(board, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("the kernel says no")

    for name, verdicts in (
        ("measure_parity", ["pass", "pass", "fail", "pass"]),
        ("environment_checks", ["fail", "pass", "pass", "pass"]),
        ("open_session", ["pass", "fail", "skip", "skip"]),
        ("measure_bench", ["pass", "pass", "pass", "fail"]),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"edgeseq_runtime.selftest.run.{name}", broken)
            test, bundle = selftest_of(board, tmp_path)
        assert [step.verdict for step in test.steps] == verdicts
        assert not test.passed
        assert "RuntimeError: the kernel says no" in parsed(selftest_page(test, bundle)).one("section", id_="steps").text


def test_what_is_missing_fails_the_test_whatever_the_steps_gave(board, tmp_path, monkeypatch):
    """A library may be found by the loader and by nobody else: the session opens, and the board is not as it should be."""
    one = Missing(kind="library", name="libcudnn.so.9", text="library libcudnn.so.9 is not there", install="sudo apt install it")
    monkeypatch.setattr("edgeseq_runtime.selftest.environment.missing_for", lambda providers, root, nvml: (one,))
    test, _ = selftest_of(board, tmp_path)
    assert {step.verdict for step in test.steps} == {"pass"}
    assert not test.passed


def test_clocks_of_which_one_moves_are_remarked_on(tmp_path):
    files = {**orin_nano(locked=True), "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n"}
    assert checks_of(plant(tmp_path, files))["clocks"].do == ("sudo jetson_clocks",)


def test_a_request_that_makes_no_sense_tests_nothing(tmp_path):
    assert "there is no device 'jetson-orin-nan'" in run("--device", "jetson-orin-nan", "-o", tmp_path / "x", code=2).stderr
    assert "can't read the bundle" in run(tmp_path / "absent.edgeseq", "-o", tmp_path / "x", code=2).stderr
    assert "precision 'fp8'" in run("--precision", "fp8", "-o", tmp_path / "x", code=2).stderr
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").touch()
    assert "can't write" in run("--seconds", FAST, "-o", tmp_path / "file", code=2).stderr


def test_exit_code_and_json_say_the_same(board, tmp_path):
    done = run("--device", "cuda", "--root", board, "-o", tmp_path, "--json", code=1)
    assert json.loads(done.stdout)["passed"] is False
    assert json.loads(done.stdout)["steps"] == json.loads((tmp_path / "selftest.json").read_text())["steps"]


def test_a_profile_of_another_board_is_remarked_on(board):
    device = checks_of(board, "jetson-t5000")["device"]
    assert device.found.endswith("tested as jetson-t5000, which it is not")
    assert device.verdict == "note"


def test_a_machine_that_says_nothing_can_be_tested(tmp_path):
    test, bundle = selftest_of(tmp_path / "nowhere", tmp_path)
    assert test.passed
    for name in ("memory", "clocks", "temperature", "disk"):
        assert "not known" in by_name(test)[name].found
    assert not {"JetPack", "power mode", "GPU", "libraries"} & set(by_name(test))
    assert selftest_page(test, bundle)


def test_two_packages_of_onnxruntime_are_remarked_on(board, monkeypatch):
    monkeypatch.setattr("edgeseq_runtime.detect.machine._packages", lambda: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    packages = checks_of(board)["packages"]
    assert (packages.verdict, packages.do) == ("note", ("pip uninstall onnxruntime onnxruntime-gpu", 'pip install "edgeseq[ort]"'))


FILES = [name for name in orin_nano() if name.startswith(("sys", "var", "proc/swaps", "etc/nvpmodel"))]


@settings(max_examples=40, deadline=None)
@given(
    contents=st.dictionaries(
        st.sampled_from(FILES),
        st.one_of(st.none(), st.binary(max_size=60), st.text("pmode:02 < POWER_MODEL ID=1 NAME=x >\n-9", max_size=60)),
    )
)
def test_whatever_the_files_hold_reading_a_board_never_fails(contents, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            (root / name).mkdir(exist_ok=True)
        else:
            (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    board = read_board(root)
    assert json.dumps(msgspec.to_builtins(board))
    assert all(clock.locked in (True, False) for clock in board.clocks)


def test_cores_of_two_clusters_are_two_clocks(tmp_path):
    files = orin_nano()
    for number in (4, 5):
        files[f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_max_freq"] = "2201600\n"
    clocks = read_board(plant(tmp_path, files)).clocks
    assert [(clock.name, clock.most, clock.now) for clock in clocks] == [
        ("CPU 0 to 3", 1_728_000_000, 729_600_000), ("CPU 4 to 5", 2_201_600_000, 729_604_000), ("GPU", 1_020_000_000, 306_000_000),
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_screen_but_for_commands(columns, board, tmp_path):
    shown = run("--root", board, "-o", tmp_path, "--seconds", FAST, "--device", "cuda", code=1, columns=str(columns)).stdout
    # Commands are kept whole, to be copied.
    assert max(len(line.rstrip()) for line in shown.splitlines() if not line.startswith(("  ", "PASS", "FAIL"))) <= columns
    assert "\nmissing: library\n  sudo apt update && sudo apt install nvidia-jetpack\n" in shown


def test_a_hostile_name_is_text_on_the_page(board, tmp_path):
    files = {**orin_nano(), "proc/device-tree/model": "<script>alert(1)</script>\0"}
    test, bundle = selftest_of(plant(tmp_path / "board", files), tmp_path)
    page = parsed(selftest_page(test, bundle))
    assert len(list(page.all("script"))) == 1
    assert "<script>alert(1)</script>" in page.one("h1").text


def test_a_plan_of_a_bundle_without_reference_is_told_at_parity(board, tmp_path):
    path = runtime_models.gru().write(tmp_path / "m.edgeseq", (), draws=1)
    test = run_selftest(path, device="cpu", seconds=FAST, root=board)
    assert [step.verdict for step in test.steps] == ["pass", "pass", "fail", "pass"]
    assert "no reference values" in test.steps[2].text
    assert make_plan(open_bundle(path), "cpu").device == test.plan.device
    with pytest.raises(UsageError, match="can't read"):
        run_selftest(tmp_path / "absent.edgeseq")
