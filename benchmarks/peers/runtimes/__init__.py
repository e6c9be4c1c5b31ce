"""One module a runtime, all with the same five names, so that a worker can hold any of them.

NAME         for people
PACKAGE      the distribution whose version is told
MODEL        what `convert` starts from: "bundle", "onnx" or "torch"; what a conversion is kept by
THREADS      how it is told the number of threads
convert(prepared, folder)          write what `load` needs into the folder; by a process of its own, with a time limit
load(prepared, folder, threads)    -> Loaded
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

from numpy.typing import NDArray

from peers.prepared import Prepared

Arrays = dict[str, NDArray[Any]]

NAMES = (
    "edgeseq",
    "edgeseq_native",
    "edgeseq_tuned",
    "edgeseq_int8",
    "onnxruntime_plain",
    "torch_eager",
    "torch_compile",
    "openvino_cpu",
    "tract_cpu",
    "ncnn_cpu",
    "mnn_cpu",
    "litert",
    "executorch_xnnpack",
)


class NotOffered(Exception):
    """The runtime does not offer what the workload asks for; the message says what."""


class Loaded(Protocol):
    """A workload that a runtime is ready to run; a stream's state is kept from call to call, from zeros."""

    def run(self, frame: int) -> None:
        """One call on that frame's inputs, its results where a program could use them."""
        ...

    def outputs(self) -> Arrays:
        """What the last call gave, without states."""
        ...


def runtime(name: str) -> ModuleType:
    """The module of that name, its library imported.

    Raises:
        ImportError: its library is not installed, or can't be loaded.
    """
    from importlib import import_module

    return import_module(f"peers.runtimes.{name}")


def only_one_thread(threads: int, name: str) -> None:
    """Refuse more threads than a runtime uses."""
    if threads != 1:
        raise NotOffered(f"{name} runs a network on one thread")


__all__ = ["NAMES", "Arrays", "Loaded", "NotOffered", "Prepared", "only_one_thread", "runtime"]
