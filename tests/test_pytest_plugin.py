"""The pytest plugin, as a project beside which the package is installed sees it."""

from __future__ import annotations

import shutil
import sys
from xml.etree import ElementTree

import pytest
import runtime_models
from runtime_models import faulty
from test_parity import swapped_gates
from test_parity_suite import state_alone

import edgeseq_runtime.backends.onnxruntime_backend
import edgeseq_runtime.pytest_plugin.fixture
import edgeseq_runtime.pytest_plugin.options  # noqa: F401  # here once, and not at every run of pytest in this process

pytest_plugins = ["pytester"]

TWO_CASES = ({"T": 1, "B": 1}, {"T": 4, "B": 2})


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    runtime_models.lstm().write(folder / "right.edgeseq", TWO_CASES)
    faulty(runtime_models.lstm(), swapped_gates).write(folder / "wrong.edgeseq", TWO_CASES)
    runtime_models.gru().write(folder / "far.edgeseq", ({"T": 20, "B": 1},), horizon={"y": 3, "h_out": 3})
    state_alone().write(folder / "partly.edgeseq", (*TWO_CASES, {"T": 20, "B": 1}), horizon={"h_out": 10})
    state_alone().write(folder / "nothing.edgeseq", ({"T": 20, "B": 1},), horizon={"h_out": 3})
    (folder / "damaged.edgeseq").write_bytes(b"no zip")
    return folder


@pytest.fixture
def project(pytester, bundles, monkeypatch):
    """A project with `models/` to which bundles can be brought; `run` gives what pytest did there."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):  # in CI pytest's summary repeats each failure in full
        monkeypatch.delenv(name, raising=False)

    class Project:
        path = pytester.path

        def bring(self, *names, folder="models"):
            (self.path / folder).mkdir(exist_ok=True)
            for name in names:
                shutil.copy(bundles / f"{name}.edgeseq", self.path / folder)

        def run(self, *arguments, **counts):
            # Hypothesis takes most of a second each time.
            result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-rA", *arguments)
            if counts or result.ret != pytest.ExitCode.USAGE_ERROR:
                result.assert_outcomes(**counts)
            return result

    return Project()


def test_a_bundle_named_is_proved_an_item_a_size(project):
    project.bring("right", "wrong")
    shown = project.run("models/right.edgeseq", passed=2).stdout
    shown.fnmatch_lines_random(
        [
            "PASSED models/right.edgeseq::parity[[]auto-fp32-T1-B1[]]",
            "PASSED models/right.edgeseq::parity[[]auto-fp32-T4-B2[]]",
        ]
    )
    project.run("models/right.edgeseq::parity[auto-fp32-T4-B2]", passed=1)
    project.run("models/right.edgeseq", "-k", "T1", passed=1, deselected=1)


def test_a_failure_shows_its_rows_and_no_traceback(project):
    project.bring("wrong")
    result = project.run("models/wrong.edgeseq", failed=2)
    assert result.ret == 1
    shown = result.stdout.str()
    assert shown.count("fail: y, whole, T=4 B=2: k ") == 1
    assert "gate k <= 4, k999 <= 8" in shown
    assert "0 pass, 6 fail, 0 skip; worst k" in shown
    assert "items.py" not in shown
    assert "Error" not in shown


def test_a_damaged_bundle_fails_and_hides_no_other(project):
    project.bring("damaged", "right")
    shown = project.run("models/damaged.edgeseq", "models/right.edgeseq", failed=1, passed=2).stdout.str()
    assert "is cut short, damaged, or no bundle" in shown
    assert "items.py" not in shown


def test_sizes_at_which_nothing_can_be_gated_are_skipped_but_not_a_whole_bundle(project):
    project.bring("partly", "nothing", "far")
    shown = project.run("models/partly.edgeseq", passed=2, skipped=1).stdout.str()
    assert "chaotic after 10 steps" in shown
    assert "nothing could be gated" in project.run("models/nothing.edgeseq", failed=1).stdout.str()
    project.run("models/far.edgeseq", passed=1)


def test_devices_and_precisions_are_those_of_the_command_line(project):
    project.bring("right")
    result = project.run("models/right.edgeseq", "--edgeseq-device", "auto", "--edgeseq-device", "cpu", passed=4)
    assert "parity[cpu-fp32-T1-B1]" in result.stdout.str()
    assert "has no precision 'int8'" in project.run("--edgeseq-precision=int8", "models/right.edgeseq", failed=2).stdout.str()
    refused = project.run("models/right.edgeseq", "--edgeseq-device", "cudda")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "did you mean cuda" in refused.stderr.str()


def test_folders_are_walked_for_what_the_setting_matches(project):
    project.bring("right", "wrong")
    assert project.run("models").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    project.run("-o", "edgeseq_files=right.*", passed=2)
    project.run("models", "-o", "edgeseq_files=models/*.edgeseq", passed=2, failed=2)
    project.run("-o", "edgeseq_files=others/*.edgeseq")


def test_bundles_asked_for_come_with_the_tests_wherever_they_are(project):
    """`build` is a folder that pytest does not walk; what it collects anyway is not proved twice."""
    project.bring("right", folder="build")
    project.bring("wrong")
    (project.path / "test_own.py").write_text("def test_own(): pass")
    project.run("--edgeseq-bundles", "build", passed=3)
    project.run("--edgeseq-bundles", "build/right.edgeseq", "--edgeseq-bundles", "models", passed=3, failed=2)
    project.run("models/wrong.edgeseq", "--edgeseq-bundles", "models", failed=2)
    shown = project.run("--edgeseq-bundles", "build", "-k", "own", passed=1, deselected=2).stdout.str()
    assert "collected 3 items / 2 deselected / 1 selected" in shown
    for path in ("nowhere", "nowhere.edgeseq"):
        assert project.run("--edgeseq-bundles", path).ret == pytest.ExitCode.USAGE_ERROR


def test_it_works_in_parallel(project):
    pytest.importorskip("xdist")
    project.bring("right", "wrong", "damaged")
    project.run("--edgeseq-bundles", "models", "-n", "2", passed=2, failed=3)


def test_junit_holds_what_was_measured(project):
    project.bring("right")
    project.run("models/right.edgeseq", "--junit-xml=j.xml", passed=2)
    case = ElementTree.parse(project.path / "j.xml").find(".//testcase")
    properties = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert len(properties["sha256"]) == 64
    assert 0 < float(properties["k"]) < 4
    assert properties["version.onnxruntime"]


FIXTURE = """
import numpy as np

