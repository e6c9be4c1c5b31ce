"""OpenVINO: fixed shapes, inputs, outputs and states in buffers of ours; two requests that swap the states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino

from peers.runtimes import Arrays, Loaded, Prepared

NAME = "OpenVINO"
PACKAGE = "openvino"
MODEL = "fixed"
THREADS = "INFERENCE_NUM_THREADS, with one stream and the latency hint"


class Requests:
    """Two requests on the same inputs: one reads the states that the other writes."""

    def __init__(self, model: openvino.CompiledModel, prepared: Prepared) -> None:
        self._frames = prepared.frames()
        self._inputs = {name: array.copy() for name, array in self._frames[0].items()}
        own = {output.any_name: np.empty(tuple(output.shape), np.float32) for output in model.outputs}
        self._outputs = {name: own[name] for name in prepared.data_outputs}
        first, second = self._states = prepared.zeros(), prepared.zeros()  # kept: requests hold no reference to shared memory
        self._requests = [self._request(model, prepared, *states) for states in ((first, second), (second, first))]
        self._turn = 0

    def _request(self, model: openvino.CompiledModel, prepared: Prepared, old: Arrays, new: Arrays) -> openvino.InferRequest:
        request = model.create_infer_request()
        continued = {output: new[name] for name, output in prepared.state.items()}
        for name, array in {**self._inputs, **old, **self._outputs, **continued}.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return request

    def run(self, frame: int) -> None:
        """One call."""
        for name, array in self._frames[frame].items():
            np.copyto(self._inputs[name], array)
        self._requests[self._turn].infer(share_outputs=True)
        self._turn = 1 - self._turn

    def outputs(self) -> Arrays:
        """Of the last call."""
        return self._outputs


def convert(prepared: Prepared, folder: Path) -> None:
    """OpenVINO's own format, from ONNX with fixed shapes."""
    openvino.save_model(openvino.convert_model(prepared.fixed_onnx), folder / "model.xml", compress_to_fp16=False)


def load(prepared: Prepared, folder: Path, threads: int) -> Loaded:
    """Compiled for this CPU, in float32."""
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return Requests(openvino.Core().compile_model(folder / "model.xml", "CPU", options), prepared)
