"""edgeseq with the bundle's int8 precision, as `edgeseq quantize` makes it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import edgeseq_runtime
from peers.runtimes import Loaded, NotOffered, Prepared
from peers.runtimes.edgeseq import THREADS, opened

NAME = "edgeseq, int8"
PACKAGE = "edgeseq"
MODEL = "bundle"
GATE = "relative=0.02"


def convert(prepared: Prepared, folder: Path) -> None:
    """By the command, which writes no variant that misses its gate."""
    if importlib.util.find_spec("edgeseq_quantize") is None:
        raise NotOffered("edgeseq has no `quantize` in this release")
    path = folder / "model.edgeseq"
    shutil.copy(prepared.bundle, path)
    program = Path(sys.executable).parent / "edgeseq"
    command = [program, "quantize", path, "--variants", "int8", "--gate", GATE, "--seconds", "0"]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if "int8" not in edgeseq_runtime.open_bundle(path).manifest.precisions:
        said = " ".join((run.stderr or run.stdout).split())[-300:]
        raise RuntimeError(f"no int8 variant was written: {said}")


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Open the variant."""
    return opened(edgeseq_runtime.load(folder / "model.edgeseq", precision="int8", threads=threads), prepared)


__all__ = ["GATE", "MODEL", "NAME", "PACKAGE", "THREADS", "convert", "load"]
