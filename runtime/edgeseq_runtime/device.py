"""Device profiles: what a device is, and what goes wrong there.

A profile is a TOML file. Those of this release are in the package `edgeseq_runtime.devices`; a path to one's own works too.
"""

from __future__ import annotations

import difflib
import platform
import sys
from collections.abc import Iterator
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from edgeseq_runtime.errors import DeviceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCAL_CPU = ("auto", "cpu")  # names that mean the CPU of the machine this runs on


class Hazard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that goes wrong on a device, the rule's name, and where it was measured or read."""

    rule: str
    text: str
    source: str
    precisions: tuple[str, ...] = ()  # empty: whatever the precision


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One profile, checked against this schema when it is loaded."""

    name: str
    title: str
    kind: str  # "cpu" or "gpu"
    backend: str
    providers: tuple[str, ...]  # most wanted first; every one must be got
    provider_options: dict[str, dict[str, str]] = {}
    machines: tuple[str, ...] = ()  # what platform.machine() says on it; empty where it does not matter
    hazards: tuple[Hazard, ...] = ()

    def hazards_at(self, precision: str) -> tuple[Hazard, ...]:
        """The hazards that apply to one precision."""
        return tuple(hazard for hazard in self.hazards if not hazard.precisions or precision in hazard.precisions)


def list_devices() -> tuple[Device, ...]:
    """Every profile of this release, by name."""
    return tuple(_parse(name, text) for name, text in sorted(_profiles()))


def load_device(name: str | PathLike[str]) -> Device:
    """A profile by name, by path to a TOML file, or the local CPU's for `"auto"` and `"cpu"`.

    Raises:
        DeviceError: no such profile, no profile for this machine's CPU, or a file that does not follow the schema.
    """
    text = str(name)
    if text.endswith(".toml"):
        return _device_from_file(Path(text))
    devices = list_devices()
    if text in LOCAL_CPU:
        return _local_cpu(devices, platform.machine())
    by_name = {device.name: device for device in devices}
    if text not in by_name:
        near = difflib.get_close_matches(text, by_name, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        known = ", ".join([*LOCAL_CPU, *by_name])
        raise DeviceError(f"there is no device '{text}'; {hint}known: {known}; or give a path to a profile (.toml)")
    return by_name[text]


def _local_cpu(devices: tuple[Device, ...], machine: str) -> Device:
    for device in devices:
        if device.kind == "cpu" and machine in device.machines:
            return device
    have = ", ".join(name for device in devices for name in device.machines)
    raise DeviceError(f"no profile is for a CPU that calls itself '{machine}'; there are: {have}; give a profile (.toml)")


def _profiles() -> Iterator[tuple[str, str]]:
    for file in resources.files("edgeseq_runtime.devices").iterdir():
        if file.name.endswith(".toml"):
            yield file.name, file.read_text("utf-8")


def _device_from_file(path: Path) -> Device:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"can't read the device profile {path}: {error}") from error
    return _parse(str(path), text)


def _parse(source: str, text: str) -> Device:
    try:
        device = msgspec.convert(_toml(text), Device)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DeviceError(f"{source} is no device profile: {error}") from error
    if device.kind not in ("cpu", "gpu"):
        raise DeviceError(f"{source} is no device profile: kind is '{device.kind}'; it must be 'cpu' or 'gpu'")
    if not device.providers or set(device.provider_options) - set(device.providers):
        raise DeviceError(
            f"{source} is no device profile: providers {list(device.providers)} must not be empty and must hold every "
            f"name in provider_options {sorted(device.provider_options)}"
        )
    return device


def _toml(text: str) -> dict[str, Any]:
    return tomllib.loads(text)
