"""edgeseq with its own kernels: `load(..., device="native")`."""

from __future__ import annotations

from pathlib import Path

import edgeseq_runtime
from peers.runtimes import Loaded, Prepared
from peers.runtimes.edgeseq import convert, opened

NAME = "edgeseq, own kernels"
PACKAGE = "edgeseq"
MODEL = "bundle"
THREADS = 'load(device="native", threads=N); its threads wait in a loop for 100 µs'


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Open the bundle."""
    return opened(edgeseq_runtime.load(folder / "model.edgeseq", device="native", threads=threads), prepared)


__all__ = ["MODEL", "NAME", "PACKAGE", "THREADS", "convert", "load"]
