"""The emulated board: what it is made of and how; then the installed package on it, where QEMU and the network are there."""

from __future__ import annotations

import json
import platform
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import debian_root
import emulated_board
import numpy as np
import orin_nano_files
import pytest
import runtime_models
from emulated_board import (
    BoardError,
    UnreachableError,
    choose_cpu,
    copy_sources,
    key_of,
    made_once,
    make_board,
    missing,
    requirements,
    with_release,
)

import edgeseq_runtime
from edgeseq_runtime.detect import detect_machine

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import aarch64_page
from aarch64 import NATIVE, NATIVE_INT8, Difference, Row, compare, difference, quantised

ROOT = Path(__file__).parent.parent
PYTHON_310 = "1.23.2"  # ONNX Runtime's newest release for Python 3.10 on 64-bit ARM, which JetPack 6 has


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# How its folders are made.


def test_a_folder_appears_whole_and_is_made_once(tmp_path):
    made, said = [], []

    def make(new):
        assert not (tmp_path / "boards" / "a-1").exists()
        made.append(new)
        new.mkdir()
        (new / "file").write_text("whole")

    for _ in range(2):
        path = made_once(tmp_path / "boards" / "a-1", make, said.append)
        assert (path / "file").read_text() == "whole"
    assert len(made) == 1
    assert said == [f"making {path}"]
    assert files_below(tmp_path / "boards") == {"a-1", "a-1/file"}


def test_what_fails_half_way_is_not_there_and_leaves_nothing(tmp_path):
    def fail(new):
        new.mkdir()
        (new / "half").touch()
        raise BoardError("no")

    with pytest.raises(BoardError, match="no"):
        made_once(tmp_path / "a-1", fail)
    assert files_below(tmp_path) == set()


