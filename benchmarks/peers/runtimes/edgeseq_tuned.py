"""edgeseq with the plan that it measured to be fastest for this model on this machine: `load(..., tune=True)`.

What it chose is kept in the folder, so that loading does not measure; `benchmark` has it chosen anew for every full run.
"""

from __future__ import annotations

import os
from pathlib import Path

import edgeseq_runtime
from peers.runtimes import Loaded, Prepared
from peers.runtimes.edgeseq import convert as link
from peers.runtimes.edgeseq import opened

NAME = "edgeseq, tuned"
PACKAGE = "edgeseq"
MODEL = "bundle"
THREADS = "load(threads=N, tune=True): at most N, and spinning or not, as it chose"


def convert(prepared: Prepared, folder: Path) -> None:
    """The bundle, and what was chosen for one and for two threads."""
    link(prepared, folder)
    for threads in (1, 2):
        load(prepared, folder, threads)


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Open the bundle with what was chosen."""
    os.environ["XDG_CACHE_HOME"] = str(folder.resolve())
    return opened(edgeseq_runtime.load(folder / "model.edgeseq", threads=threads, tune=True), prepared)
