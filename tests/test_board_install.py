"""What a board gets: the wheel with `[ort]` in an environment of its own, without PyTorch, proving a bundle.

On this Python and, where they are here, on those that JetPacks bring: 3.10 (JetPack 6) and 3.12 (JetPack 7).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeseq_export import export

ROOT = Path(__file__).parent.parent
ABSENT = ("torch", "onnx", "onnxscript", "edgeseq_unknown")
HERE = "{}.{}".format(*sys.version_info)
PYTHONS = sorted({"3.10", "3.12", HERE}, key=lambda release: int(release[2:]))

pytestmark = pytest.mark.slow


class Carrying(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 8)

    def forward(self, x, h):
        return self.gru(x, h)


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interpreter(release):
    """A Python of this release: the one that runs the tests, one on the path, or one of pyenv's; None where there is none."""
    if release == HERE:
        return sys.executable
    others = sorted(Path.home().glob(f".pyenv/versions/{release}.*/bin/python"))
    for found in (shutil.which(f"python{release}"), *others):
        # pyenv's own `python3.10` is there whether or not it is set to run one.
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
            return found
    return None


@pytest.fixture(scope="module", params=PYTHONS)
def board(request, tmp_path_factory):
    """A folder with `venv/`, where nothing but the wheel and its `[ort]` extra is installed, and a bundle."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} here")
    folder = tmp_path_factory.mktemp("board")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("edgeseq-*.whl")
    run(python, "-m", "venv", folder / "venv", cwd=folder)
    run("venv/bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[ort]", cwd=folder)
    export(
        Carrying(),
        {"x": torch.randn(5, 2, 6), "h": torch.zeros(1, 2, 8)},
        folder / "model.edgeseq",
        axes={"x": ("T", "B", None), "h": (None, "B", None)},
        state={"h": "h_out"},
        outputs=("y", "h_out"),
    )
    return folder


def test_its_python_is_the_one_asked_for(board, request):
    found = run("venv/bin/python", "-c", "import sys, onnxruntime as o; print(*sys.version_info[:2], o.__version__)", cwd=board)
    major, minor, release = found.split()
    assert f"{major}.{minor}" == request.node.callspec.params["board"]
    print(f"Python {major}.{minor}: onnxruntime {release}")


def test_it_holds_no_pytorch_and_no_onnx(board):
    found = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    assert run("venv/bin/python", "-c", found, cwd=board).strip() == "[]"
    size = sum(f.stat().st_size for f in (board / "venv").rglob("*") if f.is_file() and "pip" not in f.parts)
    print(f"installed: {size / 2**20:.0f} MiB")


def test_it_proves_and_streams_a_bundle(board):
    assert "PASS" in run("venv/bin/edgeseq", "parity", "model.edgeseq", cwd=board)
    assert "PASS: 1 pass" in run("venv/bin/edgeseq", "parity", ".", "--junit", "parity.xml", cwd=board)
    run("venv/bin/edgeseq", "parity", "model.edgeseq", "--record", "board.json", cwd=board)
    assert "1 pass, 0 fail, 0 changed" in run("venv/bin/edgeseq", "records", "board.json", cwd=board)
    stream = "import numpy as np, edgeseq_runtime as e; s = e.load('model.edgeseq').stream(); "
    stream += "print([s.step({'x': np.ones((n, 1, 6), 'float32')})['y'].shape for n in (1, 3)])"
    assert run("venv/bin/python", "-c", stream, cwd=board).strip() == "[(1, 1, 8), (3, 1, 8)]"


def test_it_brings_a_pytest_plugin_that_needs_nothing_more_than_pytest(board):
    run("venv/bin/python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", "pytest", cwd=board)
    assert " passed" in run("venv/bin/pytest", "-p", "no:cacheprovider", "model.edgeseq", cwd=board)


def test_export_says_which_extra_brings_it(board):
    done = subprocess.run(["venv/bin/edgeseq", "export", "m:f"], cwd=board, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "edgeseq[export]"' in " ".join(done.stderr.split())
