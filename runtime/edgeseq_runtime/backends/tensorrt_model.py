"""An engine that runs: device memory kept between calls, state that stays there, each call captured as a CUDA graph.

A call has an execution context, a stream and memory of its own, so that calls run at the same time. Changing a context from which
a graph was captured is undefined (https://docs.nvidia.com/deeplearning/tensorrt/10.15.1/inference-library/advanced.html, CUDA
graphs), so none is changed: a call whose shapes are others is another call. TensorRT before 8.6 has one context for each
optimisation profile; there all calls share one, in turn, and no graph is captured.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeseq_runtime.backends.cuda import Cuda, CudaFailed, DeviceMemory, Graph
from edgeseq_runtime.backends.engine_store import EngineRecord, keep_bytes, kept_bytes
from edgeseq_runtime.backends.model import Rows
from edgeseq_runtime.backends.tensorrt_library import Library
from edgeseq_runtime.errors import InputError, ProviderError, UsageError
from edgeseq_runtime.forecast.axes import Ranges
from edgeseq_runtime.tensorrt_network.reader import DTYPES
from edgeseq_runtime.tensors import TensorSpec
from edgeseq_runtime.tensors.spec import Array

MAX_SHAPES = 16  # sets of shapes whose calls `run` keeps

Key = tuple[object, ...]


class Tensor(NamedTuple):
    """An input or output as the engine has it."""

    name: str
    dtype: np.dtype[Any]  # int32 where ONNX says int64 and TensorRT is older than 10
    given: bool  # an input
    on_host: bool  # its values set shapes or numbers of rounds: TensorRT reads it where the CPU is


class DeviceBuffer:
    """Memory on the GPU that is bound to calls in place of an array: state that never leaves it between steps."""

    def __init__(self, model: TensorRtModel, array: Array, dtype: np.dtype[Any]) -> None:
        self.shape = array.shape
        self.dtype = array.dtype
        self._lane = model.copies
        self._staged = self._lane.cuda.host_array(array.shape, dtype)
        self.memory = self._lane.cuda.memory(self._staged.nbytes)
        self.write(array)

    @property
    def bound(self) -> DeviceBuffer:
        """What to give to `bind`."""
        return self

    def read(self) -> Array:
        """A copy, as an array of the caller's own."""
        with self._lane.lock:
            self._lane.stream.copy_out(self._staged, self.memory)
            self._lane.stream.wait()
            return self._staged.astype(self.dtype)

    def write(self, array: Array) -> None:
        """Set the values."""
        with self._lane.lock:
            np.copyto(self._staged, array, casting="same_kind")
            self._lane.stream.copy_in(self.memory, self._staged)
            self._lane.stream.wait()

    def clear(self) -> None:
        """Set every value to zero."""
        with self._lane.lock:
            self._lane.stream.clear(self.memory)
            self._lane.stream.wait()

    def take(self, other: DeviceBuffer, rows: Rows, axis: int) -> None:
        """Set row i along an axis to row `rows[i]` of another buffer. Rows go by the CPU: this is between steps, not in them."""
        self.write(np.take(other.read(), rows, axis=axis))


class Lane:
    """A stream, a context unless it is for copies alone, and whose turn it is."""

    def __init__(self, cuda: Cuda, context: Any = None) -> None:
        self.cuda = cuda
        self.context = context
        self.stream = cuda.stream()
        self.lock = threading.Lock()
        self.prepared: BoundCall | None = None  # whose shapes and addresses the context has


