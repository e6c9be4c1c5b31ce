"""ExecuTorch with its XNNPACK delegate: an exported program, lowered ahead of time; states handed back as tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from executorch.runtime import Runtime

from peers.runtimes import Arrays, Loaded, Prepared

NAME = "ExecuTorch"
PACKAGE = "executorch"
MODEL = "torch"
THREADS = "its thread pool, reset to N"


class Method:
    """The program's forward."""

    def __init__(self, execute: object, prepared: Prepared) -> None:
        self._execute = execute
        inputs, outputs = prepared.facts["inputs"], prepared.facts["outputs"]
        self._frames = [[torch.from_numpy(frame[name]) for name in inputs if name in frame] for frame in prepared.frames()]
        zeros = prepared.zeros()
        names = [name for name in inputs if name in prepared.state]
        self._state = [torch.from_numpy(zeros[name]) for name in names]
        self._continued = [outputs.index(prepared.state[name]) for name in names]
        self._names = outputs
        self._found: list[torch.Tensor] = []

    def run(self, frame: int) -> None:
        """One call."""
        self._found = self._execute([*self._frames[frame], *self._state])  # type: ignore[operator]
        self._state = [self._found[at] for at in self._continued]

    def outputs(self) -> Arrays:
        """Of the last call."""
        return {name: tensor.numpy() for name, tensor in zip(self._names, self._found, strict=True)}


def convert(prepared: Prepared, folder: Path) -> None:
    """Lowered to XNNPACK where it has kernels, to ExecuTorch's own elsewhere."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from peers.workloads import workload

    network = workload(prepared.facts["name"]).network()
    with torch.no_grad():
        program = torch.export.export(network.module, tuple(network.inputs.values()))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / "model.pte").write_bytes(lowered.buffer)


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """The program's method."""
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    _unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(folder / "model.pte").load_method("forward")
    if method is None:
        raise RuntimeError("the program has no forward")
    return Method(method.execute, prepared)
