"""How much memory a model takes beside its weights, and what is imported for it; each in a process of its own."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import runtime_models
from blocked_imports import run_python

import edgeseq_runtime
from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.cli.commands import COMMANDS, load_command
from edgeseq_runtime.errors import HashMismatch, MissingMember, UsageError

K, H = 256, 1024
WEIGHTS = 4 * (4 * H * (K + H) + 8 * H)  # bytes: 20 MiB
ONE_CASE = ({"T": 1, "B": 1},)

MEMORY = """
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {name: int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return runtime_models.lstm(K, H).write(tmp_path_factory.mktemp("b") / "large.edgeseq", ONE_CASE, draws=1)


def printed(code):
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def over_weights(code):
    """Memory that some code adds to that of the imports: what stays and the most at a time, in units of the weights."""
    prelude = "import json, numpy as np, edgeseq_runtime as e; e.load; import edgeseq_runtime.backends.onnxruntime_backend\n"
    program = f"{prelude}{MEMORY}\nbefore = memory()\n{code}\nafter = memory()\nprint(json.dumps([before, after]))"
    before, after = printed(program)
    return tuple((after[name] - before[name]) / WEIGHTS for name in ("VmRSS", "VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc/self/status, which is not here")
class TestMemory:
    """In units of the weights' bytes."""

    def test_to_open_a_bundle_takes_none_of_its_members_into_memory(self, large):
        stays, most = over_weights(f"bundle = e.open_bundle({str(large)!r})")
        assert stays < 0.2
        assert most < 0.5

    def test_a_loaded_model_is_one_copy_of_its_weights(self, large):
        stays, most = over_weights(
            f"s = e.load({str(large)!r}); s.run({{'x': np.ones((10, 1, {K}), np.float32)}}); t = s.stream(); "
            f"[t.step({{'x': np.ones((1, 1, {K}), np.float32)}}) for _ in range(100)]"
        )
        assert 1 < stays < 2
        assert most < 4

    def test_the_measure_sees_a_second_copy(self, large):
        stays, _ = over_weights(f"s = e.load({str(large)!r}); b = e.open_bundle({str(large)!r}).model()")
        assert stays > 2


def test_what_opens_and_runs_a_model_imports_no_more_than_it_needs(large):
    """What serves the command line, other devices, pools and proofs is imported where it is used."""
    code = "import json, sys, numpy as np; before = set(sys.modules)\nimport edgeseq_runtime as e\n"
    bare = printed(code + "print(json.dumps(sorted(set(sys.modules) - before)))")
    assert [name for name in bare if not name.startswith("importlib")] == ["edgeseq_runtime"]
    run = f"s = e.load({str(large)!r}); s.run({{'x': np.ones((1, 1, {K}), np.float32)}}); s.stream()\n"
    found = printed(code + run + "print(json.dumps(sorted(sys.modules)))")
    for absent in ("typer", "rich", "click", "pygments", "concurrent.futures", "importlib.metadata"):
        assert absent not in set(found) - set(_of_the_environment()), absent
    parts = {name.split(".")[1] for name in found if name.startswith("edgeseq_runtime.")}
    assert not parts & {
        "cli",
        "console",
        "parity",
        "bisect",
        "bench",
        "forecast",
        "report",
        "selftest",
        "suite",
        "generation",
        "pool",
    }


def _of_the_environment():
    """Modules that this environment, or ONNX Runtime and NumPy, import by themselves."""
    return printed("import json, sys, numpy, onnxruntime, msgspec, safetensors.numpy; print(json.dumps(sorted(sys.modules)))")


# Members are verified when they are read.


@pytest.fixture
def small(tmp_path):
    return runtime_models.gru().write(tmp_path / "m.edgeseq", ONE_CASE, draws=2)


def damaged(path, member):
    """The file with one byte of a member's data changed in place, the zip's own checksum made to match."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    data = bytearray(members[member])
    data[len(data) // 2] ^= 1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, kept in members.items():
            archive.writestr(name, bytes(data) if name == member else kept)


def test_load_reads_the_model_and_not_the_reference_values(small):
    model = runtime_models.gru()
    damaged(small, "reference.safetensors")
    with pytest.raises(HashMismatch, match=r"reference\.safetensors"):
        open_bundle(small)
    inputs = model.draw({"T": 3, "B": 2}, np.random.default_rng(0))
    np.testing.assert_allclose(edgeseq_runtime.load(small).run(inputs)["y"], model.expect(inputs)["y"], atol=2e-6)
    damaged(small, "model.onnx")
    with pytest.raises(HashMismatch, match=r"model\.onnx"):
        edgeseq_runtime.load(small)


@pytest.mark.parametrize("member", ["model.onnx", "reference.safetensors"])
@pytest.mark.parametrize("verify_all", [True, False])
def test_a_member_changed_after_opening_is_refused_when_it_is_read(member, verify_all, small):
    bundle = open_bundle(small, verify_all=verify_all)
    other = "model.onnx" if member != "model.onnx" else "reference.safetensors"
    kept = bundle.read(other)
    damaged(small, member)
    with pytest.raises(HashMismatch, match=member):
        bundle.read(member)
    with pytest.raises(HashMismatch, match=member):
        bundle.model() if member == "model.onnx" else bundle.reference()
    assert bundle.read(other) == kept


def test_a_file_that_went_away_or_was_replaced_is_named(small):
    bundle = open_bundle(small)
    assert bundle.member("fp32") == "model.onnx"
    assert bundle.member_sizes["model.onnx"] == len(runtime_models.gru().onnx)
    with zipfile.ZipFile(small, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(MissingMember, match=r"no member 'model\.onnx'"):
        bundle.model()
    small.unlink()
    with pytest.raises(UsageError, match="No such file"):
        bundle.model()


def test_a_session_outlives_its_file(small):
    model = runtime_models.gru()
    session = edgeseq_runtime.load(small)
    small.write_bytes(bytes(small.stat().st_size))
    small.unlink()
    inputs = model.draw({"T": 3, "B": 2}, np.random.default_rng(0))
    np.testing.assert_allclose(session.run(inputs)["y"], model.expect(inputs)["y"], atol=2e-6)
    assert session.stream().step({"x": inputs["x"][:, :1]})["y"].shape[:2] == (3, 1)


# The command line imports what the chosen command needs.


def test_the_list_of_commands_says_how_each_begins_its_own_help():
    for name, summary in COMMANDS.items():
        command = load_command(name)
        assert command.name == name
        assert " ".join(command.help.split()).startswith(summary), name
    listed = run_python("from edgeseq_runtime.cli.main import app\napp(['--help'])").stdout
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(' '.join(summary.split()[:4]))}", listed, re.MULTILINE), name


def test_every_command_module_is_listed():
    package = Path(edgeseq_runtime.__file__).parent / "cli"
    found = {path.stem for path in package.glob("*.py") if f"def {path.stem}_command(" in path.read_text("utf-8")}
    assert found == set(COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_neither_numpy_nor_rich_nor_any_command(arguments):
    done = run_python(
        "import json, sys\nfrom edgeseq_runtime.cli.main import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    found = set(json.loads(done.stdout.splitlines()[-1]))
    assert not found & {"numpy", "rich", "onnxruntime", "msgspec", "safetensors"}
    assert not [name for name in COMMANDS if f"edgeseq_runtime.cli.{name}" in found]


def test_a_chosen_command_does_not_import_the_others(large):
    done = run_python(
        f"import json, sys\nfrom edgeseq_runtime.cli.main import app\ntry:\n    app(['inspect', {str(large)!r}])\n"
        "except SystemExit as end:\n    assert not end.code\nprint(json.dumps(sorted(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    found = set(json.loads(done.stdout.splitlines()[-1]))
    assert "edgeseq_runtime.cli.inspect" in found
    assert not [name for name in COMMANDS if name != "inspect" and f"edgeseq_runtime.cli.{name}" in found]
    assert not found & {"onnxruntime", "edgeseq_runtime.parity", "edgeseq_runtime.bisect", "edgeseq_runtime.bench"}