def test_what_is_killed_half_way_is_not_taken_for_a_folder(tmp_path):
    code = """
import os, sys
from pathlib import Path
from emulated_board import made_once
def die(new):
    new.mkdir()
    (new / "half").touch()
    os.kill(os.getpid(), 9)
made_once(Path(sys.argv[1]) / "a-1", die)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT / "tests", check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a-1").exists()
    assert made_once(tmp_path / "a-1", Path.mkdir) == tmp_path / "a-1"
    assert files_below(tmp_path / "a-1") == set()


def test_of_two_makers_the_first_to_finish_wins_and_the_other_uses_its_folder(tmp_path):
    def make_while_another_does(new):
        (tmp_path / "a-1").mkdir()
        (tmp_path / "a-1" / "first").touch()
        new.mkdir()
        (new / "second").touch()

    assert files_below(made_once(tmp_path / "a-1", make_while_another_does)) == {"first"}
    assert files_below(tmp_path) == {"a-1", "a-1/first"}


def test_a_name_tells_parts_apart():
    assert key_of(["a", "b"]) == key_of(["a", "b"])
    assert len({key_of(parts) for parts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a", "c"])}) == 5


def test_the_processor_is_orins_or_the_nearest_that_qemu_knows():
    assert choose_cpu("Available CPUs:\n  cortex-a76\n  cortex-a78ae\n  max\n") == "cortex-a78ae"
    assert choose_cpu("Available CPUs:\n  cortex-a76\n  max\n") == "cortex-a76"
    with pytest.raises(UnreachableError, match="newer qemu-user"):
        choose_cpu("Available CPUs:\n  cortex-a760\n  max\n")


def test_the_processor_is_that_of_the_devices_profile():
    assert edgeseq_runtime.load_device(orin_nano_files.DEVICE).cpu.qemu_cpu == emulated_board.CPUS[0]


def test_what_is_installed_is_what_the_installed_package_asks_for():
    asked = [line.partition(";") for line in requires("edgeseq") or ()]
    wanted = {name.strip() for name, _, marker in asked if "extra" not in marker or re.search(r"extra == .ort.", marker)}
    found = {line.partition(";")[0].strip() for line in requirements((ROOT / "pyproject.toml").read_text("utf-8"))}
    # The order of bounds is the installer's.
    assert {frozenset(re.split(r"[,\s]+", line)) for line in found} == {frozenset(re.split(r"[,\s]+", line)) for line in wanted}
    assert not [line for line in found if line.startswith(("torch", "onnx="))]


def test_another_release_of_onnx_runtime_takes_the_place_of_the_one_of_the_constraints():
    constraints = 'numpy==2.0\nonnxruntime==1.32.0; python_version >= "3.11"\n'
    assert with_release(constraints, "") == constraints
    assert with_release(constraints, "1.23.2") == "numpy==2.0\nonnxruntime==1.23.2\n"


def test_sources_are_copied_without_what_builds_left(tmp_path):
    checkout = copy_sources(ROOT, tmp_path / "checkout")
    found = files_below(checkout)
    assert {"pyproject.toml", "runtime/edgeseq_runtime/py.typed", "devices/jetson-orin-nano-8gb.toml"} <= found
    packages = emulated_board.tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-dir"]
    assert set(packages.values()) <= found
    for name in ("edgeseq/__pycache__/cells.pyc", "runtime/edgeseq.egg-info/PKG-INFO"):
        (checkout / name).parent.mkdir()
        (checkout / name).touch()
    assert files_below(copy_sources(checkout, tmp_path / "copy")) == found


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "on aarch64" in missing()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(emulated_board.shutil, "which", lambda program: None)
    assert missing() == "qemu-aarch64 not found: apt-get install qemu-user"
    monkeypatch.setattr(sys, "argv", ["emulated_board.py", "--folder", str(tmp_path / "none"), "edgeseq", "devices"])
    assert emulated_board.main() == 2
    assert capsys.readouterr().err == "error: qemu-aarch64 not found: apt-get install qemu-user\n"
    assert not (tmp_path / "none").exists()
    monkeypatch.setattr(emulated_board.shutil, "which", lambda program: program if program.startswith("qemu") else None)
    assert "apt-get and dpkg-deb not found" in missing()
    monkeypatch.setattr(emulated_board.shutil, "which", lambda program: program)
    monkeypatch.setattr(debian_root, "KEYRING", tmp_path / "none.gpg")
    assert missing().endswith("apt-get install debian-archive-keyring")


@pytest.mark.skipif(bool(debian_root.missing()), reason=debian_root.missing() or "-")
def test_packages_that_cannot_be_had_are_an_error_with_what_apt_said(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_root, "MIRRORS", (f"file://{tmp_path}/none {{suite}} main",))
    with pytest.raises(debian_root.DebianError, match=r"apt-get -q update .*none"):
        debian_root.unpack(["libc6"], tmp_path / "root", suite="bookworm", architecture="arm64")
    assert not (tmp_path / "root").exists()


def test_a_package_that_does_not_exist_is_a_fault_and_no_network_is_not(tmp_path):
    with pytest.raises(BoardError, match=r"(?s)pip download .*No matching distribution") as refused:
        emulated_board._pip(["download", "--no-index", "-d", str(tmp_path), "edgeseq-unknown"])
    assert not isinstance(refused.value, UnreachableError)
    index = ["--index-url", "http://127.0.0.1:9/", "--extra-index-url", "http://127.0.0.1:9/", "--retries", "1"]
    with pytest.raises(UnreachableError):
        emulated_board._pip(["download", *index, "-d", str(tmp_path), "edgeseq-unknown"])


# What is planted.


def test_the_planted_files_are_those_of_the_device_that_they_are_for(tmp_path):
    orin_nano_files.plant(tmp_path)
    machine = detect_machine(tmp_path, nvml=None)
    assert machine.jetson.device == orin_nano_files.DEVICE
    assert machine.jetson.jetpack == orin_nano_files.JETPACK
    assert machine.processor.name == "Cortex-A78AE"
    profile = edgeseq_runtime.load_device(orin_nano_files.DEVICE)
    assert profile.cpu.cores == orin_nano_files.CORES
    assert profile.cpu.arch.startswith("Cortex-A78AE")
    assert orin_nano_files.JETPACK in profile.jetpack.releases


def test_the_planted_lists_of_processors_fit_each_other(tmp_path):
    orin_nano_files.plant(tmp_path)
    numbers = re.findall(r"^processor\t: (\d+)$", (tmp_path / "proc/cpuinfo").read_text(), re.MULTILINE)
    assert list(map(int, numbers)) == list(range(orin_nano_files.CORES))
    listed = {(tmp_path / "sys/devices/system/cpu" / name).read_text() for name in ("online", "possible", "present")}
    assert listed == {f"{numbers[0]}-{numbers[-1]}\n"}


# How outputs are compared and told.


def test_a_difference_is_the_largest_of_all_outputs_each_in_units_of_its_own():
    other = {"y": np.float32([3, -4, 0, 0]), "z": np.float32([100, 100])}  # rms: 2.5, 100
    found = difference({"y": np.float32([3, -4, 0.5, 0]), "z": np.float32([100, 101])}, other)
    assert found.max_abs == pytest.approx(1)
    assert found.relative == pytest.approx(0.5 / 2.5)
    assert found.unequal is None
    assert not found.same
    assert difference(other, other).same


def test_integers_are_compared_by_the_share_that_differs_and_infinities_by_place():
    found = difference({"n": np.int64([1, 2, 3, 4])}, {"n": np.int64([1, 2, 3, 5])})
    assert (found.max_abs, found.unequal, found.same) == (0, 0.25, False)
    y = np.float32([1, -np.inf])
    assert difference({"y": y}, {"y": y}).same


@pytest.mark.parametrize(
    "other", [np.float32([[1, 2]]), np.float64([1, 2]), np.float32([1, np.nan])], ids=["shape", "dtype", "not a number"]
)
def test_what_cannot_be_compared_is_an_error(other):
    with pytest.raises(ValueError, match="'y'"):
        difference({"y": np.float32([1, 2])}, {"y": other})


def report(passed, *ks, machine, precision="fp32"):
    verdict = "pass" if passed else "fail"
    rows = [{"k": k, "k999": 2 * k if k else k, "relative": 0.011, "relative999": 0.044, "verdict": verdict} for k in ks]
    skipped = {"k": 99.0, "k999": 99.0, "relative": 9.0, "relative999": 9.0, "verdict": "skip"}
    versions = {"edgeseq": "0.1.0", "native": "0.1.0, gcc 1.2.3, V", "python": "3.11.2", "machine": machine}
    gate = {"k": 4.0, "k999": 8.0} if precision == "fp32" else {"relative": 0.02, "relative999": 0.16}
    return {"passed": passed, "rows": [*rows, skipped], "gate": gate, "versions": versions, "precision": precision}


def test_the_page_says_which_fail_and_leaves_out_what_was_not_gated():
    here = report(True, 0.5, 1.5, machine="x86_64")
    rows = [
        Row(
            "good",
            {"LSTM": 2},
            {"T": 7},
            Difference(0, 0, None),
            Difference(0, 0, None),
            here,
            report(True, 2.0, machine="aarch64"),
        ),
        Row("bad", {}, {"T": 7}, Difference(1e-3, 2e-3, None), None, here, report(False, 9.0, machine="aarch64")),
        Row("worse", {}, {"T": 7}, Difference(0, 0, 0.25), None, here, report(False, None, machine="aarch64")),
    ]
    text = aarch64_page.page(rows, [], detected="profiles a  \n", flags="-O3", cpu="cortex-a76", chunk=5)
    assert "## edgeseq's own kernels" not in text
    assert "| good | 2 LSTM | T=7 | 1.50 | 2.00 | 3.00 | 4.00 | 0 | 0 | 0 | pass |" in text
    assert "| bad | none | T=7 | 1.50 | 9.00 | 3.00 | 18.00 | 1.0e-03 | 2.0e-03 | – | **fails on ARM** |" in text
    assert "| At parity on both | 1 of 3 |" in text
    assert "| Bit for bit the same on both | 1 of 3 |" in text
    assert "2.0e-03 of an output's rms (bad)" in text
    assert "(worse), up to 25.00% differ" in text
    assert "-cpu cortex-a76" in text
    assert "\nprofiles a\n" in text


def test_the_page_tells_the_own_kernels_by_their_precision_and_what_differs_in_chunks_and_on_threads():
    same, far = Difference(0, 0, None), Difference(1e-3, 3e-3, None)

    def row(model, differs, chunks, threads, precision="fp32", passed=True, k=2.0):
        here, board = (report(passed, k + add, machine="m", precision=precision) for add in (0, 1))
        return Row(model, {"GRU": 1}, {"T": 7}, differs, chunks, here, board, threads)

    rows = [
        row("even", same, same, same),
        row("cut", Difference(1e-6, 2e-6, None), far, same),
        row("whole", same, None, far, passed=False),
        row("even", Difference(4e-6, 5e-6, None), same, same, "int8", k=99.0),
    ]
    text = aarch64_page.page(rows[:1], rows, detected="", flags="-O3 -mcpu=native", cpu="c", chunk=5)
    for line in (
        "3 models, those above and modules as users write them, 1 of them in int8, too.",
        "| Flags there | `-O3 -mcpu=native` |",
        "| On the board | edgeseq 0.1.0, gcc 1.2.3, V |",
        "| At parity on both | 3 of 4 |",
        "| Bit for bit the same on both machines | 2 of 3 in fp32, 0 of 1 in int8 |",
        "the gates are 2% and 16%.",
        "| Every bit the same on two threads as on one | 3 of 4 |",
        "| Every bit the same in chunks as in the whole | 2 of 3; the others: cut |",
        "x86-64, fp32 | 2.0e-06 of an output's rms (cut) |",
        "x86-64, int8 | 5.0e-06 of an output's rms (even) |",
        "2.00, 4.00 on x86-64; 3.00, 6.00 on the board; gates 4 and 8 |",
        "| cut | fp32 | 1 GRU | T=7 | 2.00 | 3.00 | 4.00 | 6.00 | 1.0e-06 | 2.0e-06 | 3.0e-03 | 0 | pass |",
        "| whole | fp32 | 1 GRU | T=7 | 2.00 | 3.00 | 4.00 | 6.00 | 0 | 0 | – | 3.0e-03 | **fails on x86 and ARM** |",
        "| even | int8 | 1 GRU | T=7 | 1.1% | 1.1% | 4.4% | 4.4% | 4.0e-06 | 5.0e-06 | 0 | 0 | pass |",
    ):
        assert line in text


# On the board.


@pytest.fixture(scope="module")
def board():
    try:
        return make_board()
    except UnreachableError as error:
        pytest.skip(str(error))


def on(board, *command, code=0):
    done = board.run(*command)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_is_64_bit_arm_and_holds_the_package_and_all_it_needs_and_no_pytorch(board):
    code = """
