"""`edgeseq parity` on folders: every bundle measured whatever the others do, and reported in the forms that CI reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import onnx
import pytest
import runtime_models
from onnx import helper
from runtime_models import faulty, node_of
from test_parity import not_a_number, swapped_gates
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.suite import Job, Outcome, exit_code, find_bundles, junit_xml, measure, measure_all, suite_json

ONE_CASE = ({"T": 4, "B": 2},)


def ends_the_process(proto):
    """An LSTM of an empty batch, on which ONNX Runtime aborts."""
    node_of(proto, "LSTM").input[0] = "none"
    for name, value in (("at", 0), ("batch_axis", 1)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    proto.graph.node.insert(0, helper.make_node("Slice", ["x", "at", "at", "batch_axis"], ["none"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two right models, a wrong one, a damaged file and one that ends its process; and a folder with the right ones alone."""
    root = tmp_path_factory.mktemp("suite")
    runtime_models.lstm().write(root / "right" / "b.edgeseq", ONE_CASE)
    runtime_models.gru().write(root / "right" / "deep" / "a.edgeseq", ONE_CASE)
    faulty(runtime_models.lstm(), swapped_gates).write(root / "wrong.edgeseq", ONE_CASE)
    (root / "damaged.edgeseq").write_bytes(b"no zip")
    faulty(runtime_models.lstm(state=False), ends_the_process).write(root / "ends.edgeseq", ONE_CASE)
    (root / "notes.txt").write_text("no bundle")
    return root


def edgeseq(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def by_name(outcomes):
    return {Path(outcome.job.path).name: outcome for outcome in outcomes}


def jobs_of(*paths):
    return [Job(str(path), "auto", "fp32") for path in find_bundles(paths)]


def test_bundles_are_found_in_and_below_folders_once_and_in_order(folder):
    right = folder / "right"
    assert find_bundles([right]) == (right / "b.edgeseq", right / "deep" / "a.edgeseq")
    assert len(find_bundles([right / "deep" / ".." / "b.edgeseq", right])) == 2
    assert find_bundles([right / "deep" / "a.edgeseq", right / "b.edgeseq", right]) == find_bundles([right])
    assert [path.name for path in find_bundles([folder])][:3] == ["damaged.edgeseq", "ends.edgeseq", "b.edgeseq"]
    assert find_bundles([folder / "none.edgeseq"]) == (folder / "none.edgeseq",)


def test_what_installed_packages_bring_is_not_the_users(tmp_path):
    packages = tmp_path / "venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    for folder in (packages, tmp_path / "venv"):
        (folder / "c.edgeseq").write_bytes(b"")
    assert find_bundles([tmp_path]) == (tmp_path / "venv" / "c.edgeseq",)
    assert find_bundles([packages]) == (packages / "c.edgeseq",)  # but where it is what is named


def test_a_folder_without_bundles_is_bad_usage(tmp_path):
    with pytest.raises(UsageError, match=r"hold no \*\.edgeseq"):
        find_bundles([tmp_path])
    assert "hold no" in edgeseq("parity", tmp_path, code=2).stderr


@pytest.mark.parametrize("workers", [1, 3])
def test_what_one_bundle_does_costs_no_other(folder, workers):
    """The outcomes of all are there and in order, also of those after the one that ends its process."""
    jobs = jobs_of(folder)
    seen = []
    outcomes = measure_all(jobs, workers, lambda done, total: seen.append(done / total))
    assert [outcome.job for outcome in outcomes] == jobs
    found = by_name(outcomes)
    assert {name: outcome.verdict for name, outcome in found.items()} == {
        "damaged.edgeseq": "error",
        "ends.edgeseq": "error",
        "b.edgeseq": "pass",
        "a.edgeseq": "pass",
        "wrong.edgeseq": "fail",
    }
    assert "SIGABRT" in found["ends.edgeseq"].error
    assert found["damaged.edgeseq"].error_type == "TruncatedBundle"
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_processes_measure_what_this_one_measures(folder):
    """Figures and all, but for the time they took."""

    def figures(report):
        return [msgspec.structs.replace(row, seconds=0) for row in report.rows]

    jobs = jobs_of(folder / "right", folder / "wrong.edgeseq")
    for there, here in zip(measure_all(jobs, 2), map(measure, jobs), strict=True):
        assert figures(there.report) == figures(here.report)


def test_rows_say_what_they_took(folder):
    start = time.perf_counter()
    report = edgeseq_runtime.measure_parity(folder / "right" / "b.edgeseq")
    assert all(row.seconds > 0 for row in report.rows)
    assert sum(row.seconds for row in report.rows) < time.perf_counter() - start


def outcome(verdict):
    job = Job("m.edgeseq", "auto", "fp32")
    if verdict == "error":
        return Outcome(job=job, seconds=1, error="why", error_type="UsageError")
    row = edgeseq_runtime.parity.ParityRow(output="y", mode="whole", sizes={"T": 1}, shape=(1,), verdict=verdict, reason="why")
    report = edgeseq_runtime.ParityReport(
        path="m.edgeseq",
        name="m",
        sha256="0" * 64,
        device="cpu",
        precision="fp32",
        providers=(),
        threads=1,
        gate=edgeseq_runtime.bundle.Gate(4, 8),
        versions={},
        provenance={},
        rows=(row,),
    )
    return Outcome(job=job, seconds=1, report=report)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["pass"], 0),
        (["pass", "fail"], 1),
        (["error", "pass"], 2),
        (["fail", "error"], 2),
        (["skip"], 1),
    ],
)
def test_the_exit_code_is_of_the_worst_that_happened(verdicts, code):
    outcomes = [outcome(verdict) for verdict in verdicts]
    assert exit_code(outcomes) == code
    found = suite_json(outcomes)
    assert (found["passed"], found["exit_code"]) == (code == 0, code)


