"""MNN: converted from ONNX with fixed shapes; its session interface, states copied from output tensor to input tensor.

Its `Module` interface takes three times as long for a small step.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import MNN
import numpy as np

from peers.runtimes import Arrays, Loaded, Prepared

NAME = "MNN"
PACKAGE = "MNN"
MODEL = "fixed"
THREADS = "numThread of the session"


class Session:
    """A session with its tensors."""

    def __init__(self, interpreter: Any, session: Any, prepared: Prepared) -> None:
        self._interpreter, self._session = interpreter, session  # the first owns the second
        self._run = interpreter.runSession
        inputs, outputs = interpreter.getSessionInputAll(session), interpreter.getSessionOutputAll(session)
        self._arrays = prepared.frames()
        self._frames = [[(inputs[name], _tensor(array)) for name, array in frame.items()] for frame in self._arrays]
        self._states = [(inputs[name], outputs[output]) for name, output in prepared.state.items()]
        shapes = {name: outputs[name].getShape() for name in prepared.data_outputs}
        self._found = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._data = [(outputs[name], _tensor(array)) for name, array in self._found.items()]
        for name, array in prepared.zeros().items():
            inputs[name].copyFrom(_tensor(array))

    def run(self, frame: int) -> None:
        """One call."""
        for into, tensor in self._frames[frame]:
            into.copyFrom(tensor)
        self._run(self._session)
        for out, tensor in self._data:
            out.copyToHostTensor(tensor)
        for into, out in self._states:
            into.copyFrom(out)

    def outputs(self) -> Arrays:
        """Of the last call."""
        return {name: np.array(tensor.getNumpyData()) for name, (_, tensor) in zip(self._found, self._data, strict=True)}


def _tensor(array: Any) -> Any:
    kind = MNN.Halide_Type_Int if array.dtype.kind == "i" else MNN.Halide_Type_Float
    array = np.ascontiguousarray(array, np.int32 if array.dtype.kind == "i" else np.float32)
    return MNN.Tensor(array.shape, kind, array, MNN.Tensor_DimensionType_Caffe)


def convert(prepared: Prepared, folder: Path) -> None:
    """By MNN's converter itself: the program around it installs a package of the vendor's unasked, and reports to them."""
    import _tools  # type: ignore[import-not-found]

    log = folder / "convert.log"
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)  # where it says what it can't convert
        _tools.mnnconvert(
            [
                "",
                "-f",
                "ONNX",
                "--modelFile",
                str(prepared.fixed_onnx),
                "--MNNModel",
                str(folder / "model.mnn"),
                "--bizCode",
                "edgeseq",
            ]
        )
    if not (folder / "model.mnn").exists():
        said = [line for line in log.read_text(errors="replace").splitlines() if "Not Support" in line]
        raise RuntimeError(said[0].split(": ", 1)[-1] if said else "MNN's converter wrote nothing")


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """In full precision."""
    interpreter = MNN.Interpreter(str(folder / "model.mnn"))
    session = interpreter.createSession({"numThread": threads, "backend": "CPU", "precision": "high"})
    return Session(interpreter, session, prepared)
