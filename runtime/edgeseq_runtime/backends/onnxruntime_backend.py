"""ONNX Runtime: a model and a plan become something that can be called. No other file imports onnxruntime."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort

from edgeseq_runtime.backends.engine_folder import engine_folder
from edgeseq_runtime.backends.model import HostBuffer
from edgeseq_runtime.backends.packaged_libraries import load_packaged
from edgeseq_runtime.detect.jetson import read_jetson
from edgeseq_runtime.detect.libraries import find_library, library_folders, packaged_folders
from edgeseq_runtime.detect.nvml import read_driver
from edgeseq_runtime.errors import EdgeseqError, InputError, ProviderError, UsageError
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.provider_needs import FILES, TENSORRT, linked_libraries, missing_for, provider_file, together
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array
from edgeseq_runtime.user_cache import cache_folder, key_of

VERSION: str = ort.__version__
ENGINES = "onnxruntime-tensorrt"  # where in the user's cache those of the TensorRT provider are

_WARNINGS, _ONLY_EXCEPTIONS = 2, 4  # log levels; "fatal": whatever is worth saying comes as an exception too
_NVIDIA = ("TensorRT", "CUDA", "CUDNN", "cuDNN")  # in messages about a provider rather than about the model

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_ASSIGNMENT = "session.record_ep_graph_assignment_info"  # since ONNX Runtime 1.24


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

    def __init__(self, session: ort.InferenceSession, assigned: bool = False) -> None:
        self._session = session
        self._assigned = assigned
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

    def assignment(self) -> dict[str, tuple[str, ...]]:
        """Provider -> the nodes that it computes, as "LSTM 'name'"; empty where ONNX Runtime was not asked to tell, or can't."""
        if not self._assigned or not hasattr(self._session, "get_provider_graph_assignment_info"):
            return {}
        found: dict[str, tuple[str, ...]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            nodes = (f"{node.op_type} '{node.name}'" for node in part.get_nodes())
            found[part.ep_name] = (*found.get(part.ep_name, ()), *nodes)
        return found

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. The inputs must have been checked: ONNX Runtime ends the process on an empty one.

        Raises:
            InputError: ONNX Runtime could not compute the model on them.
        """
        try:
            return dict(zip(self._output_names, self._session.run(self._output_names, dict(inputs)), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise _refused(error) from error

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundCall:
        """A call that reads and writes these arrays, which must be C-contiguous."""
        return BoundCall(self._session, inputs, outputs)

    def buffer(self, name: str, array: Array) -> HostBuffer:
        """A state that is kept in an array."""
        return HostBuffer(array)


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
    _load_libraries(plan)
    with _engines(model, plan) as options, _without_fallback(plan), _quiet(plan):
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            _session_options(plan, optimise),
            providers=[(name, options.get(name, {})) for name in plan.providers],
            enable_fallback=0,
        )
        session.disable_fallback()
        # ONNX Runtime's Python class holds the serialised model for a fallback to other providers: a second copy of the weights.
        session._model_bytes = None
        # get_available_providers() names a GPU on a machine without one; only the session tells what it has.
        got = session.get_providers()
        lost = [name for name in plan.providers if name not in got]
        if lost:
            raise ProviderError(_not_got(lost, plan, f"the session got {got}"))
    return OnnxRuntimeModel(session, _on_gpu(plan))


def _on_gpu(plan: Plan) -> bool:
    return any(name in FILES for name in plan.providers)


def _load_libraries(plan: Plan) -> None:
    """Load what the plan's providers are linked to and pip has brought: the loader itself does not look there."""
    root = Path("/")
    for provider in plan.providers:
        file = provider_file(provider)
        if file is not None:
            load_packaged(linked_libraries(file, provider), packaged_folders(root), library_folders(root))


@contextmanager
def _engines(model: bytes | Path, plan: Plan) -> Iterator[dict[str, dict[str, str]]]:
    """The plan's provider options, with a folder for the engines of the TensorRT provider where it caches them."""
    given = plan.provider_options.get(TENSORRT, {})
    if given.get("trt_engine_cache_enable") != "1" or "trt_engine_cache_path" in given:
        yield plan.provider_options
        return
    with engine_folder(cache_folder(ENGINES), key_of(_engine_facts(model, plan))) as folder:
        paths = {"trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}
        yield {**plan.provider_options, TENSORRT: {**given, **paths}}


def _engine_facts(model: bytes | Path, plan: Plan) -> dict[str, object]:
    """Everything that an engine depends on."""
    libraries = (find_library(name) for name in ("libnvinfer.so", "libcudart.so", "libcudnn.so"))
    board, driver = read_jetson(Path("/")), read_driver()
    return {
        "model": hashlib.sha256(model if isinstance(model, bytes) else model.read_bytes()).hexdigest(),
        "plan": msgspec.to_builtins(plan),
        "onnxruntime": VERSION,
        "libraries": [str(path.resolve()) for path in libraries if path],
        "board": msgspec.to_builtins(board),
        "driver": msgspec.to_builtins(driver),
    }


@contextmanager
def _quiet(plan: Plan) -> Iterator[None]:
    """ONNX Runtime prints why a provider can't be loaded, on standard error; the exception says it, with what to do."""
    if not _on_gpu(plan):
        yield
        return
    ort.set_default_logger_severity(_ONLY_EXCEPTIONS)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


@contextmanager
def _without_fallback(plan: Plan) -> Iterator[None]:
    try:
        yield
    except EdgeseqError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        names = [name for name in plan.providers if name in FILES]
        if any(word in str(error) for name in names for word in (name.removesuffix("ExecutionProvider"), *_NVIDIA)):
            raise ProviderError(_not_got(names, plan, " ".join(str(error).split()))) from error
        raise UsageError(f"onnxruntime {VERSION} can't load the model: {error}") from error


def _not_got(names: Sequence[str], plan: Plan, found: str) -> str:
    missing = missing_for(names)
    return (
        f"device '{plan.device}' asks for {', '.join(names)}; {found}; "
        + (f"missing: {'; '.join(map(str, together(missing)))}; or " if missing else "")
        + "choose device 'cpu' to run on the CPU"
    )


def _session_options(plan: Plan, optimise: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    level = _LEVELS[plan.graph_level] if optimise else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ONLY_EXCEPTIONS
    for key, value in plan.session_options.items():
        options.add_session_config_entry(key, value)
    if _on_gpu(plan):
        options.add_session_config_entry(_ASSIGNMENT, "1")
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
