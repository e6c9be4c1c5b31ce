"""An engine that is loaded: its inputs and outputs, its profiles, its contexts, and the calls that `run` keeps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeseq_runtime.backends.cuda import Cuda
from edgeseq_runtime.backends.engine_store import EngineRecord, keep_bytes, kept_bytes
from edgeseq_runtime.backends.tensorrt_call import BoundCall, DeviceBuffer, Lane, Tensor
from edgeseq_runtime.backends.tensorrt_library import Library
from edgeseq_runtime.errors import InputError, ProviderError, UsageError
from edgeseq_runtime.forecast.axes import Ranges
from edgeseq_runtime.tensorrt_network.reader import DTYPES
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

MAX_SHAPES = 16  # sets of shapes whose calls `run` keeps

Key = tuple[object, ...]


class TensorRtModel:
    """A loaded engine. Calls from several threads are safe."""

    def __init__(
        self,
        library: Library,
        cuda: Cuda,
        engine: Any,
        runtime: Any,
        record: EngineRecord,
        profiles: Sequence[Ranges],
        kernels: Path | None = None,
    ) -> None:
        """Take an engine that has been deserialised.

        Args:
            library: the TensorRT that did it.
            cuda: of this machine.
            engine: the engine.
            runtime: what deserialised it, which must outlive it.
            record: what the engine was built from.
            profiles: ranges of each optimisation profile.
            kernels: a file to keep kernels in that TensorRT-RTX compiles when a context is made.

        Raises:
            UsageError: the engine has other inputs or outputs than its model.
        """
        self.library = library
        self.version = library.version
        self.providers: tuple[str, ...] = ("TensorRTEngine",)
        self.record = record
        self.output_specs = {spec.name: spec for spec in record.outputs}
        self.tensors = _tensors(library, engine)
        self.captures = library.shares_profiles
        self._specs = {spec.name: spec for spec in (*record.inputs, *record.outputs)}
        if set(self.tensors) != set(self._specs):
            raise UsageError(f"the engine has inputs and outputs {sorted(self.tensors)}, its model {sorted(self._specs)}")
        self._cuda = cuda
        self._engine, self._runtime = engine, runtime
        self._profiles = tuple(profiles)
        self._lock = threading.Lock()
        self._shared: Lane | None = None
        self._calls: OrderedDict[Key, list[tuple[dict[str, Array], BoundCall]]] = OrderedDict()
        self._kernels = kernels
        self._kernel_cache = self._loaded_kernels()
        self._unkept = False
        self.copies = Lane(cuda)

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the ONNX model declares them."""
        return self.record.inputs, self.record.outputs

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """The axes of each output, as the ONNX model declares them."""
        return {spec.name: spec.shape for spec in self.record.outputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name; the inputs must have been checked.

        Raises:
            InputError: a size is beyond the engine's profiles, or it could not compute the model on them.
            ProviderError: CUDA failed.
        """
        key = tuple(part for name in self._inputs_by_name() for part in (inputs[name].dtype, inputs[name].shape))
        arrays, call = self._call_for(key, inputs)
        for name, array in arrays.items():
            np.copyto(array, inputs[name])
        call()
        results = call.computed()
        with self._lock:
            self._calls.setdefault(key, []).append((arrays, call))
            self._calls.move_to_end(key)
            while len(self._calls) > MAX_SHAPES:
                self._calls.popitem(last=False)
        return {spec.name: results[spec.name] for spec in self.record.outputs}

    def bind(self, inputs: Mapping[str, Array | DeviceBuffer], outputs: Mapping[str, Array | DeviceBuffer | None]) -> BoundCall:
        """A call that reads and writes these arrays and buffers; it becomes a CUDA graph when it has run once."""
        return BoundCall(self, inputs, outputs, capture=True)

    def buffer(self, name: str, array: Array) -> DeviceBuffer:
        """Memory on the GPU for the input `name`, and for the output that continues it, beginning as this array."""
        return DeviceBuffer(self, array, self.tensors[name].dtype)

    def lane(self, capture: bool) -> Lane:
        """A context of its own, or the only one where TensorRT can't have more."""
        with self._lock:
            if self._shared is not None:
                return self._shared
            lane = Lane(self._cuda, self._context(capture))
            self._unkept = self._kernel_cache is not None
            if not self.library.shares_profiles:
                self._shared = lane
            return lane

    def profile_for(self, inputs: Mapping[str, Array | DeviceBuffer]) -> int:
        """The narrowest optimisation profile that allows these inputs.

        Raises:
            InputError: none does.
        """
        found = dict(_sizes(self._specs, self.tensors, inputs))
        fitting = [
            (sum(one.max - one.min for one in ranges.values()), at)
            for at, ranges in enumerate(self._profiles)
            if all(ranges[name].min <= low and high <= ranges[name].max for name, (low, high) in found.items() if name in ranges)
        ]
        if fitting:
            return min(fitting)[1]
        outside = [
            f"{name} is {low if low == high else f'{low}..{high}'}, the engine allows {ranges[name]}"
            for ranges in self._profiles
            for name, (low, high) in found.items()
            if name in ranges and not (ranges[name].min <= low and high <= ranges[name].max)
        ]
        raise InputError(
            f"no profile of the engine allows these inputs: {'; '.join(dict.fromkeys(outside))}; "
            "plan for wider ranges: make_plan(..., axes=['NAME=MIN:OPT:MAX']), or --axis"
        )

    def keep_kernels(self) -> None:
        """Keep what TensorRT-RTX compiled since a context was made, so that the next process need not."""
        if not self._unkept or self._kernels is None:
            return
        self._unkept = False
        compiled = bytes(self._kernel_cache.serialize())
        if compiled != kept_bytes(self._kernels):
            keep_bytes(self._kernels, compiled)

    def _inputs_by_name(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.record.inputs)

    def _call_for(self, key: Key, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], BoundCall]:
        """Arrays and a call on them that nobody else is using."""
        with self._lock:
            waiting = self._calls.get(key)
            if waiting:
                return waiting.pop()
        arrays = {name: np.array(inputs[name], order="C") for name in self._inputs_by_name()}
        return arrays, BoundCall(self, arrays, dict.fromkeys(self.output_specs), capture=False)

    def _loaded_kernels(self) -> Any:
        """TensorRT-RTX compiles its kernels when a context is made and when it meets a shape, and can keep them."""
        if not self.library.rtx or self._kernels is None:
            return None
        cache = self._engine.create_runtime_config().create_runtime_cache()
        kept = kept_bytes(self._kernels)
        if kept:
            cache.deserialize(kept)  # False where it is of another GPU or driver: it is compiled again
        return cache

    def _context(self, capture: bool) -> Any:
        self.library.logger.errors.clear()
        context = self._engine.create_execution_context(*self._settings(capture))
        if context is None:
            raise ProviderError(
                f"{self.library} can't make an execution context: {self.library.errors()}; there may be too little memory on the "
                "GPU: use fewer streams at a time, or plan for smaller sizes"
            )
        return context

    def _settings(self, capture: bool) -> tuple[Any, ...]:
        """Of TensorRT-RTX: where its kernels are kept, and when those for a new shape are compiled."""
        if not self.library.rtx:
            return ()
        config = self._engine.create_runtime_config()
        if self._kernel_cache is not None:
            config.set_runtime_cache(self._kernel_cache)
        if capture:
            # By default they are compiled in the background, and a graph would keep the slow ones that run meanwhile.
            strategies = self.library.bindings.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return (config,)


