"""docs/ci.md: its commands run, its workflows hold those commands, and its tables are the fields that are written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import runtime_models

PAGE = (Path(__file__).parent.parent / "docs" / "ci.md").read_text()
ONE_CASE = ({"T": 4, "B": 2},)
PROGRAMS = {"edgeseq": ["-m", "edgeseq_runtime.cli.main"], "pytest": ["-m", "pytest"]}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def fields_after(text):
    """The names in the first column of the first table after a text."""
    table = re.search(r"\| field \| holds \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE[PAGE.index(text) :])[1]
    return {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def commands():
    """Every call of edgeseq and pytest, those of the workflows too."""
    lines = "\n".join(blocks("bash") + blocks("yaml")).splitlines()
    stripped = [re.sub(r"^\s*(- )?(run: )?", "", line) for line in lines]
    return [line for line in stripped if line.split(" ")[0] in PROGRAMS]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    runtime_models.lstm().write(root / "models" / "vad.edgeseq", ONE_CASE)
    runtime_models.gru().write(root / "models" / "deep" / "other.edgeseq", ONE_CASE)
    (root / "test_example.py").write_text("".join(blocks("python")))
    (root / "pyproject.toml").write_text("".join(blocks("toml")))
    return root


def run(project, command):
    program, *arguments = shlex.split(command)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    line = [sys.executable, *PROGRAMS[program], *arguments]
    return subprocess.run(line, cwd=project, capture_output=True, text=True, env=environment)


def test_every_command_runs_in_its_order(project):
    assert len(commands()) == 6
    for command in dict.fromkeys(commands()):
        done = run(project, command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert (project / "parity.xml").is_file()
    assert "1 pass, 0 fail, 0 changed" in done.stdout


def test_the_example_and_the_setting_are_collected(project):
    shown = run(project, "pytest -q -rA").stdout
    assert "PASSED test_example.py::test_silence_stays_silent" in shown
    assert "PASSED models/vad.edgeseq::parity[auto-fp32-T4-B2]" in shown


def test_the_tables_name_the_fields_that_are_written(project):
    suite = json.loads(run(project, "edgeseq parity models --json").stdout)
    report = json.loads(run(project, "edgeseq parity models/vad.edgeseq --json").stdout)
    run(project, "edgeseq parity models/vad.edgeseq --record record.json")
    assert fields_after("models --json` writes one object") == set(suite)
    assert fields_after("Each of `bundles` has") == set(suite["bundles"][0])
    assert fields_after("A report, which is all") == set(report)
    assert fields_after("edgeseq records vad.json") == set(json.loads((project / "record.json").read_text()))
    row = re.search(r"\| `rows` \| a list: (.*?) \|", PAGE)[1]
    assert set(report["rows"][0]) <= set(re.findall(r"`(\w+)`", row))


def test_the_workflows_publish_what_the_command_writes():
    github, gitlab = blocks("yaml")
    for workflow in (github, gitlab):
        written = re.search(r"--junit (\S+)", workflow)[1]
        assert workflow.count(written) >= 2
        assert 'pip install "edgeseq[ort]"' in workflow
        assert "always" in workflow
