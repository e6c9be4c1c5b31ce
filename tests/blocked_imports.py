"""Run Python code in a process in which some packages can't be imported, as on a board that does not have them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NOT_ON_A_BOARD = ("torch", "onnx", "onnxscript", "onnx_ir", "edgeseq", "edgeseq_export", "edgeseq_recipes")

PRELUDE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str, blocked: Sequence[str] = NOT_ON_A_BOARD, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The finished process; `path` is searched for modules first."""
    environment = {**os.environ, "COLUMNS": "80", **({"PYTHONPATH": str(path)} if path else {})}
    program = PRELUDE.format(blocked=tuple(blocked)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