def _tensors(library: Library, engine: Any) -> dict[str, Tensor]:
    trt = library.bindings
    names = [engine.get_tensor_name(at) for at in range(engine.num_io_tensors)]
    return {
        name: Tensor(
            name=name,
            dtype=_dtype(name, engine.get_tensor_dtype(name).name),
            given=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            on_host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
        )
        for name in names
    }


def _dtype(name: str, kind: str) -> np.dtype[Any]:
    # Not by TensorRT's own `nptype`: that of 8.5 needs a NumPy before 1.24 (NVIDIA/TensorRT#2557).
    if kind not in DTYPES:
        raise UsageError(f"the engine's '{name}' is {kind}; NumPy has {sorted(DTYPES)}")
    return np.dtype(DTYPES[kind])


def _sizes(
    specs: Mapping[str, TensorSpec], tensors: Mapping[str, Tensor], inputs: Mapping[str, Array | DeviceBuffer]
) -> list[tuple[str, tuple[int, int]]]:
    """Least and greatest of each axis' size, and of the values of inputs that set sizes."""
    found = [
        (axis, (size, size))
        for name, value in inputs.items()
        for axis, size in zip(specs[name].shape, value.shape, strict=True)
        if isinstance(axis, str)
    ]
    values = [(name, value) for name, value in inputs.items() if tensors[name].on_host and isinstance(value, np.ndarray)]
    return [*found, *((name, (int(value.min()), int(value.max()))) for name, value in values)]
