"""`torch.compile`: of the whole module; of a cell that PyTorch has no kernel for, of its step, since the compiler unrolls loops.

PyTorch's own layers are not traced by `torch.compile`: it calls their kernels, as eager mode does, with or without oneDNN.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from edgeseq import Recurrent
from peers.runtimes import Loaded, Prepared
from peers.runtimes.torch_eager import Eager, choose_onednn
from peers.workloads import Network, workload

NAME = "torch.compile"
PACKAGE = "torch"
MODEL = "torch"
THREADS = "torch.set_num_threads(N)"
LONGEST = 16  # steps of a loop in Python that the compiler is given whole: it unrolls them


def convert(prepared: Prepared, folder: Path) -> None:
    """Compile once for each number of threads and setting: generated code and compiled graphs are kept in the folder."""
    for threads in (1, 2):
        torch.compiler.reset()
        choose_onednn(_compiled(prepared, folder, threads))


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """The compiled module, called on the way: compiling, from the folder's cache, is part of loading."""
    loaded = _compiled(prepared, folder, threads)
    choose_onednn(loaded)
    loaded.reset(prepared)
    return loaded


def _compiled(prepared: Prepared, folder: Path, threads: int) -> Eager:
    # Read when the compiler is first used.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.resolve())
    # Not the inference mode: the compiler refuses parameters that were made in it.
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    network = workload(prepared.facts["name"]).network()
    network.module.requires_grad_(False)
    return Eager(network, prepared, _compile(network, prepared.facts["T"]))


def _compile(network: Network, T: int) -> Any:
    layer = getattr(network.module, "layer", None)
    if isinstance(layer, Recurrent) and T > LONGEST:
        layer.cell.step = torch.compile(layer.cell.step, dynamic=False)  # type: ignore[method-assign]
        return network.module
    return torch.compile(network.module, dynamic=False)
