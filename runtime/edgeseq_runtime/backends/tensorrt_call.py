"""A call on an engine: device memory of its own, kept between calls, and a CUDA graph once it has run.

A call has an execution context, a stream and memory of its own, so that calls run at the same time. Changing a context from which
a graph was captured is undefined (https://docs.nvidia.com/deeplearning/tensorrt/10.15.1/inference-library/advanced.html, CUDA
graphs), so none is changed: a call whose shapes are others is another call. TensorRT before 8.6 has one context for each
optimisation profile; there all calls share one, in turn, and no graph is captured.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeseq_runtime.backends.cuda import Cuda, CudaFailed, DeviceMemory, Graph
from edgeseq_runtime.backends.model import Rows
from edgeseq_runtime.errors import InputError
from edgeseq_runtime.tensors.spec import Array

if TYPE_CHECKING:
    from edgeseq_runtime.backends.tensorrt_model import TensorRtModel


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
                self._allocators[tensor.name] = _allocator(self._model.library.bindings, cuda)
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
