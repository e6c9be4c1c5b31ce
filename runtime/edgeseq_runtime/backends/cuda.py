"""What an engine needs of CUDA: memory, copies, streams and graphs, through ctypes on the runtime library, 11.4 to 13.

Only calls whose C signature is the same in all of these are used; `cudaGraphInstantiate` changed in 12, and
`cudaGraphInstantiateWithFlags` (since 11.4) did not. Source: cuda_runtime_api.h and
https://docs.nvidia.com/cuda/cuda-runtime-api/. Each call's return code is checked.
"""

from __future__ import annotations

import ctypes
import gc
import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeseq_runtime.detect.libraries import find_library
from edgeseq_runtime.errors import ProviderError
from edgeseq_runtime.tensors.spec import Array

LIBRARY = "libcudart.so"
CALLS = (
    "cudaGetErrorString", "cudaGetLastError", "cudaRuntimeGetVersion", "cudaDriverGetVersion", "cudaGetDevice",
    "cudaDeviceGetAttribute", "cudaGetDeviceProperties", "cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost",
    "cudaMemcpyAsync", "cudaMemsetAsync", "cudaStreamCreateWithFlags", "cudaStreamDestroy", "cudaStreamSynchronize",
    "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags", "cudaGraphLaunch", "cudaGraphDestroy",
    "cudaGraphExecDestroy",
)  # fmt: skip

TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the default stream
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: what other threads do does not end a capture
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor and Minor
NAME = 256  # bytes: the first member of cudaDeviceProp, in every version
PROPERTIES = 16384  # bytes: more than cudaDeviceProp has in any version


class CudaFailed(ProviderError):
    """A call of CUDA did not succeed. `code` is CUDA's own."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call} failed: {text} (cudaError {code})")
        self.code = code


class GpuFacts(NamedTuple):
    """The GPU that this process computes on, and CUDA."""

    name: str
    capability: str  # "8.7"
    runtime: str  # CUDA's version, of the library
    driver: str  # CUDA's version, of the driver


class Cuda:
    """The runtime library, and the GPU that is this process's current one."""

    def __init__(self, library: str | Path) -> None:
        """Load the library.

        Raises:
            ProviderError: it can't be loaded, or lacks a call.
        """
        try:
            self._library = ctypes.CDLL(str(library))
            self._calls: dict[str, Any] = {name: getattr(self._library, name) for name in CALLS}
        except (OSError, AttributeError) as error:
            raise ProviderError(f"the CUDA runtime {library} can't be used: {error}; edgeseq needs CUDA 11.4 or newer") from error
        self._calls["cudaGetErrorString"].restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call one of CUDA's functions.

        Raises:
            CudaFailed: it did not succeed.
        """
        code = self._calls[name](*arguments)
        if code != 0:
            self._calls["cudaGetLastError"]()  # or a later call would report it again
            raise CudaFailed(name, code, self._calls["cudaGetErrorString"](code).decode("utf-8", "replace"))

    def facts(self) -> GpuFacts:
        """What engines depend on.

        Raises:
            CudaFailed: there is no GPU, or no driver that this library works with.
        """
        device = self._number("cudaGetDevice")
        properties = ctypes.create_string_buffer(PROPERTIES)
        self.call("cudaGetDeviceProperties", properties, ctypes.c_int(device))
        major, minor = (
            self._number("cudaDeviceGetAttribute", ctypes.c_int(which), ctypes.c_int(device)) for which in (MAJOR, MINOR)
        )
        return GpuFacts(
            name=properties.raw[:NAME].split(b"\0")[0].decode("utf-8", "replace"),
            capability=f"{major}.{minor}",
            runtime=_version(self._number("cudaRuntimeGetVersion")),
            driver=_version(self._number("cudaDriverGetVersion")),
        )

    def memory(self, size: int) -> DeviceMemory:
        """Memory on the GPU, of `size` bytes; freed with the object."""
        address = self._pointer("cudaMalloc", ctypes.c_size_t(max(size, 1)))
        memory = DeviceMemory(address, size)
        weakref.finalize(memory, self._release, "cudaFree", address)
        return memory

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array in memory that the GPU copies from and to by itself; freed when nothing refers to it."""
        size = max(math.prod(shape) * dtype.itemsize, 1)
        address = self._pointer("cudaHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))
        memory: Any = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(memory, self._release, "cudaFreeHost", address)
        array: Array = np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)
        return array

    def stream(self) -> Stream:
        """A queue of work on the GPU."""
        handle = self._pointer("cudaStreamCreateWithFlags", ctypes.c_uint(NON_BLOCKING))
        stream = Stream(self, handle)
        weakref.finalize(stream, self._release, "cudaStreamDestroy", handle)
        return stream

    def graph(self, handle: int) -> Graph:
        """What a stream captured, made ready to launch; what was captured is let go."""
        try:
            ready = self._pointer("cudaGraphInstantiateWithFlags", ctypes.c_void_p(handle), ctypes.c_ulonglong(0))
        finally:
            self._release("cudaGraphDestroy", handle)
        graph = Graph(ready)
        weakref.finalize(graph, self._release, "cudaGraphExecDestroy", ready)
        return graph

    def _pointer(self, name: str, *arguments: Any) -> int:
        pointer = ctypes.c_void_p()
        self.call(name, ctypes.byref(pointer), *arguments)
        return pointer.value or 0

    def _number(self, name: str, *arguments: Any) -> int:
        number = ctypes.c_int()
        self.call(name, ctypes.byref(number), *arguments)
        return number.value

    def _release(self, name: str, address: int) -> None:
        self._calls[name](ctypes.c_void_p(address))  # at the end of a process the driver may be gone before; nothing is lost