def test_a_folder_that_is_right_exits_0_with_a_table(folder, monkeypatch):
    monkeypatch.chdir(folder)  # a path that is not broken into lines
    shown = edgeseq("parity", "right").stdout
    assert "PASS: 2 pass, 0 fail, 0 could not be measured" in shown
    assert "6/0/0" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.index("b.edge") < shown.index("deep/a")


def test_the_rows_that_failed_are_below_the_table(folder):
    shown = edgeseq("parity", folder / "right", folder / "wrong.edgeseq", code=1).stdout
    assert re.search(r"FAIL: 2 pass, 1 fail, 0 could", shown)
    table, below = shown.split(f"\n{folder / 'wrong.edgeseq'} on ")
    assert "exceeds" not in table
    assert len(re.findall(r"^  fail: \w+, (whole|stream), T=4 B=2: k \S+ exceeds 4$", below, re.MULTILINE)) == 6


def test_what_can_not_be_measured_exits_2_and_hides_nothing(folder):
    result = edgeseq(
        "parity", folder / "right", folder / "damaged.edgeseq", folder / "wrong.edgeseq", folder / "none.edgeseq", code=2
    )
    assert "FAIL: 2 pass, 1 fail, 2 could not be measured" in result.stdout
    assert "exceeds 4" in result.stdout
    assert result.stderr.count("error: ") == 2
    assert "is cut short" in result.stderr
    assert "Traceback" not in result.stderr


def state_alone():
    """A GRU that gives its last state and nothing over time, so that there is nothing to cut to a horizon."""
    base = runtime_models.gru()
    proto = onnx.load_from_string(base.onnx)
    del proto.graph.output[0]
    return replace(
        base,
        onnx=proto.SerializeToString(),
        outputs=base.outputs[1:],
        equations=lambda inputs, dtype: {"h_out": base.equations(inputs, dtype)["h_out"]},
    )


def test_a_bundle_that_gates_nothing_fails_and_says_so(tmp_path):
    state_alone().write(tmp_path / "m.edgeseq", ({"T": 20, "B": 1},), horizon={"h_out": 3})
    shown = edgeseq("parity", tmp_path, code=1).stdout
    assert "fail: nothing could be gated" in shown
    assert "0/0/2" in shown


def test_several_devices_are_several_rows(folder):
    found = json.loads(edgeseq("parity", folder / "right", "--device", "auto", "--device", "cpu", "--json").stdout)
    assert [(Path(one["path"]).name, one["device"]) for one in found["bundles"]] == [
        (name, device) for name in ("b.edgeseq", "a.edgeseq") for device in ("auto", "cpu")
    ]
    assert "there is no device" in edgeseq("parity", folder, "--device", "cuda", "--device", "nonsense", code=2).stderr


