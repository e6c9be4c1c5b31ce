"""What a wheel holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
# Where packages are, and the import name of each such folder.
SOURCES = {
    "edgeseq": "edgeseq",
    "export/edgeseq_export": "edgeseq_export",
    "quantize/edgeseq_quantize": "edgeseq_quantize",
    "recipes/edgeseq_recipes": "edgeseq_recipes",
    "runtime/edgeseq_runtime": "edgeseq_runtime",
    "devices": "edgeseq_runtime.devices",
}


def packages_on_disk(root=ROOT):
    """Import name -> folder of everything that holds Python files."""
    found = {}
    for source, name in SOURCES.items():
        for folder in sorted({file.parent for file in (root / source).rglob("*.py")}):
            parts = [name, *folder.relative_to(root / source).parts]
            found[".".join(parts)] = folder.relative_to(root).as_posix()
    return found


def test_every_package_on_disk_is_listed_and_none_else():
    found = packages_on_disk()
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    mapped = SETUPTOOLS["package-dir"]
    assert {name: mapped.get(name, folder) for name, folder in found.items()} == found


def test_a_package_left_out_is_seen(tmp_path):
    for folder in ("edgeseq", "runtime/edgeseq_runtime/new"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    assert "edgeseq_runtime.new" in packages_on_disk(tmp_path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what git would hold, so that nothing is written beside the sources."""
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", *SOURCES):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", "out", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "out").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_and_every_profile(wheel):
    inside = set(wheel.namelist())
    for name, folder in packages_on_disk().items():
        for file in (ROOT / folder).iterdir():
            if file.suffix in (".py", ".toml", ".css", ".js", ".c", ".h") or file.name == "py.typed":
                assert f"{name.replace('.', '/')}/{file.name}" in inside
    releases = {f"edgeseq_runtime/devices/jetpack/{file.name}" for file in (ROOT / "devices" / "jetpack").iterdir()}
    assert releases
    assert releases <= inside
    assert not [
        name
        for name in inside
        if name.startswith(("tests/", "export/", "quantize/", "recipes/", "runtime/", "devices/", "examples/"))
    ]


def test_the_wheel_brings_the_program_and_keeps_pytorch_out(wheel):
    text = {Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "edgeseq = edgeseq_runtime.cli.main:main" in text["entry_points.txt"]
    assert "edgeseq = edgeseq_runtime.pytest_plugin" in text["entry_points.txt"]
    assert "export = edgeseq_export.command:main" in text["entry_points.txt"]
    assert "quantize = edgeseq_quantize.command:main" in text["entry_points.txt"]
    assert "train = edgeseq_recipes.command:main" in text["entry_points.txt"]
    assert "pytorch = edgeseq_export.bench_peer:load_pytorch" in text["entry_points.txt"]
    required = [line for line in text["METADATA"].splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert required
    assert not [line for line in required if any(name in line for name in ("torch", "onnx"))]


def test_the_wheel_runs_from_its_own_files(wheel, tmp_path):
    """The unpacked wheel alone, not this checkout: profiles are found, the program starts."""
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import edgeseq_runtime as e;"
        "assert e.__file__.startswith(sys.argv[1]), e.__file__;"
        "print(len(e.list_devices())); import edgeseq_runtime.cli.main, edgeseq_runtime.jetpack as j; assert j.list_jetpacks()"
    )
    # Isolated from the checkout's editable finder, which sys.path comes after.
    prelude = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)];"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
