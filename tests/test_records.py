"""Records of parity runs: written on a board, checked and collected elsewhere."""

from __future__ import annotations

import json
import platform
import re
import shutil
from datetime import datetime, timedelta, timezone

import pytest
import runtime_models
from blocked_imports import NOT_ON_A_BOARD, run_python
from runtime_models import faulty
from test_parity import not_a_number
from test_parity_suite import ONE_CASE, edgeseq

import edgeseq_runtime
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.suite.record import read_record, record_bytes

PROFILE = """
name = "other-board"
title = "another board"
kind = "cpu"
backend = "onnxruntime"
providers = ["CPUExecutionProvider"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bundles, and a record of each: right and wrong ones, and a right one of another board."""
    root = tmp_path_factory.mktemp("records")
    (root / "other.toml").write_text(PROFILE)
    right = runtime_models.lstm().write(root / "right.edgeseq", ONE_CASE)
    wrong = faulty(runtime_models.gru(), not_a_number).write(root / "wrong.edgeseq", ONE_CASE)
    edgeseq("parity", right, "--record", root / "made" / "right.json")
    edgeseq("parity", right, "--record", root / "other.json", "--device", root / "other.toml")
    edgeseq("parity", wrong, "--record", root / "wrong.json", code=1)
    return root


def edited(folder, tmp_path, edit):
    """A copy of the right record with its JSON edited."""
    content = json.loads((folder / "made" / "right.json").read_text())
    edit(content)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def test_a_record_says_what_was_measured_where_with_what(folder):
    found = json.loads((folder / "made" / "right.json").read_text(), parse_constant=pytest.fail)
    report = edgeseq_runtime.measure_parity(folder / "right.edgeseq")
    assert found["report"]["sha256"] == edgeseq_runtime.open_bundle(folder / "right.edgeseq").sha256
    assert found["report"]["versions"] == report.versions
    assert found["report"]["providers"] == ["CPUExecutionProvider"]
    assert [row["output"] for row in found["report"]["rows"]] == [row.output for row in report.rows]
    assert found["profile"]["name"] == found["report"]["device"] == report.device
    assert found["machine"]["platform"] == platform.platform()
    assert int(found["machine"]["cores"]) > 0
    written = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - written) < timedelta(minutes=5)
    assert re.fullmatch("[0-9a-f]{64}", found["sha256"])


def test_the_time_is_utc_whatever_the_clock_says(folder):
    report = edgeseq_runtime.measure_parity(folder / "right.edgeseq")
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5)))
    assert json.loads(record_bytes(report, edgeseq_runtime.load_device("auto"), at))["time"] == "2026-01-01T22:04:05Z"


def test_a_record_comes_back_as_it_was_written(folder):
    record = read_record(folder / "made" / "right.json")
    assert (record.intact, record.verdict, record.report.name) == (True, "pass", "lstm")
    report = edgeseq_runtime.measure_parity(folder / "right.edgeseq")
    assert record.worst("k") == report.worst("k")
    assert record.worst("k999") == report.worst("k999")
    assert read_record(folder / "wrong.json").worst("k") == float("inf")


def test_a_record_may_be_formatted_anew(folder, tmp_path):
    """Its hash is of what it says, not of its white space or the order of its keys."""
    path = edited(folder, tmp_path, lambda content: content.update(time=content.pop("time")))
    assert read_record(path).verdict == "pass"


def first_row(content):
    return content["report"]["rows"][0]


EDITS = [
    lambda content: first_row(content).update(k=first_row(content)["k"] * (1 + 1e-15) + 1e-9),
    lambda content: first_row(content).update(reason="none"),
    lambda content: content["report"]["rows"].pop(),
    lambda content: content["report"].update(sha256="0" * 64),
    lambda content: content["report"].update(passed=False),
    lambda content: content["report"]["gate"].update(k=1e9),
    lambda content: content["machine"].update(cpu="a better one"),
    lambda content: content.update(time="2027-01-01T00:00:00Z"),
    lambda content: content.update(more=1),
    lambda content: content.pop("sha256"),
    lambda content: content.update(sha256="0" * 64),
]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_record_is_noticed(edit, folder, tmp_path):
    assert read_record(edited(folder, tmp_path, edit)).verdict == "changed"


