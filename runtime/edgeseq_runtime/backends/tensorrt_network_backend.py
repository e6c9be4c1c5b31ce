"""TensorRT's importer without an engine: the network it parsed, evaluated in NumPy.

Parity on this backend says what TensorRT understood of a graph, on a machine without a GPU. It says nothing of speed, nor of
the arithmetic of an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorrt_rtx as trt

from edgeseq_runtime.backends.model import HostBuffer
from edgeseq_runtime.backends.tensorrt_builder import parsed
from edgeseq_runtime.backends.tensorrt_library import Library
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tensorrt_network import Interpreter, Network, read_network
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

VERSION: str = trt.__version__


LIBRARY = Library(trt)


class BoundCall:
    """A call whose arrays are fixed: it reads and writes the same memory each time.

    Outputs bound to None have a size that only the model knows; they are made anew at each call.
    """

    def __init__(self, interpreter: Interpreter, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> None:
        self._interpreter = interpreter
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._computed: dict[str, Array] = {}

    def __call__(self) -> None:
        """Compute the outputs from what the bound inputs hold now.

        Raises:
            InputError: the network can't be computed on them.
        """
        results = self._interpreter(self._inputs)
        self._computed = {name: results[name] for name, bound in self._outputs.items() if bound is None}
        for name, bound in self._outputs.items():
            if bound is not None:
                np.copyto(bound, results[name])

    def computed(self) -> dict[str, Array]:
        """The outputs of the last call that were bound to None, as arrays of the caller's own."""
        return dict(self._computed)


class TensorRtNetworkModel:
    """A model as TensorRT parsed it. Calls from several threads are safe."""

    def __init__(self, network: Network) -> None:
        self._interpreter = Interpreter(network)
        self.network = network
        self.version = VERSION
        self.providers: tuple[str, ...] = ("TensorRTNetwork",)

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as TensorRT declares them; an axis without a name is called `x_0` for axis 0 of x."""
        return self.network.inputs, self.network.outputs

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """The axes of each output, as TensorRT declares them."""
        return {spec.name: spec.shape for spec in self.network.outputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name.

        Raises:
            InputError: the network can't be computed on them.
        """
        return self._interpreter(inputs)

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundCall:
        """A call that reads and writes these arrays."""
        return BoundCall(self._interpreter, inputs, outputs)

    def buffer(self, name: str, array: Array) -> HostBuffer:
        """A state that is kept in an array."""
        return HostBuffer(array)


def load_model(model: bytes | Path, plan: Plan) -> TensorRtNetworkModel:
    """Parse a serialised model, or a file, as TensorRT would before it builds an engine.

    Raises:
        UsageError: TensorRT can't parse the model, or its network has a layer that is not interpreted here.
    """
    return TensorRtNetworkModel(parse_network(model if isinstance(model, bytes) else model.read_bytes()))


def parse_network(model: bytes) -> Network:
    """What TensorRT's importer makes of a serialised ONNX model.

    Raises:
        UsageError: it can't parse the model; the message holds its reasons.
    """
    with parsed(LIBRARY, trt.Builder(LIBRARY.logger), model) as definition:
        return read_network(definition, trt)