import importlib.util, json, platform, sys
from importlib.metadata import version
import edgeseq_runtime
absent = [name for name in ("torch", "onnx", "onnxscript", "pytest") if importlib.util.find_spec(name) is None]
print(json.dumps([platform.machine(), edgeseq_runtime.__file__, absent, {name: version(name) for name in sys.argv[1:]}]))
"""
    names = [
        re.match(r"[\w-]+", line)[0]
        for line in requirements((ROOT / "pyproject.toml").read_text("utf-8"))
        if "python_version" not in line
    ]
    machine, file, absent, versions = json.loads(on(board, "python3", "-c", code, *names))
    assert machine == "aarch64"
    assert Path(file).is_relative_to(board.folder)
    assert absent == ["torch", "onnx", "onnxscript", "pytest"]
    constraints = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert versions == {name: constraints[name] for name in names}


@pytest.mark.slow
def test_it_knows_which_device_it_is(board):
    found = json.loads(on(board, "edgeseq", "devices", "--detect", "--json"))
    assert found["architecture"] == "aarch64"
    assert found["devices"][:1] == [orin_nano_files.DEVICE]
    assert found["jetson"]["jetpack"] == orin_nano_files.JETPACK
    assert found["processor"]["cores"] == orin_nano_files.CORES
    assert found["providers"] == ["CPUExecutionProvider"]


@pytest.mark.slow
def test_it_proves_a_folder_in_processes_of_its_own_and_sees_a_fault(board, tmp_path):
    models = {"lstm": runtime_models.lstm(), "gru": runtime_models.gru(lengths=True), "strided": runtime_models.strided_gru()}

    def fault(proto):
        runtime_models.edit_weight(proto, "R", lambda weight: weight * (1 + 1e-4))

    models["wrong"] = runtime_models.faulty(models["lstm"], fault)
    for name, model in models.items():
        model.write(tmp_path / f"{name}.edgeseq")
    found = json.loads(on(board, "edgeseq", "parity", tmp_path, "--json", "--jobs", "2", code=1))
    verdicts = {Path(entry["path"]).stem: entry["verdict"] for entry in found["bundles"]}
    assert verdicts == {"gru": "pass", "lstm": "pass", "strided": "pass", "wrong": "fail"}
    assert {entry["report"]["versions"]["machine"] for entry in found["bundles"]} == {"aarch64"}
    assert {entry["report"]["device"] for entry in found["bundles"]} == {"cpu-aarch64"}


@pytest.mark.slow
def test_what_it_runs_and_streams_is_what_the_equations_give(board, tmp_path):
    model = runtime_models.lstm()
    path = model.write(tmp_path / "lstm.edgeseq")
    inputs = model.draw({"T": 23, "B": 2}, np.random.default_rng(5))
    np.savez(tmp_path / "in.npz", **inputs)
    truth = model.expect(inputs)
    for name, options in {"whole": (), "chunks": ("--chunk", "4")}.items():
        on(board, "edgeseq", "run", path, tmp_path / "in.npz", "-o", tmp_path / f"{name}.npz", *options)
        with np.load(tmp_path / f"{name}.npz") as outputs:
            assert set(outputs) == set(truth)
            for output in outputs:
                np.testing.assert_allclose(outputs[output], truth[output], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_its_record_is_read_here_and_names_the_board(board, tmp_path):
    path = runtime_models.gru().write(tmp_path / "gru.edgeseq")
    on(board, "edgeseq", "parity", path, "--record", tmp_path / "board.json")
    machine = json.loads((tmp_path / "board.json").read_text())["machine"]
    assert machine["machine"] == "aarch64"
    assert machine["board"] == orin_nano_files.FILES["proc/device-tree/model"].rstrip("\0")
    command = [sys.executable, "-m", "edgeseq_runtime.cli.main", "records", tmp_path / "board.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "1 pass, 0 fail, 0 changed" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_provider_that_it_does_not_have_is_an_error_that_says_so(board, tmp_path):
    path = runtime_models.gru().write(tmp_path / "gru.edgeseq", draws=1)
    done = board.run("edgeseq", "parity", path, "--device", "cuda")
    assert done.returncode == 2
    assert "CUDAExecutionProvider" in done.stderr


@pytest.mark.slow
def test_models_of_the_library_are_at_parity_there_and_differ_from_here_in_roundings_alone(board):
    from mutated_models import bundle_of
    from rich.console import Console

    names = ("nn.LSTM", "LayerNormLSTMCell", "packed BiLSTM tagger")
    rows = compare(board, {name: bundle_of(name) for name in names}, Console(quiet=True))
    assert [row.model for row in rows] == list(names)
    for row in rows:
        assert row.passed, row
        assert row.worst("board", "k") <= 4
        assert row.difference.relative < 1e-5
    assert [row.chunks is None for row in rows] == [False, False, True]
    assert all(row.chunks.relative < 1e-5 for row in rows[:2])


@pytest.mark.slow
def test_models_of_the_library_are_at_parity_there_on_the_release_that_jetpack_6_can_have():
    from mutated_models import bundle_of

    try:
        board = make_board(onnxruntime=PYTHON_310)
    except UnreachableError as error:
        pytest.skip(str(error))
    for name in ("nn.LSTM", "nn.GRU", "LayerNormLSTMCell", "TreeClassifier(TreeLSTMCell)", "packed BiLSTM tagger"):
        report = json.loads(on(board, "edgeseq", "parity", bundle_of(name), "--json"))
        assert report["versions"]["onnxruntime"] == PYTHON_310
        assert report["passed"], name


# Its kernels of its own.

# A program of the installed package, told another compiler: the board's own is the first that is found else.
WITH_COMPILER = """
import os, sys
os.environ["CC"], os.environ["XDG_CACHE_HOME"] = sys.argv[1:3]
sys.argv[:3] = ["edgeseq"]
from importlib.metadata import entry_points
(program,) = entry_points(group="console_scripts", name="edgeseq")
program.load()()
"""


def told_by_preprocessor(board, *flags):
    return set(re.findall(r"#define (\w+)", on(board, "cc", *flags, "-dM", "-E", "-x", "c", "/dev/null")))


@pytest.mark.slow
def test_it_compiles_the_kernels_for_its_own_processor(board):
    code = (
        "from edgeseq_runtime.native import compiled as c; m = c.compiled(); print(m.path, c.version(), *m.record.flags, sep='|')"
    )
    path, version, *flags = on(board, "python3", "-c", code).strip().split("|")
    assert re.fullmatch(r"0\.\d+\.\d+, gcc 12\.[\d.]+, NEON", version)
    assert flags[-1] == "-mcpu=native"
    head = Path(path).read_bytes()[:20]
    assert (head[:4], head[18]) == (b"\x7fELF", 183)  # of 64-bit ARM
    assert {"__ARM_NEON", "__ARM_FEATURE_DOTPROD", "__ARM_FEATURE_FMA"} <= told_by_preprocessor(board, "-mcpu=native")
    assert "__ARM_FEATURE_DOTPROD" not in told_by_preprocessor(board)


@pytest.mark.slow
def test_what_is_said_to_a_compiler_that_takes_no_native_means_the_same_instructions(board):
    code = """