class DeviceMemory:
    """Memory on the GPU."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size  # bytes


class Graph:
    """Work that was captured once and is launched as one."""

    def __init__(self, handle: int) -> None:
        self.handle = handle


class Stream:
    """A queue of work on the GPU. Work in one queue is done in order."""

    def __init__(self, cuda: Cuda, handle: int) -> None:
        self.handle = handle
        self._cuda = cuda
        self._pointer = ctypes.c_void_p(handle)

    def copy_in(self, memory: DeviceMemory, array: Array) -> None:
        """Queue a copy of an array of `host_array` to the GPU."""
        self._copy(memory.address, array.ctypes.data, array.nbytes, TO_DEVICE)

    def copy_out(self, array: Array, memory: DeviceMemory) -> None:
        """Queue a copy from the GPU to an array of `host_array`."""
        self._copy(array.ctypes.data, memory.address, array.nbytes, TO_HOST)

    def clear(self, memory: DeviceMemory) -> None:
        """Queue the setting of memory to zero."""
        self._cuda.call(
            "cudaMemsetAsync", ctypes.c_void_p(memory.address), ctypes.c_int(0), ctypes.c_size_t(memory.size), self._pointer
        )

    def wait(self) -> None:
        """Until all that was queued is done.

        Raises:
            CudaFailed: something that was queued failed.
        """
        self._cuda.call("cudaStreamSynchronize", self._pointer)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` queues, which is not done now.

        Raises:
            CudaFailed: it can't be recorded; the stream is as before.
        """
        collecting = gc.isenabled()
        gc.disable()  # memory that is let go of while a thread captures would end its capture
        try:
            return self._cuda.graph(self._recorded(work))
        finally:
            if collecting:
                gc.enable()

    def _recorded(self, work: Callable[[], None]) -> int:
        recorded = ctypes.c_void_p()
        self._cuda.call("cudaStreamBeginCapture", self._pointer, ctypes.c_int(THREAD_LOCAL))
        try:
            work()
        except BaseException:
            with suppress(CudaFailed):  # what was said first is the reason
                self._cuda.call("cudaStreamEndCapture", self._pointer, ctypes.byref(recorded))
                self._cuda.call("cudaGraphDestroy", recorded)
            raise
        self._cuda.call("cudaStreamEndCapture", self._pointer, ctypes.byref(recorded))
        return recorded.value or 0

    def launch(self, graph: Graph) -> None:
        """Queue what was captured."""
        self._cuda.call("cudaGraphLaunch", ctypes.c_void_p(graph.handle), self._pointer)

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        self._cuda.call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(kind),
            self._pointer,
        )


def open_cuda(root: Path = Path("/")) -> Cuda:
    """The CUDA runtime of this machine, or of a Python package.

    Raises:
        ProviderError: there is none, or it can't be used.
    """
    library = find_library(LIBRARY, root)
    if library is None:
        raise ProviderError(f"the CUDA runtime, {LIBRARY}, is in none of the loader's folders")
    return Cuda(library)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
