"""LiteRT: converted by litert-torch in an environment of its own; run by its interpreter with XNNPACK, states copied in and out."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from peers.runtimes import Arrays, Loaded, Prepared

NAME = "LiteRT"
PACKAGE = "ai-edge-litert"
MODEL = "torch"
THREADS = "Interpreter(num_threads=N)"
CONVERTER = Path(__file__).parents[3] / ".venv-bench-litert" / "bin" / "python"
# In its own process and environment: litert-torch wants older packages than the others do.
PROGRAM = """
import sys, torch, litert_torch
program = torch.export.load("model.pt2")
litert_torch.convert(program.module(), program.example_inputs[0]).export("model.tflite")
"""


class Interpreted:
    """An interpreter whose tensors are written and read in place."""

    def __init__(self, interpreter: Interpreter, prepared: Prepared) -> None:
        self._invoke = interpreter.invoke
        self._interpreter = interpreter
        inputs, outputs = prepared.facts["inputs"], prepared.facts["outputs"]
        into = [detail["index"] for detail in sorted(interpreter.get_input_details(), key=lambda detail: detail["name"])]
        out = [detail["index"] for detail in sorted(interpreter.get_output_details(), key=lambda detail: detail["name"])]
        self._into = {name: interpreter.tensor(index) for name, index in zip(inputs, into, strict=True)}
        self._out = {name: interpreter.tensor(index) for name, index in zip(outputs, out, strict=True)}
        self._pairs = [(self._into[name], self._out[output]) for name, output in prepared.state.items()]
        self._frames = prepared.frames()
        self._data = prepared.data_outputs
        for name, array in prepared.zeros().items():
            self._into[name]()[...] = array

    def run(self, frame: int) -> None:
        """One call."""
        for name, array in self._frames[frame].items():
            self._into[name]()[...] = array
        self._invoke()
        for into, out in self._pairs:
            into()[...] = out()

    def outputs(self) -> Arrays:
        """Of the last call."""
        return {name: np.array(self._out[name]()) for name in self._data}


def convert(prepared: Prepared, folder: Path) -> None:
    """From an exported program."""
    import torch

    from peers.workloads import workload

    if not CONVERTER.exists():
        raise RuntimeError(f"there is no {CONVERTER}: litert-torch could not be installed")
    network = workload(prepared.facts["name"]).network()
    with torch.no_grad():
        torch.export.save(torch.export.export(network.module, tuple(network.inputs.values())), folder / "model.pt2")
    run = subprocess.run([str(CONVERTER), "-c", PROGRAM], cwd=folder, capture_output=True, text=True, check=False)
    (folder / "model.pt2").unlink()
    if run.returncode == -signal.SIGXCPU:
        os.kill(os.getpid(), signal.SIGXCPU)  # the limit was for both
    if run.returncode:
        raise RuntimeError(f"litert-torch: {run.stderr.strip()[-400:]}")


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """With its tensors allocated."""
    interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    return Interpreted(interpreter, prepared)
