"""edgeseq with the bundle's int8 precision, as `edgeseq quantize` makes it, and the plan that is fastest for it here."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import edgeseq_runtime
from peers.runtimes import Loaded, NotOffered, Prepared
from peers.runtimes.edgeseq import opened
from peers.runtimes.edgeseq_tuned import THREADS

NAME = "edgeseq, int8, tuned"
PACKAGE = "edgeseq"
MODEL = "bundle"
GATE = "relative=0.02"


def convert(prepared: Prepared, folder: Path) -> None:
    """By the command, which writes no variant that misses its gate; and what was chosen for one and for two threads."""
    if importlib.util.find_spec("edgeseq_quantize") is None:
        raise NotOffered("edgeseq has no `quantize` in this release")
    path = folder / "model.edgeseq"
    shutil.copy(prepared.bundle, path)
    program = Path(sys.executable).parent / "edgeseq"
    command = [program, "quantize", path, "--variants", "int8", "--gate", GATE, "--seconds", "0", "--json"]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if "int8" in edgeseq_runtime.open_bundle(path).manifest.precisions:
        for threads in (1, 2):
            load(prepared, folder, threads)
        return
    if not run.stdout.startswith("{"):
        raise RuntimeError(f"`edgeseq quantize` ended with {run.returncode}: {run.stderr.strip()[-300:]}")
    raise NotOffered(next(row["reason"] for row in json.loads(run.stdout)["rows"] if row["name"] == "int8"))


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Open the variant with what was chosen."""
    os.environ["XDG_CACHE_HOME"] = str(folder.resolve())
    return opened(edgeseq_runtime.load(folder / "model.edgeseq", precision="int8", threads=threads, tune=True), prepared)


__all__ = ["GATE", "MODEL", "NAME", "PACKAGE", "THREADS", "convert", "load"]
