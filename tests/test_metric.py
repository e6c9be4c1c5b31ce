"""A user's metric: taken of fp32 and of what is measured, its loss judged, and shown wherever parity is."""

from __future__ import annotations

import json
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import runtime_models
from low_precision_models import write
from test_parity import not_a_number
from test_parity_suite import edgeseq

import edgeseq_runtime
from edgeseq_runtime.bundle import RelativeGate, open_bundle
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.metric import load_metric
from edgeseq_runtime.report import measure_report
from edgeseq_runtime.report.page import page_html
from edgeseq_runtime.report.sections.headline import sentence
from edgeseq_runtime.suite.record import read_record

LOOSE = RelativeGate(relative=10, relative999=100, unequal=1)
MODEL = runtime_models.lstm()
NOISY = runtime_models.faulty(MODEL, lambda proto: runtime_models.edit_weight(proto, "R", lambda R: 1.1 * R))
# What a user would write, the data made up. `truth` is what the fp32 model gives, so that its accuracy is 1.
USERS_FILE = """
import numpy as np
from users_data import sequences

def error(session):
    return -float(np.mean([np.abs(session.run({"x": x})["y"] - y).mean() for x, y in sequences(session)]))

def streamed(session):
    total = 0.0
    for x, _ in sequences(session):
        stream = session.stream(batch=x.shape[1])
        total += sum(float(stream.step({"x": x[t : t + 1]})["y"].sum()) for t in range(len(x)))
    return total

class Level:
    def __call__(self, session):
        return {"fp32": 0.9, "int8": 0.88}[session.plan.precision]

level = Level()

def raises(session):
    raise KeyError("label")

def leaves(session):
    raise SystemExit(0)

def nothing(session):
    return None

def undefined(session):
    return float("nan")

def wrong_input(session):
    return session.run({"z": np.zeros(3, np.float32)})["y"].mean()

NUMBER = 3
"""
USERS_DATA = """
import numpy as np

def sequences(session):
    rng = np.random.default_rng(0)
    for _ in range(3):
        yield rng.standard_normal((6, 2, 3)).astype(np.float32), np.zeros((6, 2, 8), np.float32)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle with an int8 precision that is a little off, and the user's file."""
    root = tmp_path_factory.mktemp("metric")
    (root / "tasks.py").write_text(USERS_FILE)
    (root / "users_data.py").write_text(USERS_DATA)
    (root / "broken.py").write_text("import not_installed_anywhere")
    (root / "ends.py").write_text("raise SystemExit(0)")
    write(root / "m.edgeseq", MODEL, NOISY.onnx, gate=LOOSE)
    write(root / "nan.edgeseq", MODEL, runtime_models.faulty(MODEL, not_a_number).onnx, gate=LOOSE)
    return root


@pytest.fixture(autouse=True)
def path_as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def accuracy_of(values):
    """A metric that gives a value by precision."""

    def accuracy(session):
        return values[session.plan.precision]

    return accuracy


def measured(folder, metric, precision="int8", **options):
    return edgeseq_runtime.measure_parity(folder / "m.edgeseq", precision=precision, metric=metric, **options)


@pytest.mark.parametrize(
    ("fp32", "int8", "bound", "passes"),
    [
        (0.9, 0.896, {}, True),
        (0.9, 0.894, {}, False),
        (0.9, 0.99, {}, True),
        (0.9, 0.9, {"max_loss": 0}, True),
        (0.9, 0.85, {"max_loss": 0.06}, True),
        (-3, -4, {"max_loss": 0.5}, False),
        (np.float32(0.5), np.array(0.5), {}, True),
        (1, True, {}, True),
    ],
)
def test_the_loss_may_be_as_large_as_is_said(folder, fp32, int8, bound, passes):
    report = measured(folder, accuracy_of({"fp32": fp32, "int8": int8}), **bound)
    assert report.passed == passes
    row = report.metric
    assert (row.name, row.fp32, row.measured) == ("accuracy", float(fp32), float(int8))
    assert row.loss == pytest.approx(float(fp32) - float(int8))
    assert row.max_loss == bound.get("max_loss", 0.005)
    assert (row.verdict, bool(row.reason)) == (("pass", False) if passes else ("fail", True))


def test_the_metric_gets_the_sessions_that_are_meant(folder):
    seen = []

    def watch(session):
        seen.append((session.plan.precision, session.plan.device, session.run({"x": np.ones((4, 1, 3), np.float32)})["y"]))
        return 1.0

    report = measured(folder, watch)
    local = edgeseq_runtime.load_device("cpu").name
    assert [one[:2] for one in seen] == [("fp32", local), ("int8", report.device)]
    for (precision, _, got), model in zip(seen, (MODEL, NOISY), strict=True):
        expected = model.expect({"x": np.ones((4, 1, 3), np.float32)})["y"]
        if precision == "fp32":
            np.testing.assert_allclose(got, expected, atol=1e-6)
        else:
            assert np.abs(got - expected).max() > 1e-3
    assert measured(folder, watch, precision="fp32").metric.loss == 0


