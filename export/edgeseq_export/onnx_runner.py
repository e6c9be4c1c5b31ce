"""ONNX Runtime on the CPU, as the exporter's check that a graph computes what the module does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from edgeseq_runtime.errors import PostconditionError
from edgeseq_runtime.tensors.spec import Array


class OnnxRunner:
    """A serialised model, ready to run.

    Raises:
        PostconditionError: ONNX Runtime does not load the model.
    """

    def __init__(self, model: bytes, outputs: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # an error is raised, and need not be logged too
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # The binding raises a private type per status code.
        except Exception as error:
            raise PostconditionError(f"the exported graph does not load in ONNX Runtime: {_first_line(error)}") from error
        self._outputs = list(outputs)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name.

        Raises:
            PostconditionError: the graph fails on these inputs.
        """
        try:
            values = self._session.run(self._outputs, {name: np.asarray(array, order="C") for name, array in inputs.items()})
        except Exception as error:
            shapes = {name: array.shape for name, array in inputs.items()}
            raise PostconditionError(
                f"the exported graph fails in ONNX Runtime on inputs of shapes {shapes}, which PyTorch runs: {_first_line(error)}"
            ) from error
        return dict(zip(self._outputs, values, strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
