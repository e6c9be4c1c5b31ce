"""ncnn: converted by pnnx from TorchScript; a new extractor a call, as its interface asks for; states stay its own matrices."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ncnn
import numpy as np

from peers.runtimes import Arrays, Loaded, NotOffered, Prepared

NAME = "ncnn"
PACKAGE = "ncnn"
MODEL = "torch"
THREADS = "Net.opt.num_threads"


class Extractors:
    """A network whose inputs are in0, in1, ... and whose outputs are out0, out1, ...: without their batch axis of 1."""

    def __init__(self, net: ncnn.Net, prepared: Prepared) -> None:
        self._net = net
        inputs, outputs = prepared.facts["inputs"], prepared.facts["outputs"]
        self._given = [(f"in{at}", name) for at, name in enumerate(inputs) if name not in prepared.state]
        batch = {name: prepared.facts["batch_axes"].get(name) for name in inputs}
        self._frames = [
            [(blob, ncnn.Mat(_without(frame[name], batch[name])).clone()) for blob, name in self._given]
            for frame in prepared.frames()
        ]
        zeros = prepared.zeros()
        self._state = {f"in{inputs.index(name)}": ncnn.Mat(_without(zeros[name], batch[name])).clone() for name in prepared.state}
        self._continued = {f"out{outputs.index(output)}": f"in{inputs.index(name)}" for name, output in prepared.state.items()}
        self._data = {f"out{outputs.index(name)}": name for name in prepared.data_outputs}
        self._shapes = {name: array.shape for name, array in prepared.expected()[0].items()}
        self._found: dict[str, ncnn.Mat] = {}

    def run(self, frame: int) -> None:
        """One call."""
        extractor = self._net.create_extractor()
        for blob, mat in self._frames[frame]:
            extractor.input(blob, mat)
        for blob, mat in self._state.items():
            extractor.input(blob, mat)
        self._found = {blob: extractor.extract(blob)[1] for blob in self._data}
        if self._continued:
            self._state = {source: extractor.extract(blob)[1] for blob, source in self._continued.items()}

    def outputs(self) -> Arrays:
        """Of the last call."""
        return {name: np.array(self._found[blob]).reshape(self._shapes[name]) for blob, name in self._data.items()}


def _without(array: np.ndarray, axis: int | None) -> np.ndarray:  # type: ignore[type-arg]
    return np.ascontiguousarray(array if axis is None else array.squeeze(axis))


def convert(prepared: Prepared, folder: Path) -> None:
    """From a traced module, in float32."""
    import torch

    from peers.workloads import workload

    if prepared.facts["B"] != 1:
        raise NotOffered("ncnn's layers take one sequence at a time")
    network = workload(prepared.facts["name"]).network()
    example = tuple(network.inputs.values())
    with torch.no_grad():
        torch.jit.trace(network.module, example).save(str(folder / "model.pt"))
    shapes = ",".join(f"[{','.join(map(str, tensor.shape))}]{_dtype(tensor)}" for tensor in example)
    run = subprocess.run(
        [str(_pnnx()), "model.pt", f"inputshape={shapes}", "fp16=0"], cwd=folder, capture_output=True, text=True, check=False
    )
    if run.returncode or not (folder / "model.ncnn.param").exists():
        raise RuntimeError(f"pnnx ended with {run.returncode}: {(run.stderr or run.stdout).strip()[-400:]}")
    for left in folder.iterdir():
        if ".ncnn." not in left.name or left.suffix == ".py":
            left.unlink()


def _dtype(tensor: object) -> str:
    return {"torch.float32": "f32", "torch.int64": "i64"}[str(getattr(tensor, "dtype"))]  # noqa: B009


def _pnnx() -> Path:
    import sys

    return Path(sys.executable).parent / "pnnx"


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """In float32: its half-precision storage is off."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    if net.load_param(str(folder / "model.ncnn.param")) or net.load_model(str(folder / "model.ncnn.bin")):
        raise RuntimeError("ncnn can't load what pnnx wrote: it has no layer for one of the operators")
    return Extractors(net, prepared)
