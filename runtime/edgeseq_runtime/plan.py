"""What will be run where, and how: decided here without touching any hardware, carried out by `open_session`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.device import Device, load_device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.provider_needs import TENSORRT

# One step of a recurrent network is a chain of small products: a second thread has little to do, and has to spin to be there
# in time. Where nothing else runs and steps follow each other closely it can bring up to 1.5x from two layers of 256 units
# up; where the cores are shared it costs up to 2.8x, and at the pace of real time (10 ms a step) it brings nothing.
DEFAULT_THREADS = 1

# What a GPU's device may be run with: name -> the profile whose backend, options and hazards that is.
BACKENDS = {
    "onnxruntime-cpu": None,
    "onnxruntime-cuda": "cuda",
    "onnxruntime-tensorrt": "cuda",
    "tensorrt": "tensorrt",
}

GraphLevel = Literal["basic", "extended", "all"]  # of ONNX Runtime: each does what the one before does, and more


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything `open_session` needs to know."""

    device: str
    backend: str
    precision: str
    providers: tuple[str, ...]  # most wanted first; the session must get every one
    provider_options: dict[str, dict[str, str]] = {}
    session_options: dict[str, str] = {}
    threads: int = 1  # that share one operator
    graph_level: GraphLevel = "all"  # how far ONNX Runtime rewrites the graph
    hazards: tuple[str, ...] = ()  # "rule: what goes wrong"


def make_plan(
    bundle: Bundle,
    device: Device | str = "auto",
    *,
    precision: str = "fp32",
    threads: int | None = None,
    backend: str | None = None,
    axes: Sequence[str] = (),
) -> Plan:
    """Decide how a bundle runs on a device. Pure: opens nothing, asks no hardware.

    Args:
        bundle: what to run.
        device: a profile or its name.
        precision: one that the bundle holds.
        threads: how many share one operator; 1 unless said.
        backend: one of `BACKENDS`, in place of the device's own.
        axes: sizes to prepare engines for, of TensorRT or of ONNX Runtime's provider, such as "T=1:100:2000".

    Raises:
        UsageError: the bundle has no such precision or axis, fewer than 1 thread, or a backend that the device has not.
        DeviceError: there is no such device.
    """
    bundle.member(precision)  # raises where there is none
    device = device if isinstance(device, Device) else load_device(device)
    plan = plan_for_device(device, precision=precision, threads=threads, backend=backend)
    plan = msgspec.structs.replace(plan, hazards=(*bundle.manifest.hazards, *plan.hazards))
    if TENSORRT not in plan.providers and plan.backend != "tensorrt":
        return plan
    # Ranges of axes belong to forecasts, whose package builds on plans.
    from edgeseq_runtime.provider_options import ENGINE, engine_options, tensorrt_options

    if plan.backend == "tensorrt":
        given = plan.provider_options.get(ENGINE, {})
        options = {**engine_options(interface_of(bundle.manifest), device, axes), **given}
        return msgspec.structs.replace(plan, provider_options={**plan.provider_options, ENGINE: options})
    engines = tensorrt_options(interface_of(bundle.manifest), device, precision, axes)
    given = plan.provider_options.get(TENSORRT, {})
    return msgspec.structs.replace(plan, provider_options={**plan.provider_options, TENSORRT: {**engines, **given}})


def plan_for_device(
    device: Device | str, *, precision: str = "fp32", threads: int | None = None, backend: str | None = None
) -> Plan:
    """The plan for a model of which nothing is known, as a plain `.onnx` is."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; give 1 or more, or leave it out")
    device = device if isinstance(device, Device) else load_device(device)
    device = device if backend is None else device_on_backend(device, backend)
    return Plan(
        device=device.name,
        backend=device.backend,
        precision=precision,
        providers=device.providers,
        provider_options=device.provider_options,
        threads=DEFAULT_THREADS if threads is None else threads,
        hazards=tuple(f"{hazard.rule}: {hazard.text}" for hazard in device.hazards_at(precision)),
    )


def device_on_backend(device: Device, backend: str) -> Device:
    """A device as run with another backend than its own: one of `BACKENDS`.

    Raises:
        UsageError: there is no such backend, or it needs a GPU and the device is none.
    """
    if backend not in BACKENDS:
        raise UsageError(f"there is no backend '{backend}'; there are: {', '.join(BACKENDS)}")
    if device.kind != "gpu" and backend != "onnxruntime-cpu":
        raise UsageError(f"backend '{backend}' needs an NVIDIA GPU, and device '{device.name}' is a CPU; choose another device")
    generic = BACKENDS[backend]
    usual = {name: load_device(name) for name in ("cuda", "tensorrt")}
    own = tuple(hazard for hazard in device.hazards if all(hazard not in one.hazards for one in usual.values()))
    if generic is None:
        changes = {"backend": "onnxruntime", "providers": ("CPUExecutionProvider",), "provider_options": {}, "hazards": own}
        return msgspec.structs.replace(device, **changes)
    base = usual[generic]
    engines = (TENSORRT,) if backend == "onnxruntime-tensorrt" else ()
    return msgspec.structs.replace(
        device,
        backend=base.backend,
        providers=(*engines, *base.providers),
        provider_options=base.provider_options,
        hazards=(*base.hazards, *own),
    )