class BoundCall:
    """A call whose arrays and buffers are fixed: it reads and writes the same memory each time.

    Outputs bound to None have a size that TensorRT tells; where only the data tell it, they are allocated anew at each call.
    """

    def __init__(
        self,
        model: TensorRtModel,
        inputs: Mapping[str, Array | DeviceBuffer],
        outputs: Mapping[str, Array | DeviceBuffer | None],
        capture: bool,
    ) -> None:
        self._model = model
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._lane = model.lane(capture)
        self._addresses: dict[str, int] = {}
        self._memory: list[DeviceMemory] = []
        self._values: dict[str, Array] = {}  # inputs that TensorRT reads on the host
        self._sent: list[tuple[str, Array, Array, DeviceMemory | None]] = []  # name, array, staged, memory
        self._got: list[tuple[Array | None, Array, DeviceMemory | None]] = []
        self._computed: dict[str, Array] = {}
        self._allocators: dict[str, Any] = {}
        self._graph: Graph | None = None
        self._why_not = "" if capture and model.captures else "not asked for"
        for name, value in self._inputs.items():
            self._take(model.tensors[name], value)
        if not self._values:  # whose values are not known yet
            with self._lane.lock:
                self._prepare()

    @property
    def captured(self) -> bool:
        """Whether the call has become a CUDA graph."""
        return self._graph is not None

    @property
    def why_not_captured(self) -> str:
        """Why it never will; "" where it is or may be."""
        return self._why_not

    def __call__(self) -> None:
        """Compute the outputs from what the bound inputs hold now.

        Raises:
            InputError: the engine could not compute the model on them.
            ProviderError: CUDA failed.
        """
        lane = self._lane
        with lane.lock:
            for name, array, staged, _ in self._sent:
                _set(name, staged, array)
            if self._graph is not None:
                lane.stream.launch(self._graph)
                lane.stream.wait()
            else:
                if self._values or lane.prepared is not self:
                    self._prepare()
                self._queue()
                lane.stream.wait()
                self._fetch_allocated()
            for bound, staged, _ in self._got:
                if bound is not None:
                    np.copyto(bound, staged)
            if self._graph is None and not self._why_not:
                self._capture()
        self._model.keep_kernels()

    def computed(self) -> dict[str, Array]:
        """The outputs of the last call that were bound to None, as arrays of the caller's own."""
        specs = self._model.output_specs
        return {name: array.astype(specs[name].dtype) for name, array in self._computed.items()}

    def _take(self, tensor: Tensor, value: Array | DeviceBuffer) -> None:
        """Memory for an input, and its address."""
        if isinstance(value, DeviceBuffer):
            self._addresses[tensor.name] = value.memory.address
            return
        cuda = self._lane.cuda
        staged = cuda.host_array(value.shape, tensor.dtype)
        memory = None if tensor.on_host else cuda.memory(staged.nbytes)
        if tensor.on_host:
            self._values[tensor.name] = staged
        self._addresses[tensor.name] = staged.ctypes.data if memory is None else memory.address
        self._sent.append((tensor.name, value, staged, memory))

    def _prepare(self) -> None:
        """Give the context this call's profile, shapes and addresses; outputs get memory where their shapes are known by then."""
        lane, model = self._lane, self._model
        context = lane.context
        for name, array, staged, _ in self._sent:
            if name in self._values:
                _set(name, staged, array)
        profile = model.profile_for(self._inputs)
        _require(context.set_optimization_profile_async(profile, lane.stream.handle), model, f"optimisation profile {profile}")
        for name, value in self._inputs.items():
            if name not in self._values:
                _require(context.set_input_shape(name, tuple(value.shape)), model, f"shape {tuple(value.shape)} of input '{name}'")
            _require(context.set_tensor_address(name, self._addresses[name]), model, f"address of input '{name}'")
        self._got = []
        self._computed = {}
        for name, bound in self._outputs.items():
            self._give(model.tensors[name], bound, tuple(context.get_tensor_shape(name)))
        lane.prepared = self

    def _give(self, tensor: Tensor, bound: Array | DeviceBuffer | None, shape: tuple[int, ...]) -> None:
        """Memory for an output, and its address; an allocator where its size is not known before it is computed."""
        context, cuda = self._lane.context, self._lane.cuda
        if isinstance(bound, DeviceBuffer):
            _require(context.set_tensor_address(tensor.name, bound.memory.address), self._model, f"address of '{tensor.name}'")
            return
        if min(shape, default=0) < 0:
            self._why_not = f"the size of output '{tensor.name}' is known only when it is computed"
            if tensor.name not in self._allocators:
                self._allocators[tensor.name] = self._model.allocator(cuda)
            _require(context.set_output_allocator(tensor.name, self._allocators[tensor.name]), self._model, "allocator")
            return
        if bound is not None and bound.shape != shape:
            raise InputError(
                f"output '{tensor.name}' has the shape {shape} on these inputs; it was bound to an array of {bound.shape}"
            )
        staged = cuda.host_array(shape, tensor.dtype)
        memory = None if tensor.on_host else cuda.memory(staged.nbytes)
        address = staged.ctypes.data if memory is None else memory.address
        _require(context.set_tensor_address(tensor.name, address), self._model, f"address of '{tensor.name}'")
        self._got.append((bound, staged, memory))
        if bound is None:
            self._computed[tensor.name] = staged

    def _queue(self) -> None:
        """Queue everything: inputs to the GPU, the engine, outputs back."""
        lane = self._lane
        for _, _, staged, memory in self._sent:
            if memory is not None:
                lane.stream.copy_in(memory, staged)
        if not lane.context.execute_async_v3(lane.stream.handle):
            raise InputError(f"{self._model.library} can't compute the model on these inputs: {self._model.library.errors()}")
        for _, staged, memory in self._got:
            if memory is not None:
                lane.stream.copy_out(staged, memory)

    def _fetch_allocated(self) -> None:
        for name, allocator in self._allocators.items():
            staged = self._lane.cuda.host_array(allocator.shape, self._model.tensors[name].dtype)
            if staged.size:
                self._lane.stream.copy_out(staged, allocator.memory)
                self._lane.stream.wait()
            self._computed[name] = staged
            bound = self._outputs[name]
            if isinstance(bound, np.ndarray):
                np.copyto(bound, staged)

    def _capture(self) -> None:
        """Record the call as a graph. It has just run once, which TensorRT needs before."""
        if self._values:
            self._why_not = f"inputs {sorted(self._values)} set shapes or numbers of rounds, and a graph would keep their values"
            return
        capturable = getattr(self._lane.context, "is_stream_capturable", None)  # of TensorRT-RTX and TensorRT 11
        if capturable is not None and not capturable(self._lane.stream.handle):
            self._why_not = f"{self._model.library} says that this engine can't be captured"
            return
        try:
            self._graph = self._lane.stream.capture(self._queue)
        except (CudaFailed, InputError) as error:
            self._why_not = str(error)  # such as a loop whose rounds the data tell; it runs as before
            self._model.library.logger.errors.clear()


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

    def allocator(self, cuda: Cuda) -> Any:
        """Memory for an output whose size only the data tell."""
        return _allocator(self.library.bindings, cuda)

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


def _set(name: str, staged: Array, array: Array) -> None:
    """Copy an array to its staged one, whose integers may be narrower."""
    if staged.dtype == array.dtype:
        np.copyto(staged, array)
        return
    np.copyto(staged, array, casting="unsafe")
    if not np.array_equal(staged, array):
        raise InputError(f"input '{name}' holds values beyond {staged.dtype}, which this TensorRT computes it in")


def _require(good: bool, model: TensorRtModel, what: str) -> None:
    if good is False:
        raise InputError(f"{model.library} does not take the {what}: {model.library.errors()}")


def _allocator(bindings: Any, cuda: Cuda) -> Any:
    class Allocator(bindings.IOutputAllocator):  # type: ignore[misc]
        """Called by TensorRT while it computes; memory is kept, and made anew where it is too small."""

        def __init__(self) -> None:
            bindings.IOutputAllocator.__init__(self)
            self.memory = cuda.memory(1)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            if size > self.memory.size:
                self.memory = cuda.memory(size)
            return self.memory.address

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Sequence[int]) -> None:
            self.shape = tuple(shape)

    return Allocator()
