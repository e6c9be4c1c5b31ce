"""`native` as a device: what is planned, what a self-test looks for, what is compiled ahead. Its results are tested elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import runtime_models
from selftest_boards import orin_nano, plant
from typer.testing import CliRunner

from edgeseq_runtime import load_device, make_forecast, make_plan, open_bundle
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.detect import detect_machine
from edgeseq_runtime.native import compiled as native
from edgeseq_runtime.selftest.board import read_board
from edgeseq_runtime.selftest.environment import environment_checks

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler on PATH")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return runtime_models.lstm().write(tmp_path_factory.mktemp("native") / "m.edgeseq", ({"T": 4, "B": 2},))


@pytest.fixture
def fresh_process():
    """As if nothing had asked for the kernels in this process."""
    native.compiled.cache_clear()
    yield
    native.compiled.cache_clear()


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch, fresh_process):
    """A user's cache with nothing in it: the kernels take a quarter of a minute to compile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeseq" / "native"


def run(*arguments, code=0):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done


def compiler_check(tmp_path, bundle, root=Path("/")):
    opened, profile = open_bundle(bundle), load_device("native")
    checks = environment_checks(detect_machine(root, nvml=None), read_board(root), profile, make_plan(opened, profile), None, root)
    found = {check.name: check for check in checks}
    assert "providers" not in found
    return found


def test_it_is_a_cpu_of_any_architecture():
    device = load_device("native")
    assert (device.group, device.backend, device.providers, device.machines) == ("CPU", "native", ("Native",), ())
    assert "native" not in (load_device("cpu").name, *detect_machine(nvml=None).devices)


def test_threads_are_one_unless_said(bundle):
    opened = open_bundle(bundle)
    assert [make_plan(opened, "native", threads=threads).threads for threads in (None, 1, 2)] == [1, 1, 2]


def test_a_plan_says_what_it_needs_and_no_onnx_runtime(bundle):
    software = make_forecast(open_bundle(bundle), "native").software
    assert software.install == ("pip install edgeseq", "sudo apt install gcc  # or: pip install ziglang")
    shown = run("plan", bundle, "--device", "native").output
    assert "edgeseq's own kernels" in shown
    assert "sudo apt install gcc" in shown
    assert "ONNX Runtime" not in shown


def test_a_self_test_names_the_compiler(bundle, tmp_path, monkeypatch, fresh_cache):
    found = compiler_check(tmp_path, bundle)
    assert (found["compiler"].verdict, found["device"].verdict) == ("good", "good")
    assert any(f"({shutil.which(name)})" in found["compiler"].found for name in ("cc", "gcc", "clang") if shutil.which(name))
    monkeypatch.setenv("CC", "none-cc")
    lacking = compiler_check(tmp_path, bundle, plant(tmp_path / "board", orin_nano()))["compiler"]
    assert (lacking.verdict, lacking.do) == ("missing", ("sudo apt install gcc  # or: pip install ziglang",))
    assert lacking.found == "CC is 'none-cc', and there is no program none-cc"
    assert not fresh_cache.exists() or not list(fresh_cache.iterdir())


def test_a_self_test_needs_no_compiler_where_the_kernels_are_kept(bundle, tmp_path, monkeypatch, fresh_process):
    monkeypatch.delenv("CC", raising=False)
    made = native.compiled()
    assert native.kept_library()._replace(library=None) == made._replace(library=None, built=False)
    monkeypatch.setattr("edgeseq_runtime.selftest.environment.find_compilers", lambda: iter(["no cc on PATH"]))
    kept = compiler_check(tmp_path, bundle)["compiler"]
    assert kept.verdict == "good"
    assert kept.found.endswith(f"the kernels that {made.record.compiler} compiled are kept in {made.path}")
    monkeypatch.setenv("CC", "none-cc")
    assert native.kept_library() is None
    assert compiler_check(tmp_path, bundle)["compiler"].verdict == "missing"


def test_compile_says_where_the_library_is_kept(bundle, fresh_process):
    kept = native.compiled().path
    native.compiled.cache_clear()
    made = json.loads(run("compile", bundle, "--device", "native", "--json").stdout)
    assert (made["kept"], made["built"], made["notes"]) == (str(kept), False, [])


@pytest.mark.slow
def test_compile_makes_the_library(bundle, fresh_cache):
    made = json.loads(run("compile", bundle, "--device", "native", "--json").stdout)
    assert Path(made["kept"]).parent == fresh_cache
    assert Path(made["kept"]).is_file()
    assert (made["built"], made["notes"]) == (True, [])
    native.compiled.cache_clear()
    shown = run("compile", bundle, "--device", "native").stdout
    assert f"kept      {made['kept']}" in shown
    assert "built     before" in shown
    assert f"compiler  {made['compiler']}" in shown


@pytest.mark.slow
def test_compile_says_once_why_nothing_is_kept(bundle, fresh_cache):
    fresh_cache.parent.parent.write_text("")
    shown = run("compile", bundle, "--device", "native").output
    assert "kept      not kept" in shown
    assert shown.count("can't make the cache") == 1
