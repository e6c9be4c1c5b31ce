"""ONNX Runtime: a model and a plan become something that can be called. No other file imports onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeseq_runtime.errors import InputError, ProviderError, UsageError
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

VERSION: str = ort.__version__

_CPU = "CPUExecutionProvider"
_ONLY_EXCEPTIONS = 4  # log level "fatal": whatever is worth saying comes as an exception too

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_INSTALL = {
    "TensorrtExecutionProvider": "it needs TensorRT 10 beside CUDA; onnxruntime-gpu 1.31 does not find TensorRT 11",
    "CUDAExecutionProvider": (
        'it needs an NVIDIA driver, CUDA, cuDNN and `pip install "edgeseq[gpu]"` in place of the [ort] extra'
    ),
}


class BoundCall:
    """A call whose arrays are fixed: it reads and writes the same memory each time, and allocates none itself.

    Outputs bound to None have a size that only the model knows: ONNX Runtime allocates those anew at each call.
    """

    def __init__(self, session: ort.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._arrays = (dict(inputs), dict(outputs))  # keeps the memory alive that the binding points to
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, bound in outputs.items():
            if bound is not None:
                self._binding.bind_output(name, "cpu", 0, bound.dtype.type, bound.shape, bound.ctypes.data)
        self._computed = [name for name, bound in outputs.items() if bound is None]
        self._order = [name for name, bound in outputs.items() if bound is not None] + self._computed

    def __call__(self) -> None:
        """Compute the outputs from what the bound inputs hold now.

        Raises:
            InputError: ONNX Runtime could not compute the model on them.
        """
        try:
            # A computed output still bound to its last value would have to have the same size again.
            for name in self._computed:
                self._binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _refused(error) from error

    def computed(self) -> dict[str, Array]:
        """The outputs of the last call that were bound to None, as arrays of the caller's own."""
        if not self._computed:
            return {}
        values = dict(zip(self._order, self._binding.get_outputs(), strict=True))
        return {name: np.array(values[name].numpy()) for name in self._computed}


class OnnxRuntimeModel:
    """A model that ONNX Runtime has loaded. Calls from several threads are safe."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._output_names = [output.name for output in session.get_outputs()]
        self.version = VERSION
        self.providers: tuple[str, ...] = tuple(session.get_providers())

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the model itself declares them; an axis without a name is called `x_0` for axis 0 of x.

        Raises:
            UsageError: one of them is no tensor of numbers.
        """
        return _specs(self._session.get_inputs()), _specs(self._session.get_outputs())

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """The axes of each output that is a tensor, as ONNX Runtime inferred them; one that it does not know has no name."""
        outputs = (output for output in self._session.get_outputs() if output.type.startswith("tensor("))
        return {output.name: tuple("" if size is None else size for size in output.shape or ()) for output in outputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. The inputs must have been checked: ONNX Runtime ends the process on an empty one.

        Raises:
            InputError: ONNX Runtime could not compute the model on them.
        """
        try:
            return dict(zip(self._output_names, self._session.run(None, dict(inputs)), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _refused(error) from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundCall:
        """A call that reads and writes these arrays, which must be C-contiguous."""
        return BoundCall(self._session, inputs, outputs)


def load_model(model: bytes | Path, plan: Plan, *, optimise: bool = True) -> OnnxRuntimeModel:
    """Load a serialised model, or a file where it refers to others beside it, as the plan says.

    Without `optimise`, ONNX Runtime runs the graph node by node as it stands: nothing fused, nothing folded.

    Raises:
        UsageError: ONNX Runtime can't load the model.
        ProviderError: a provider of the plan is not what the session got.
    """
    available = ort.get_available_providers()
    missing = [name for name in plan.providers if name not in available]
    if missing:
        raise ProviderError(_not_got(missing, plan, f"this onnxruntime {VERSION} has {available}"))
    with _without_fallback(plan):
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            _session_options(plan, optimise),
            providers=[(name, plan.provider_options.get(name, {})) for name in plan.providers],
            enable_fallback=0,
        )
    session.disable_fallback()
    # get_available_providers() names a GPU on a machine without one; only the session tells what it has.
    got = session.get_providers()
    lost = [name for name in plan.providers if name not in got]
    if lost:
        raise ProviderError(_not_got(lost, plan, f"the session got {got}"))
    return OnnxRuntimeModel(session)


@contextmanager
def _without_fallback(plan: Plan) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        if any(name.removesuffix("ExecutionProvider") in str(error) for name in plan.providers if name != _CPU):
            raise ProviderError(_not_got(plan.providers, plan, str(error))) from error
        raise UsageError(f"onnxruntime {VERSION} can't load the model: {error}") from error


def _not_got(names: Sequence[str], plan: Plan, found: str) -> str:
    advice = "; ".join(_INSTALL[name] for name in names if name in _INSTALL)
    return (
        f"device '{plan.device}' asks for {', '.join(names)}; {found}; "
        + (f"{advice}; or " if advice else "")
        + "choose device 'cpu' to run on the CPU"
    )


def _session_options(plan: Plan, optimise: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ONLY_EXCEPTIONS
    for key, value in plan.session_options.items():
        options.add_session_config_entry(key, value)
    return options


def _refused(error: Exception) -> InputError:
    return InputError(f"onnxruntime {VERSION} can't compute the model on these inputs: {error}")


def _specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(node.name, _dtype(node), tuple(_axes(node))) for node in nodes)


def _dtype(node: Any) -> str:
    if node.type not in _DTYPES:
        raise UsageError(f"'{node.name}' of the model is a {node.type}; this runtime takes tensors of {sorted(_DTYPES.values())}")
    return _DTYPES[node.type]


def _axes(node: Any) -> Iterator[int | str]:
    for position, size in enumerate(node.shape):
        yield size if isinstance(size, int | str) and size != "" else f"{node.name}_{position}"
