"""The emulated CUDA runtime of emulated_cuda.c: compiled once, counted, and made to fail where a test asks for it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from edgeseq_runtime.backends.cuda import TO_DEVICE, TO_HOST, Cuda

COMPILER = shutil.which("gcc") or shutil.which("cc")
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_long)


@lru_cache(maxsize=1)
def compiled() -> Path:
    """The library. Each copy of it that is loaded under another name has counters of its own."""
    folder = Path(tempfile.mkdtemp(prefix="emulated-cuda-"))
    library = folder / "libcudart.so.12"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", library, source, "-lpthread"], check=True)
    return library


class EmulatedCuda(Cuda):
    """CUDA without a GPU, with what tests ask of it. Each has its own copy of the library, so that none sees another's counts."""

    def __init__(self, gpu: str = "Emulated Orin", capability: str = "8.7", runtime: str = "12.6", driver: str = "12.6") -> None:
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(shutil.copy(compiled(), Path(folder) / "libcudart.so.12"))
        library = self._library
        major, minor = (int(part) for part in capability.split("."))
        library.emulated_gpu(gpu.encode(), major, minor, *(number(version) for version in (runtime, driver)))
        library.emulated_count.restype = library.emulated_copied.restype = library.emulated_live.restype = ctypes.c_long
        library.emulated_host.restype = ctypes.c_void_p
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._callback = CALLBACK(lambda token: self._callbacks[token]())

    def count(self, call: str) -> int:
        """How often a function of CUDA was called."""
        return int(self._library.emulated_count(call.encode()))

    @property
    def copies(self) -> dict[str, int]:
        """Copies that were done, each way."""
        return {"in": self._library.emulated_copied(TO_DEVICE), "out": self._library.emulated_copied(TO_HOST)}

    @property
    def live(self) -> tuple[int, int]:
        """Pieces of memory that are allocated, on the device and pinned."""
        return self._library.emulated_live(1), self._library.emulated_live(0)

    def fail(self, call: str, code: int, after: int = 0) -> None:
        """Let a function fail once, after so many more calls that succeed."""
        self._library.emulated_fail(call.encode(), code, ctypes.c_long(after))

    def limit(self, size: int) -> None:
        """The most bytes that can be allocated on the device at once."""
        self._library.emulated_limit(ctypes.c_long(size))

    def host(self, address: int, size: int) -> int | None:
        """Where the emulated device's memory really is; None where nothing of that size is allocated."""
        found = self._library.emulated_host(ctypes.c_uint64(address), ctypes.c_size_t(size))
        return None if found is None else int(found)

    def pinned(self, address: int, size: int) -> bool:
        """Whether it is memory of the host that was allocated by CUDA."""
        return bool(self._library.emulated_pinned(ctypes.c_uint64(address), ctypes.c_size_t(size)))

    def enqueue(self, stream: int, work: Callable[[], None]) -> bool:
        """Queue work, or record it where the stream captures."""
        token = len(self._callbacks)
        self._callbacks[token] = work
        return self._library.emulated_enqueue(ctypes.c_void_p(stream), self._callback, ctypes.c_long(token)) == 0

    def flush(self, stream: int) -> None:
        """Do what is queued."""
        self._library.emulated_flush(ctypes.c_void_p(stream))

    def capturing(self, stream: int) -> bool:
        """Whether what is queued is recorded."""
        return bool(self._library.emulated_capturing(ctypes.c_void_p(stream)))

    def spoil(self, stream: int) -> None:
        """What a call does that may not be captured."""
        self._library.emulated_spoil(ctypes.c_void_p(stream))


def number(version: str) -> int:
    """CUDA's number of a version: 12060 of 12.6."""
    major, minor = version.split(".")
    return int(major) * 1000 + int(minor) * 10
