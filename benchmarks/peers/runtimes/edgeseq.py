"""edgeseq as `edgeseq_runtime.load` opens a bundle; a stream's step with its own buffers."""

from __future__ import annotations

from pathlib import Path

import edgeseq_runtime
from edgeseq_runtime import Session
from peers.runtimes import Arrays, Loaded, Prepared

NAME = "edgeseq"
PACKAGE = "edgeseq"
MODEL = "bundle"
THREADS = "load(threads=N), which is ONNX Runtime's intra_op_num_threads; its threads spin"


class Streamed:
    """A stream, fed frame by frame."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        self._step = session.stream(prepared.facts["B"]).step
        self._frames = prepared.frames()
        self._outputs: Arrays = {}

    def run(self, frame: int) -> None:
        """One step."""
        self._outputs = self._step(self._frames[frame], copy=False)

    def outputs(self) -> Arrays:
        """Of the last step."""
        return self._outputs


class Whole:
    """A whole sequence a call."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        self._run = session.run
        self._frames = prepared.frames()
        self._outputs: Arrays = {}

    def run(self, frame: int) -> None:
        """One sequence."""
        self._outputs = self._run(self._frames[frame])

    def outputs(self) -> Arrays:
        """Of the last sequence."""
        return self._outputs


def convert(prepared: Prepared, folder: Path) -> None:
    """The bundle is there already; a link to it, so that its size counts."""
    (folder / "model.edgeseq").hardlink_to(prepared.bundle)


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Open the bundle."""
    return opened(edgeseq_runtime.load(folder / "model.edgeseq", threads=threads), prepared)


def opened(session: Session, prepared: Prepared) -> Loaded:
    """The session as the workload uses it."""
    return Streamed(session, prepared) if prepared.state else Whole(session, prepared)