def test_a_metric_may_stream(folder):
    report = measured(folder, load_metric(f"{folder / 'tasks.py'}:streamed"), max_loss=1e9)
    assert (report.metric.name, report.metric.verdict) == ("streamed", "pass")
    assert report.metric.loss != 0


def test_a_metric_counts_with_the_rows(folder):
    good, bad = (measured(folder, accuracy_of({"fp32": 1, "int8": value})) for value in (1, 0))
    assert good.count("pass") == len(good.rows) + 1
    assert (bad.count("pass"), bad.count("fail")) == (len(bad.rows), 1)
    assert measured(folder, None).metric is None


def test_where_no_row_can_be_gated_the_metric_decides(tmp_path):
    model = runtime_models.gru()
    path = model.write(tmp_path / "m.edgeseq", ({"T": 20, "B": 1},), horizon={"y": 3, "h_out": 3})
    report = edgeseq_runtime.measure_parity(path, metric=lambda session: 1.0)
    assert report.passed
    skipped = [row for row in report.rows if row.verdict == "skip"]
    assert skipped


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("raises", r"metric 'raises' raised KeyError: 'label'; it is called with a Session"),
        ("leaves", r"metric 'leaves' raised SystemExit: 0"),
        ("nothing", r"can't be taken of the fp32 model: metric 'nothing' gives None, which is no finite number"),
        ("undefined", r"of the fp32 model: metric 'undefined' gives nan"),
        ("wrong_input", r"can't be taken of the fp32 model: .*'z'"),
    ],
)
def test_a_metric_that_gives_no_number_is_an_error(folder, name, problem):
    metric = load_metric(f"{folder / 'tasks.py'}:{name}")
    with pytest.raises(UsageError, match=problem):
        measured(folder, metric)


def test_a_precision_that_gives_none_where_fp32_does_fails(folder):
    report = measured(folder, accuracy_of({"fp32": 0.9, "int8": float("nan")}))
    assert (report.passed, report.metric.verdict) == (False, "fail")
    assert "gives nan, which is no finite number" in report.metric.reason
    found = json.loads(json.dumps(report.to_json()), parse_constant=pytest.fail)["metric"]
    assert (found["measured"], found["loss"], found["fp32"]) == (None, None, 0.9)
    assert "could not be taken" in sentence(report)

    def refuses(session):
        return session.run({"x" if session.plan.precision == "fp32" else "z": np.ones((4, 1, 3), np.float32)})["y"].mean()

    report = measured(folder, refuses)
    assert (report.metric.verdict, report.passed) == ("fail", False)
    assert "'z'" in report.metric.reason


def test_what_the_user_raises_on_the_precision_alone_is_an_error(folder):
    with pytest.raises(UsageError, match="raised KeyError: 'int8'"):
        measured(folder, accuracy_of({"fp32": 0.9}))


@pytest.mark.parametrize("bound", [-0.1, float("nan"), float("inf")])
def test_a_bound_that_makes_no_sense_is_refused_before_anything_is_run(folder, bound):
    with pytest.raises(UsageError, match="largest loss allowed"):
        measured(folder, pytest.fail, max_loss=bound)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tasks.py", "write FILE.py:FUNCTION"),
        ("tasks:error", "write FILE.py:FUNCTION"),
        ("tasks.py:not a name", "write FILE.py:FUNCTION"),
        ("none.py:error", "there is no file"),
        ("tasks.py:accuracy", r"has no function 'accuracy'; it has: .*error"),
        ("tasks.py:NUMBER", "has no function 'NUMBER'"),
        ("broken.py:error", "can't be imported for its metric: ModuleNotFoundError"),
        ("ends.py:error", "can't be imported for its metric: SystemExit: 0"),
    ],
)
def test_a_file_that_has_no_such_metric(folder, text, problem):
    with pytest.raises(UsageError, match=problem):
        load_metric(str(folder / text))
    path, metric = folder / "m.edgeseq", folder / text
    for bundles in ([path], [path, folder / "nan.edgeseq"]):
        assert "Traceback" not in edgeseq("parity", *bundles, "--metric", metric, code=2).stderr


def test_a_metrics_file_may_import_what_is_beside_it_and_shadows_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "m.py").write_text("""from __future__ import annotations
import colorsys
from dataclasses import dataclass

@dataclass
class Hue:
    value: float

def f(session):
    return Hue(colorsys.rgb_to_hsv(1, 1, 1)[2]).value
""")
    assert load_metric(f"{tmp_path / 'm.py'}:f")(None) == 1
    assert load_metric(f"{folder / 'tasks.py'}:error").__name__ == "error"