def test_a_verdict_that_its_rows_contradict_is_noticed(folder, tmp_path):
    """Even under a hash that was computed anew."""
    from edgeseq_runtime.suite import record

    def lie(content):
        first_row(content).update(verdict="fail")
        content.pop("sha256")
        content["sha256"] = record._digest(content)

    assert read_record(edited(folder, tmp_path, lie)).verdict == "changed"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.update(kind="a letter"), "is no record"),
        (lambda content: content.update(format=99), "has format 99; this release of edgeseq reads format 1"),
        (lambda content: content["report"].pop("rows"), "does not follow the schema"),
        (lambda content: first_row(content).update(k="small"), "does not follow the schema"),
    ],
)
def test_what_is_no_record_is_refused(edit, message, folder, tmp_path):
    with pytest.raises(UsageError, match=message):
        read_record(edited(folder, tmp_path, edit))


@pytest.mark.parametrize("data", [b"", b"no json", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_no_file_makes_a_traceback(data, tmp_path):
    (tmp_path / "r.json").write_bytes(data)
    assert "is no record" in edgeseq("records", tmp_path / "r.json", code=2).stderr


def test_records_of_many_boards_are_one_table(folder):
    shown = edgeseq("records", folder / "made" / "right.json", folder / "other.json").stdout
    assert "2 pass, 0 fail, 0 changed" in shown
    assert max(map(len, shown.splitlines())) <= 80
    found = json.loads(edgeseq("records", folder / "other.json", folder / "made" / "right.json", "--json").stdout)
    local = edgeseq_runtime.load_device("auto").name
    assert [(one["name"], one["device"], one["verdict"]) for one in found["records"]] == [
        ("lstm", local, "pass"),
        ("lstm", "other-board", "pass"),
    ]
    assert 0 < found["records"][0]["k"] < 4


def test_what_failed_or_was_changed_exits_1_and_what_is_no_record_2(folder, tmp_path):
    right = folder / "made" / "right.json"
    assert "1 pass, 1 fail, 0 changed" in edgeseq("records", folder / "wrong.json", right, code=1).stdout
    changed = edited(folder, tmp_path, EDITS[0])
    shown = edgeseq("records", changed, right, code=1).stdout
    assert "1 pass, 0 fail, 1 changed" in shown
    assert f"changed: {changed} is not what edgeseq wrote" in shown
    result = edgeseq("records", right, folder / "none.json", folder / "wrong.json", code=2)
    assert "1 pass, 1 fail" in result.stdout
    assert "can't read the record" in result.stderr
    found = json.loads(edgeseq("records", folder / "wrong.json", "--json", code=1).stdout, parse_constant=pytest.fail)
    assert found["records"][0]["k"] is None


def test_a_record_is_of_one_bundle(folder, tmp_path):
    for named in ([folder], [folder / "right.edgeseq", folder / "wrong.edgeseq"]):
        assert "--record is of one bundle" in edgeseq("parity", *named, "--record", tmp_path / "r.json", code=2).stderr
    devices = ("--device", "auto", "--device", "cpu")
    edgeseq("parity", folder / "right.edgeseq", *devices, "--record", tmp_path / "r.json", code=2)
    assert not (tmp_path / "r.json").exists()
    shutil.copy(folder / "right.edgeseq", tmp_path)
    assert "can't write" in edgeseq("parity", tmp_path / "right.edgeseq", "--record", tmp_path, code=2).stderr


def test_records_are_collected_where_there_is_no_backend(folder):
    files = [str(folder / "made" / "right.json"), str(folder / "other.json")]
    code = f"from edgeseq_runtime.cli.main import app\napp(['records', *{files!r}])"
    done = run_python(code, blocked=(*NOT_ON_A_BOARD, "onnxruntime", "pytest"))
    assert done.returncode == 0, done.stderr
    assert "2 pass, 0 fail, 0 changed" in done.stdout
