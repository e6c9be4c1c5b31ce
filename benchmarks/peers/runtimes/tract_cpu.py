"""tract: fixed shapes; states stay tensors of tract's own from call to call."""

from __future__ import annotations

import shutil
from pathlib import Path

import tract

from peers.runtimes import Arrays, Loaded, Prepared, only_one_thread

NAME = "tract"
PACKAGE = "tract"
MODEL = "fixed"
THREADS = "one; its Python package has no setting"


class Runnable:
    """A model with its inputs in order."""

    def __init__(self, model: tract.Runnable, prepared: Prepared) -> None:
        self._run = model.run
        self._frames = [[frame[name] for name in prepared.facts["inputs"] if name in frame] for frame in prepared.frames()]
        names = [name for name in prepared.facts["inputs"] if name in prepared.state]
        self._state = [tract.Tensor.from_numpy(prepared.zeros()[name]) for name in names]
        self._continued = [prepared.facts["outputs"].index(prepared.state[name]) for name in names]
        self._names = prepared.facts["outputs"]
        self._outputs: list[tract.Tensor] = []

    def run(self, frame: int) -> None:
        """One call."""
        self._outputs = self._run([*self._frames[frame], *self._state])
        self._state = [self._outputs[at] for at in self._continued]

    def outputs(self) -> Arrays:
        """Of the last call."""
        return {name: tensor.to_numpy() for name, tensor in zip(self._names, self._outputs, strict=True)}


def convert(prepared: Prepared, folder: Path) -> None:
    """ONNX with fixed shapes, which is what tract reads."""
    shutil.copy(prepared.fixed_onnx, folder / "model.onnx")


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Optimised and ready."""
    only_one_thread(threads, NAME)
    return Runnable(tract.onnx().load(folder / "model.onnx").into_model().into_runnable(), prepared)
