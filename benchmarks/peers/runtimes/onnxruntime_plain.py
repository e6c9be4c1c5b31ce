"""ONNX Runtime as its documentation shows it: `session.run` with a dictionary, the states handed back in Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxruntime

from peers.runtimes import Arrays, Loaded, Prepared

NAME = "ONNX Runtime, plain `run`"
PACKAGE = "onnxruntime"
MODEL = "onnx"
THREADS = "SessionOptions.intra_op_num_threads; its threads spin"


class Session:
    """A session and the states."""

    def __init__(self, session: onnxruntime.InferenceSession, prepared: Prepared) -> None:
        self._session = session
        self._frames = prepared.frames()
        self._state = prepared.zeros()
        self._pairs = prepared.state
        self._names = prepared.facts["outputs"]
        self._outputs: Arrays = {}

    def run(self, frame: int) -> None:
        """One call."""
        self._outputs = dict(zip(self._names, self._session.run(self._names, {**self._frames[frame], **self._state}), strict=True))
        self._state = {name: self._outputs[output] for name, output in self._pairs.items()}

    def outputs(self) -> Arrays:
        """Of the last call."""
        return self._outputs


def convert(prepared: Prepared, folder: Path) -> None:
    """The model as it was exported."""
    shutil.copy(prepared.onnx, folder / "model.onnx")


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """A session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return Session(session, prepared)