def test_session(edgeseq_bundle):
    session = edgeseq_bundle("models/right.edgeseq").session()
    assert session.run({"x": np.zeros((2, 1, 3), np.float32)})["y"].shape == (2, 1, 8)

def test_right(edgeseq_bundle):
    bundle = edgeseq_bundle("models/right.edgeseq")
    bundle.assert_parity()
    assert bundle.parity(device="auto").passed
    assert bundle.bundle.name == "lstm"

def test_wrong(edgeseq_bundle):
    edgeseq_bundle("models/wrong.edgeseq").assert_parity()

def test_absent(edgeseq_bundle):
    edgeseq_bundle("models/none.edgeseq")
"""


def test_the_fixture_opens_bundles_beside_the_test_or_below_the_root(project):
    project.bring("right", "wrong")
    (project.path / "deep").mkdir()
    (project.path / "deep" / "test_it.py").write_text(FIXTURE)
    shown = project.run(passed=2, failed=2).stdout.str()
    assert "fail: y, whole, T=4 B=2: k " in shown
    assert 'edgeseq_bundle("models/wrong.edgeseq").assert_parity()' not in shown  # no traceback
    assert f"looked for {project.path / 'deep/models/none.edgeseq'} and {project.path / 'models/none.edgeseq'}" in shown
    shutil.copytree(project.path / "models", project.path / "deep" / "models")
    shutil.copy(project.path / "models" / "right.edgeseq", project.path / "deep" / "models" / "wrong.edgeseq")
    project.run("-k", "right or wrong", passed=2, deselected=2)


USES_DEVICE = """
def test(edgeseq_bundle):
    bundle = edgeseq_bundle("models/right.edgeseq")
    assert bundle.session().plan.device == bundle.parity().device == "mine"
    bundle.assert_parity(device="cpu")
"""
PROFILE = """
name = "mine"
title = "a profile"
kind = "cpu"
backend = "onnxruntime"
providers = ["CPUExecutionProvider"]
"""


def test_the_fixture_uses_the_device_of_the_command_line(project):
    project.bring("right")
    (project.path / "test_it.py").write_text(USES_DEVICE)
    (project.path / "mine.toml").write_text(PROFILE)
    project.run("--edgeseq-device", "mine.toml", passed=1)
    shown = project.run("models/right.edgeseq", "--edgeseq-device", "mine.toml", passed=2).stdout.str()
    assert "::parity[mine-fp32-T1-B1]" in shown


def test_where_it_is_not_used_it_imports_nothing(pytester):
    """Not even in a project that asks for it with `--help` or `--fixtures`."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            loaded = {name.split(".")[0] for name in sys.modules}
            assert "edgeseq_runtime.pytest_plugin" in sys.modules
            assert not loaded & {"numpy", "onnxruntime", "msgspec", "rich", "typer", "torch"}
            ours = [name for name in sys.modules if name.startswith("edgeseq")]
            assert ours == ["edgeseq_runtime", "edgeseq_runtime.pytest_plugin"]
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-W", "error")
    result.assert_outcomes(passed=1)


def test_a_failing_import_of_the_backend_is_a_message(project, monkeypatch):
    project.bring("right")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "edgeseq_runtime.backends.onnxruntime_backend", raising=False)
    monkeypatch.delattr("edgeseq_runtime.backends.onnxruntime_backend", raising=False)
    assert 'pip install "edgeseq[ort]"' in project.run("models/right.edgeseq", failed=2).stdout.str()
