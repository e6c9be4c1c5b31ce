"""The README's code runs, its links lead somewhere, and its commands exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]


def test_the_python_examples_run_in_their_order(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    check = "\nassert scores.shape == (50, 2, 9) and y.shape == (1, 1, 1)\n"
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks) + check)
    run = subprocess.run([sys.executable, "-W", "error::UserWarning", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parity = subprocess.run(
        [sys.executable, "-m", "edgeseq_runtime.cli.main", "parity", "build/tagger.edgeseq"], cwd=tmp_path, capture_output=True
    )
    assert parity.returncode == 0, parity.stdout


# Those of docs/diagnostics.md are run, and their output compared, by tests/test_diagnostics.py.
EXAMPLES = [page for page in PAGES[1:] if "```python" in page.read_text() and page.stem != "diagnostics"]


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_the_other_pages_run(page, tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if 'device="native"' in code and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler on PATH")
    script = tmp_path / "page.py"
    script.write_text(code)
    run = subprocess.run([sys.executable, "-W", "error::UserWarning", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    targets = [t for t in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in t]
    missing = [t for t in targets if not (page.parent / t).exists()]
    assert missing == []


def test_every_command_named_exists():
    named = {word for row in re.findall(r"^\| (.*?) \|", README, re.MULTILINE) for word in re.findall(r"`edgeseq (\w+)", row)}
    help_text = subprocess.run([sys.executable, "-m", "edgeseq_runtime.cli.main", "--help"], capture_output=True, text=True).stdout
    assert named >= {"export", "inspect", "run", "parity", "bench"}
    assert [command for command in sorted(named) if command not in help_text] == []