def test_the_command_passes_and_fails_by_the_metric(folder, tmp_path):
    command = ("parity", folder / "m.edgeseq", "--precision", "int8", "--metric", f"{folder / 'tasks.py'}:level")
    shown = edgeseq(*command, "--max-metric-loss", 0.03, "--junit", tmp_path / "p.xml").stdout
    assert "pass: metric Level: 0.88, fp32 0.9, loss 0.02 (at most 0.03)" in " ".join(shown.split())
    case = ElementTree.parse(tmp_path / "p.xml").getroot().findall("testsuite/testcase")[-1]
    assert case.get("name") == "int8 metric Level"
    assert "loss 0.02" in case.find("system-out").text
    shown = edgeseq(*command, "--junit", tmp_path / "p.xml", "--record", tmp_path / "r.json", code=1).stdout
    assert "fail: metric Level: 0.88" in shown
    assert "FAIL: " in shown
    failure = ElementTree.parse(tmp_path / "p.xml").getroot().findall("testsuite/testcase")[-1].find("failure")
    assert failure.get("message") == "loss 0.02 exceeds 0.005"
    record = read_record(tmp_path / "r.json")
    assert (record.verdict, record.intact) == ("fail", True)
    assert (record.report.metric.name, record.report.metric.loss) == ("Level", pytest.approx(0.02))
    found = json.loads(edgeseq(*command, "--json", code=1).stdout)
    assert found["passed"] is False
    assert found["metric"]["reason"] == "loss 0.02 exceeds 0.005"
    assert found["metric"]["loss"] == pytest.approx(0.02)
    listed = json.loads(edgeseq("records", tmp_path / "r.json", "--json", code=1).stdout)["records"][0]
    assert listed["metric"]["verdict"] == "fail"


def test_a_metric_of_many_bundles_is_taken_in_each_process(folder):
    metric = f"{folder / 'tasks.py'}:error"
    options = ("--precision", "int8", "--metric", metric, "--max-metric-loss", 1e-9)
    shown = edgeseq("parity", folder / "m.edgeseq", folder / "nan.edgeseq", *options, code=1).stdout
    assert re.search(r"fail: metric error: \S+, fp32 \S+, loss \S+ \(at most", " ".join(shown.split()))
    assert "fail: metric error: none, fp32" in " ".join(shown.split())
    found = json.loads(edgeseq("parity", folder, *options, "--json", code=1).stdout)
    assert [one["metric"] for one in found["bundles"]] == [metric] * 2
    assert found["bundles"][0]["report"]["metric"]["name"] == "error"


def test_a_metric_works_for_fp32_on_another_device(folder, tmp_path):
    (tmp_path / "board.toml").write_text(
        'name = "board"\ntitle = "a board"\nkind = "cpu"\nbackend = "onnxruntime"\nproviders = ["CPUExecutionProvider"]\n'
    )
    metric = load_metric(f"{folder / 'tasks.py'}:error")
    report = edgeseq_runtime.measure_parity(folder / "m.edgeseq", device=str(tmp_path / "board.toml"), metric=metric)
    assert (report.device, report.metric.verdict, report.metric.loss) == ("board", "pass", 0)


def test_the_page_shows_the_metric(folder):
    metric = accuracy_of({"fp32": 0.9, "int8": 0.85})
    page = page_html(measure_report(folder / "m.edgeseq", precision="int8", seconds=None, metric=metric, max_loss=0.1))
    assert "The user&#x27;s metric" in page or "The user's metric" in page
    assert "metric accuracy" in page
    assert "0.850, loss 0.0500 of 0.1 allowed" in page or "0.8500, loss 0.0500 of 0.1 allowed" in page
    report = measured(folder, metric)
    assert "is worse" in sentence(report)
    assert "at its task than in fp32" in sentence(report)
    command = ("report", folder / "m.edgeseq", "--precision", "int8", "--no-bench", "-o", folder / "p.html")
    edgeseq(*command, "--metric", f"{folder / 'tasks.py'}:level", code=1)
    assert "metric Level" in (folder / "p.html").read_text()


def test_a_bundle_names_no_code(folder):
    assert b"metric" not in (folder / "m.edgeseq").read_bytes()
    assert open_bundle(folder / "m.edgeseq").manifest.gate("int8") == LOOSE


@pytest.mark.parametrize("command", [("parity",), ("report", "-o", "page.html")], ids=lambda command: command[0])
def test_a_bound_without_a_metric_is_refused(command, folder):
    name, *options = command
    shown = edgeseq(name, folder / "m.edgeseq", *options, "--max-metric-loss", 0.1, code=2).stderr
    assert "--max-metric-loss 0.1 bounds a metric, and none is given" in " ".join(shown.split())