def test_json_of_many_holds_the_reports_and_the_errors(folder):
    result = edgeseq("parity", folder / "right", folder / "damaged.edgeseq", folder / "wrong.edgeseq", "--json", code=2)
    found = json.loads(result.stdout)
    assert (found["format"], found["counts"], found["exit_code"]) == (1, {"pass": 2, "fail": 1, "error": 1}, 2)
    names = {Path(one["path"]).name: one for one in found["bundles"]}
    assert names["damaged.edgeseq"]["error"]["type"] == "TruncatedBundle"
    assert names["damaged.edgeseq"]["report"] is None
    assert names["b.edgeseq"]["report"]["sha256"] == edgeseq_runtime.open_bundle(folder / "right" / "b.edgeseq").sha256


# The elements and attributes of Jenkins' schema for JUnit, junit-10.xsd, and `error`: element -> (attributes, those required,
# children).
COUNTS = {"name", "tests", "failures", "errors"}
SCHEMA = {
    "testsuites": ({*COUNTS, "time"}, set(), {"testsuite"}),
    "testsuite": (
        {*COUNTS, "group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url", "version"},
        COUNTS,
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": (
        {"name", "time", "classname", "group"},
        {"name", "classname"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    **{tag: ({"type", "message"}, set(), set()) for tag in ("failure", "error", "skipped")},
    "system-out": (set(), set(), set()),
}
SUREFIRE_TIME = r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?"


def require_junit(element):
    attributes, required, children = SCHEMA[element.tag]
    assert required <= set(element.attrib) <= attributes, element.tag
    assert re.fullmatch(SUREFIRE_TIME, element.get("time", "0"))
    if "timestamp" in element.attrib:
        datetime.fromisoformat(element.get("timestamp"))
    if element.tag == "testsuite":
        for attribute, tag in (("tests", "."), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.get(attribute)) == len(element.findall(f"testcase/{tag}" if tag != "." else "testcase")), attribute
    for child in element:
        assert child.tag in children, (element.tag, child.tag)
        require_junit(child)


@pytest.fixture(scope="module")
def junit(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("junit") / "made" / "parity.xml"
    skipping = runtime_models.gru().write(path.parent.parent / "skips.edgeseq", ({"T": 20, "B": 1},), horizon={"h_out": 3})
    edgeseq("parity", folder, skipping, "--junit", path, code=2)
    return ElementTree.parse(path).getroot()


def test_junit_has_the_structure_that_jenkins_and_gitlab_read(junit):
    require_junit(junit)
    suites = junit.findall("testsuite")
    for attribute in ("tests", "failures", "errors"):
        assert int(junit.get(attribute)) == sum(int(suite.get(attribute)) for suite in suites)
    assert len(suites) == 6


def test_junit_has_a_case_a_row_with_figures_and_reasons(junit, folder):
    suites = {re.search(r"(\w+)\.edgeseq on", suite.get("name"))[1]: suite for suite in junit}
    wrong = suites["wrong"].findall("testcase")
    assert [case.get("name") for case in wrong][:2] == ["fp32 T=4 B=2 whole y", "fp32 T=4 B=2 whole h_out"]
    assert all(re.search(r"k .* exceeds 4", case.find("failure").get("message")) for case in wrong)
    assert re.search(r"k \S+ \(gate 4\), k999 \S+ \(gate 8\), max abs", wrong[0].find("failure").text)
    assert wrong[0].get("classname").endswith(".wrong." + edgeseq_runtime.load_device("auto").name)
    assert "is cut short" in suites["damaged"].find("testcase/error").get("message")
    assert "SIGABRT" in suites["ends"].find("testcase/error").text
    skipped = suites["skips"].findall("testcase/skipped")
    assert skipped
    assert all("chaotic after 3 steps" in one.get("message") for one in skipped)
    properties = {one.get("name"): one.get("value") for one in suites["b"].iter("property")}
    assert properties["sha256"] == edgeseq_runtime.open_bundle(folder / "right" / "b.edgeseq").sha256
    assert properties["version.onnxruntime"]
    times = [float(case.get("time")) for case in suites["b"].iter("testcase")]
    assert sum(times) <= float(suites["b"].get("time")) + 0.001 * len(times)


def test_junit_of_one_bundle_is_written_whether_it_passes_or_can_not_be_opened(folder, tmp_path):
    for name, code in (("right/b.edgeseq", 0), ("wrong.edgeseq", 1), ("damaged.edgeseq", 2)):
        result = edgeseq("parity", folder / name, "--junit", tmp_path / "j.xml", code=code)
        root = ElementTree.parse(tmp_path / "j.xml").getroot()
        require_junit(root)
        assert (int(root.get("errors")) > 0) == (code == 2)
        assert (int(root.get("failures")) > 0) == (code == 1)
        assert ("could not be measured" in result.output) is False  # the output of one bundle is its own table
    assert "can't write" in edgeseq("parity", folder / "right" / "b.edgeseq", "--junit", tmp_path, code=2).stderr


def test_junit_fails_where_nothing_was_gated():
    root = ElementTree.fromstring(junit_xml([outcome("skip")]))
    require_junit(root)
    assert root.get("failures") == "1"


def test_junit_is_xml_whatever_a_model_calls_its_outputs():
    """Control characters can't be written in XML at all."""
    odd = outcome("fail")
    rows = tuple(msgspec.structs.replace(row, output="y\x00<&\x1b[31m", reason="\ud800 ]]>") for row in odd.report.rows)
    odd = msgspec.structs.replace(odd, report=msgspec.structs.replace(odd.report, rows=rows))
    root = ElementTree.fromstring(junit_xml([odd], datetime(2026, 1, 2, 3, 4, 6, tzinfo=timezone.utc)))
    assert root.find(".//testcase").get("name") == "fp32 T=1 whole y?<&?[31m"
    assert root.find("testsuite").get("timestamp") == "2026-01-02T03:04:05"


def children_of(pid):
    """Process ids of those that this one started, while they run."""
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def eventually(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


@pytest.fixture
def running(tmp_path):
    """`edgeseq parity` on thirty bundles, two at a time, and the processes that it has started."""
    first = runtime_models.gru().write(tmp_path / "0.edgeseq", ({"T": 300, "B": 1},))
    for number in range(1, 30):
        shutil.copy(first, tmp_path / f"{number}.edgeseq")
    command = [sys.executable, "-m", "edgeseq_runtime.cli.main", "parity", str(tmp_path), "--jobs", "2"]
    program = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs, which a test run may be one of, ignore Ctrl-C and hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        # multiprocessing has a third, which looks after what they share.
        assert eventually(lambda: len(children_of(program.pid)) == 3)
        yield program, children_of(program.pid)
    finally:
        program.kill()
        program.communicate()


@needs_proc
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL], ids=lambda stop: stop.name)
def test_no_process_outlives_the_one_that_started_it(stop, running):
    """Ctrl-C, which reaches every process of the terminal, and an end that no one can catch."""
    program, started = running
    time.sleep(0.6)  # past their imports, into the measurements
    assert program.poll() is None
    os.killpg(program.pid, stop) if stop == signal.SIGINT else program.kill()
    _, errors = program.communicate(timeout=20)
    assert program.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert not re.search("Traceback|KeyboardInterrupt", errors)
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


@needs_proc
def test_an_interrupt_is_for_the_first_process_alone(running):
    """Else each of the others would write a traceback in the moment before it is ended."""
    program, started = running
    for pid in started:
        os.kill(pid, signal.SIGINT)
    shown, errors = program.communicate(timeout=240)
    assert (program.returncode, errors) == (0, "")
    assert "PASS: 30 pass" in shown


def test_not_a_number_is_null_in_json(tmp_path):
    faulty(runtime_models.lstm(), not_a_number).write(tmp_path / "m.edgeseq", ONE_CASE)
    found = json.loads(edgeseq("parity", tmp_path, "--json", code=1).stdout, parse_constant=lambda name: pytest.fail(name))
    assert found["bundles"][0]["report"]["rows"][0]["k"] is None
