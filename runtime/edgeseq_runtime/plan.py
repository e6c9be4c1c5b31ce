"""What will be run where, and how: decided here without touching any hardware, carried out by `open_session`."""

from __future__ import annotations

import msgspec

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.device import Device, load_device
from edgeseq_runtime.errors import UsageError

SMALL_MODEL_BYTES = 4 * 2**20


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything `open_session` needs to know."""

    device: str
    backend: str
    precision: str
    providers: tuple[str, ...]  # most wanted first; the session must get every one
    provider_options: dict[str, dict[str, str]] = {}
    session_options: dict[str, str] = {}
    threads: int = 1  # that share one operator
    hazards: tuple[str, ...] = ()  # "rule: what goes wrong"


def make_plan(bundle: Bundle, device: Device | str = "auto", *, precision: str = "fp32", threads: int | None = None) -> Plan:
    """Decide how a bundle runs on a device. Pure: opens nothing, asks no hardware.

    Args:
        bundle: what to run.
        device: a profile or its name.
        precision: one that the bundle holds.
        threads: how many share one operator; None chooses by the bytes of the model, see `default_threads`.

    Raises:
        UsageError: the bundle has no such precision, or fewer than 1 thread.
        DeviceError: there is no such device.
    """
    plan = plan_for_size(len(bundle.model(precision)), device, precision=precision, threads=threads)
    return msgspec.structs.replace(plan, hazards=(*bundle.manifest.hazards, *plan.hazards))


def plan_for_size(model_bytes: int, device: Device | str, *, precision: str = "fp32", threads: int | None = None) -> Plan:
    """The plan for a model of which nothing but its size is known, as a plain `.onnx` is."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; give 1 or more, or leave it out")
    device = device if isinstance(device, Device) else load_device(device)
    return Plan(
        device=device.name,
        backend=device.backend,
        precision=precision,
        providers=device.providers,
        provider_options=device.provider_options,
        threads=default_threads(model_bytes) if threads is None else threads,
        hazards=tuple(f"{hazard.rule}: {hazard.text}" for hazard in device.hazards_at(precision)),
    )


def default_threads(model_bytes: int) -> int:
    """1 below 4 MiB of weights, 2 from there.

    A step of a small recurrent network lasts tens of microseconds and reads its weights from the cache: waking a second
    thread costs more than it brings. From two layers of 256 units (4.2 MB) up, two threads gain up to 1.5x, as long as steps
    follow each other closely enough for the threads to spin. More than two bring little: the steps wait for each other.
    """
    return 1 if model_bytes < SMALL_MODEL_BYTES else 2
