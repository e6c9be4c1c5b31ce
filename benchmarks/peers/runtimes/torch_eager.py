"""PyTorch as it is, in inference mode, with or without oneDNN: whichever is faster on this workload."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers.runtimes import Arrays, Loaded, Prepared
from peers.workloads import Network, workload

NAME = "PyTorch eager"
PACKAGE = "torch"
MODEL = "torch"
THREADS = "torch.set_num_threads(N)"
TRIALS = 7


class Eager:
    """A module, called with named tensors."""

    def __init__(self, network: Network, prepared: Prepared, call: Any = None) -> None:
        self.call = network.module if call is None else call
        self.frames = [{name: torch.from_numpy(array) for name, array in frame.items()} for frame in prepared.frames()]
        self.pairs = tuple((name, network.outputs.index(output)) for name, output in network.state.items())
        self.names = network.outputs
        self.result: Any = ()
        self.state: dict[str, Tensor] = {}
        self.reset(prepared)

    def reset(self, prepared: Prepared) -> None:
        """The state of a stream that begins."""
        self.state = {name: torch.from_numpy(array) for name, array in prepared.zeros().items()}

    def run(self, frame: int) -> None:
        """One call."""
        result = self.call(**self.frames[frame], **self.state)
        if self.pairs:
            self.state = {name: result[at] for name, at in self.pairs}
        self.result = result

    def outputs(self) -> Arrays:
        """Of the last call."""
        found: tuple[Tensor, ...] = self.result if isinstance(self.result, tuple) else (self.result,)
        return {name: tensor.numpy() for name, tensor in zip(self.names, found, strict=True)}


_MODE = torch.inference_mode()


def infer_only(threads: int) -> None:
    """For the rest of the process: no gradients, and this many threads."""
    torch.set_num_threads(threads)
    _MODE.__enter__()


def convert(prepared: Prepared, folder: Path) -> None:
    """The weights, so that their size counts."""
    torch.save(workload(prepared.facts["name"]).network().module.state_dict(), folder / "weights.pt")


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """The module with the faster of the two settings of oneDNN."""
    infer_only(threads)
    network = workload(prepared.facts["name"]).network()
    network.module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    loaded = Eager(network, prepared)
    choose_onednn(loaded)
    loaded.reset(prepared)
    return loaded


def choose_onednn(eager: Eager) -> None:
    """Turn oneDNN on or off, whichever makes a call faster.

    oneDNN lays the weights of an LSTM out anew at every call, which small steps feel.
    """
    seconds = {onednn: _seconds(eager, onednn) for onednn in (True, False)}
    torch.backends.mkldnn.enabled = seconds[True] < seconds[False]  # type: ignore[assignment]


def _seconds(eager: Eager, onednn: bool) -> float:
    torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        eager.run(0)
        times.append(time.perf_counter() - start)
    return min(times[1:])
