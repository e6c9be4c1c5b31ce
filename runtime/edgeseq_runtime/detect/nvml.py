"""NVIDIA GPUs by NVML, the library of the driver. Source of the calls: https://docs.nvidia.com/deploy/nvml-api/."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import msgspec

from edgeseq_runtime.device import list_devices

LIBRARY = "libnvidia-ml.so.1"
MOST_GPUS = 64
_TEXT = 96  # bytes of a name or version


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU; what the driver does not say is None."""

    name: str
    memory: int | None  # bytes
    compute_capability: str | None
    device: str | None  # the profile of this GPU


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """The driver and its GPUs."""

    version: str | None
    cuda: str | None  # newest that it runs
    gpus: tuple[Gpu, ...]


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlFailed(Exception):
    """A call is not there, or did not succeed."""


def read_driver(library: str | None = LIBRARY) -> Driver | None:
    """The driver and its GPUs; None where there is no such library, or it does not start."""
    if library is None:
        return None
    try:
        nvml = ctypes.CDLL(library)
        _call(nvml, "nvmlInit_v2")
    except (OSError, NvmlFailed):
        return None
    try:
        cuda = _optional(lambda: _int(nvml, "nvmlSystemGetCudaDriverVersion_v2"))
        return Driver(
            version=_optional(lambda: _text(nvml, "nvmlSystemGetDriverVersion")),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
            gpus=tuple(_gpus(nvml)),
        )
    finally:
        _optional(lambda: _call(nvml, "nvmlShutdown"))


def _gpus(nvml: ctypes.CDLL) -> list[Gpu]:
    count = ctypes.c_uint()
    if _optional(lambda: _call(nvml, "nvmlDeviceGetCount_v2", ctypes.byref(count))) is None:
        return []
    found = (_optional(lambda index=index: _gpu(nvml, index)) for index in range(min(count.value, MOST_GPUS)))  # type: ignore[misc]
    return [gpu for gpu in found if gpu is not None]


def _gpu(nvml: ctypes.CDLL, index: int) -> Gpu:
    handle = ctypes.c_void_p()
    _call(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    name = _text(nvml, "nvmlDeviceGetName", handle)
    memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
    sized = _optional(lambda: _call(nvml, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory)))
    call = "nvmlDeviceGetCudaComputeCapability"
    capable = _optional(lambda: _call(nvml, call, handle, ctypes.byref(major), ctypes.byref(minor)))
    return Gpu(
        name=name,
        memory=int(memory.total) if sized else None,
        compute_capability=f"{major.value}.{minor.value}" if capable else None,
        device=next((one.name for one in list_devices() if one.identity and name in one.identity.models), None),
    )


def _call(nvml: ctypes.CDLL, name: str, *arguments: Any) -> bool:
    function = getattr(nvml, name, None)
    if function is None or function(*arguments) != 0:
        raise NvmlFailed(name)
    return True


def _text(nvml: ctypes.CDLL, name: str, *arguments: Any) -> str:
    text = ctypes.create_string_buffer(_TEXT)
    _call(nvml, name, *arguments, text, ctypes.c_uint(_TEXT))
    return text.value.decode("utf-8", "replace")


def _int(nvml: ctypes.CDLL, name: str) -> int:
    value = ctypes.c_int()
    _call(nvml, name, ctypes.byref(value))
    return value.value


def _optional(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except NvmlFailed:
        return None