from pathlib import Path
from edgeseq_runtime.native.compiled import choices_of_flags
from edgeseq_runtime.native.compiler import Compiler
print(*choices_of_flags(Compiler(("gcc",), ""))[1], sep="|")
"""
    flags = on(board, "python3", "-c", code).strip().split("|")
    assert not [flag for flag in flags if "native" in flag]
    assert {"__ARM_NEON", "__ARM_FEATURE_DOTPROD", "__ARM_FEATURE_FMA"} <= told_by_preprocessor(board, *flags[-1:])


@pytest.mark.slow
def test_models_of_the_library_are_at_parity_on_its_own_kernels_and_streams_and_threads_change_no_bit(board):
    from mutated_models import bundle_of
    from rich.console import Console

    names = (
        "VAD", "nn.RNN", "nn.GRU", "nn.LSTM", "LayerNormLSTMCell", "NeuralTuringMachine", "CausalConv1d",
        "TreeClassifier(TreeLSTMCell)", "packed BiLSTM tagger", "CTC text-line recogniser", "strided convolution, packed",
        "AttentionDecoder",
    )  # fmt: skip
    rows = compare(board, {name: bundle_of(name) for name in names}, Console(quiet=True), way=NATIVE)
    assert [row.model for row in rows] == list(names)
    for row in rows:
        assert (row.board["device"], row.board["providers"], row.board["versions"]["machine"]) == ("native", ["Native"], "aarch64")
        assert row.passed, row
        assert row.difference.relative < 1e-5
        assert row.threads.same, row.model
    assert sum(row.chunks is not None for row in rows) == 8
    assert [row.model for row in rows if row.chunks and not row.chunks.same] == []


@pytest.mark.slow
def test_in_int8_its_own_kernels_compute_what_those_of_x86_do(board):
    from mutated_models import bundle_of
    from rich.console import Console

    names = ("nn.GRU", "nn.LSTM", "packed BiLSTM tagger")
    rows = compare(board, {name: quantised(bundle_of(name)) for name in names}, Console(quiet=True), way=NATIVE_INT8)
    for row in rows:
        assert (row.passed, row.board["precision"]) == (True, "int8"), row
        assert row.worst("board", "relative") > 1e-4  # which float32's kernels would not be
        assert row.difference.relative < 1e-5
        assert row.threads.same
        assert row.chunks is None or row.chunks.same


@pytest.mark.slow
def test_its_own_kernels_see_a_fault(board, tmp_path):
    def fault(proto):
        runtime_models.edit_weight(proto, "R", lambda weight: weight * (1 + 1e-4))

    path = runtime_models.faulty(runtime_models.lstm(), fault).write(tmp_path / "wrong.edgeseq")
    assert "FAIL" in on(board, "edgeseq", "parity", path, "--device", "native", code=1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang") is None, reason="there is no clang on PATH")
def test_kernels_that_clang_makes_elsewhere_are_at_parity_and_are_told_the_processor_by_name(board, tmp_path):
    """A cross compiler takes no -mcpu=native."""
    from mutated_models import bundle_of

    system = board.system
    compiler = tmp_path / "cross-cc"
    options = f"--target=aarch64-linux-gnu --sysroot={system} --gcc-toolchain={system}/usr --ld-path={board.folder}/parts/ld"
    compiler.write_text(f'#!/bin/sh\nexec clang {options} "$@"\n')
    compiler.chmod(0o755)
    first = ("python3", "-c", WITH_COMPILER, compiler, tmp_path / "cache")
    path = runtime_models.gru(lengths=True).write(tmp_path / "gru.edgeseq")
    said = board.run(*first, "compile", path, "--device", "native", "--json")
    assert said.returncode == 0, said.stderr
    made = json.loads(said.stdout)
    assert (made["compiler"].split()[0], made["flags"][-1], made["built"]) == ("clang", "-march=armv8.2-a+dotprod", True)
    assert made["notes"][0].startswith("the kernels are compiled without -mcpu=native, with which ")
    for bundle, precision in ((path, "fp32"), (quantised(bundle_of("nn.GRU")), "int8")):
        found = json.loads(on(board, *first, "parity", bundle, "--device", "native", "--precision", precision, "--json"))
        assert found["passed"]
        assert "clang" in found["versions"]["native"]
