"""The runtime on a machine that has neither PyTorch nor onnx."""

import numpy as np
import pytest
import runtime_models
from blocked_imports import NOT_ON_A_BOARD, run_python

IMPORT_EVERYTHING = """
import importlib, importlib.util, pkgutil, edgeseq_runtime
names = [module.name for module in pkgutil.walk_packages(edgeseq_runtime.__path__, "edgeseq_runtime.")]
# The files of an engine that is not installed are no modules here, as without ONNX Runtime its own would be none.
absent = [engine for engine in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(engine) is None]
for name in [*names, "edgeseq_runtime.devices"]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in absent or ".backends.tensorrt" not in name:
            raise
print(len(names), *sorted(name.split(".")[0] for name in sys.modules))
"""


def test_every_module_imports_where_pytorch_is_absent():
    done = run_python(IMPORT_EVERYTHING)
    assert done.returncode == 0, done.stderr
    count, *imported = done.stdout.split()
    assert int(count) > 25
    assert not set(imported) & set(NOT_ON_A_BOARD)
    assert "onnxruntime" in imported  # the backend was among them


def test_a_bundle_runs_streams_and_is_proved_where_pytorch_is_absent(tmp_path):
    path = runtime_models.lstm().write(tmp_path / "m.edgeseq")
    np.savez(tmp_path / "in.npz", x=np.ones((6, 1, 3), np.float32))
    done = run_python(f"""
from edgeseq_runtime.cli.main import app
import edgeseq_runtime, numpy as np
session = edgeseq_runtime.load({str(path)!r})
session.stream().step({{"x": np.ones((1, 1, 3), np.float32)}})
assert edgeseq_runtime.measure_parity({str(path)!r}).passed
app(["run", {str(path)!r}, {str(tmp_path / "in.npz")!r}, "-o", {str(tmp_path / "out.npz")!r}])
""")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npz")["y"].shape == (6, 1, 8)


@pytest.mark.parametrize("name", ["torch", "onnx", "onnxscript"])
@pytest.mark.parametrize("statement", ["import {}", "from {} import nn", "import {}.nn"])
def test_the_blocker_catches_a_module_that_imports_what_it_must_not(name, statement, tmp_path):
    """The tests above are worth something only if this one passes."""
    (tmp_path / "sinner.py").write_text(statement.format(name))
    done = run_python("import sinner", path=tmp_path)
    assert done.returncode != 0
    assert f"blocked: {name}" in done.stderr
    # A module of its own: bytecode of the same name, size and second would be taken for this one's.
    (tmp_path / "innocent.py").write_text("import json")
    assert run_python("import innocent", path=tmp_path).returncode == 0


def test_the_package_is_light_and_needs_neither_backend_nor_command_line(tmp_path):
    path = runtime_models.lstm().write(tmp_path / "m.edgeseq", draws=1)
    done = run_python(
        f"""
import edgeseq_runtime
bundle = edgeseq_runtime.open_bundle({str(path)!r})
print(edgeseq_runtime.make_plan(bundle, "cuda").backend)
try:
    edgeseq_runtime.load({str(path)!r})
except edgeseq_runtime.errors.ProviderError as error:
    print(error)
print(*sorted({{name.split(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)))
""",
        blocked=(*NOT_ON_A_BOARD, "onnxruntime", "typer", "rich", "click"),
    )
    assert done.returncode == 0, done.stderr
    backend, error, imported = done.stdout.splitlines()
    assert backend == "onnxruntime"
    assert 'pip install "edgeseq[ort]"' in error
    heavy = {name for name in imported.split() if not name.startswith("_")} - {"edgeseq_runtime", "sitecustomize"}
    assert heavy <= {"numpy", "msgspec", "safetensors", "tomli", "typing_extensions"}


@pytest.mark.parametrize("command", ["export", "train"])
def test_commands_that_need_pytorch_say_which_extra_brings_it(command):
    done = run_python(f"from edgeseq_runtime.cli.main import app\napp([{command!r}, 'a', '--b'])")
    assert done.returncode == 2
    assert f'pip install "edgeseq[{command}]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_them_without_loading_them():
    done = run_python("from edgeseq_runtime.cli.main import app\napp(['--help'])")
    assert done.returncode == 0
    assert "export" in done.stdout
    assert "train" in done.stdout


def test_without_an_exporter_the_pytorch_bench_says_which_extra_brings_it(tmp_path):
    path = runtime_models.lstm().write(tmp_path / "m.edgeseq", draws=1)
    done = run_python(f"from edgeseq_runtime.cli.main import app\napp(['bench', {str(path)!r}, '--torch', 'a:b'])")
    assert done.returncode == 2
    assert 'pip install "edgeseq[export]"' in done.stderr


def test_names_of_the_package_are_imported_when_they_are_used():
    done = run_python("""
import edgeseq_runtime
print(*sorted(name for name in sys.modules if name.startswith(("edgeseq", "numpy"))))
assert set(edgeseq_runtime.__all__) <= set(dir(edgeseq_runtime))
from edgeseq_runtime import *
assert load is edgeseq_runtime.load and load.__module__ == "edgeseq_runtime.session"
assert issubclass(errors.UsageError, errors.EdgeseqError)
try:
    edgeseq_runtime.lode
except AttributeError as error:
    print(error)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["edgeseq_runtime", "module 'edgeseq_runtime' has no attribute 'lode'"]
