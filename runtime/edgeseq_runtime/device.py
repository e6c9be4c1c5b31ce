"""Device profiles: what a device is, and what goes wrong there.

A profile is a TOML file. Those of this release are in the package `edgeseq_runtime.devices`; a path to one's own works too. A
profile that says `like = "cuda"` has whatever that one has and it does not say itself.
"""

from __future__ import annotations

import difflib
import platform
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from edgeseq_runtime.device_facts import Chip, Cpu, Dla, Facts, Gpu, Identity, Int8, Memory, Peak, Power, PowerModes, Releases
from edgeseq_runtime.errors import DeviceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCAL_CPU = ("auto", "cpu")  # names that mean the CPU of the machine this runs on
MAX_LIKE = 4  # profiles in a row, each like the next

Profile = dict[str, Any]  # as it is written


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
    providers: tuple[str, ...]  # of ONNX Runtime, most wanted first; every one must be got
    provider_options: dict[str, dict[str, str]] = {}
    machines: tuple[str, ...] = ()  # what platform.machine() says on it; empty where it does not matter
    hazards: tuple[Hazard, ...] = ()
    chip: Chip | None = None
    memory: Memory | None = None
    peak: Peak | None = None
    int8: Int8 | None = None
    gpu: Gpu | None = None
    power: Power | None = None
    modes: PowerModes | None = None
    cpu: Cpu | None = None
    dla: Dla | None = None
    jetpack: Releases | None = None
    identity: Identity | None = None

    @property
    def group(self) -> str:
        """Under what it is listed: "CPU", "Jetson", "GPU", or "any" for a profile that says no more than a backend."""
        if self.kind == "cpu":
            return "CPU"
        if self.jetpack:
            return "Jetson"
        return "GPU" if self.chip else "any"

    @property
    def facts(self) -> dict[str, Facts]:
        """The groups of figures that the profile has, by name."""
        groups = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: group for name, group in groups.items() if isinstance(group, Facts)}

    def hazards_at(self, precision: str) -> tuple[Hazard, ...]:
        """The hazards that apply to one precision."""
        return tuple(hazard for hazard in self.hazards if not hazard.precisions or precision in hazard.precisions)


def list_devices() -> tuple[Device, ...]:
    """Every profile of this release, by name."""
    return _shipped()


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
        raise DeviceError(_unknown(text, by_name) + "; or give a path to a profile (.toml)")
    return by_name[text]


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    if near:
        return f"there is no device '{name}'; did you mean {' or '.join(near)}? `edgeseq devices` lists those known"
    return f"there is no device '{name}'; known: {', '.join([*LOCAL_CPU, *names])}"


def _local_cpu(devices: tuple[Device, ...], machine: str) -> Device:
    for device in devices:
        if device.kind == "cpu" and machine in device.machines:
            return device
    have = ", ".join(name for device in devices for name in device.machines if device.kind == "cpu")
    raise DeviceError(f"no profile is for a CPU that calls itself '{machine}'; there are: {have}; give a profile (.toml)")


@lru_cache(maxsize=1)
def _shipped() -> tuple[Device, ...]:
    devices = (_device(file, profile) for file, profile in _profiles().items())
    return tuple(sorted(devices, key=lambda device: device.name))


@lru_cache(maxsize=1)
def _profiles() -> dict[str, Profile]:
    """The profiles of this release as they are written, by file name."""
    files = resources.files("edgeseq_runtime.devices").iterdir()
    return {file.name: tomllib.loads(file.read_text("utf-8")) for file in files if file.name.endswith(".toml")}


def _device_from_file(path: Path) -> Device:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"can't read the device profile {path}: {error}") from error
    try:
        profile = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"{path} is no device profile: {error}") from error
    return _device(str(path), profile)


def _device(source: str, profile: Profile) -> Device:
    try:
        device = msgspec.convert(_completed(profile, 0), Device)
    except (DeviceError, msgspec.ValidationError) as error:
        raise DeviceError(f"{source} is no device profile: {error}") from error
    if device.kind not in ("cpu", "gpu"):
        raise DeviceError(f"{source} is no device profile: kind is '{device.kind}'; it must be 'cpu' or 'gpu'")
    if (not device.providers and device.backend == "onnxruntime") or set(device.provider_options) - set(device.providers):
        raise DeviceError(
            f"{source} is no device profile: providers {list(device.providers)} must not be empty and must hold every "
            f"name in provider_options {sorted(device.provider_options)}"
        )
    for name, facts in device.facts.items():
        _require_sensible(f"{source} is no device profile: [{name}]", facts)
    return device


def _require_sensible(where: str, facts: Facts) -> None:
    if not facts.source.strip():
        raise DeviceError(f"{where} has no source; say where its figures are from, or leave them out")
    for name in facts.__struct_fields__:
        value = getattr(facts, name)
        for one in value if isinstance(value, tuple) else (value,):
            # Zero is a figure only where it counts something: a board without accelerators.
            if isinstance(one, int | float) and not (0 < one < float("inf") or (name == "count" and one == 0)):
                raise DeviceError(f"{where} says {name} = {one}; it must be more than 0")


def _completed(profile: Profile, depth: int) -> Profile:
    """A profile with what it takes over from the one it is `like`."""
    if "like" not in profile:
        return profile
    own = {key: value for key, value in profile.items() if key != "like"}
    shipped = {other.get("name"): other for other in _profiles().values()}
    if profile["like"] not in shipped:
        raise DeviceError(_unknown(str(profile["like"]), [str(name) for name in shipped]))
    if depth > MAX_LIKE:
        raise DeviceError(f"'like' leads on more than {MAX_LIKE} times")
    base = _completed(shipped[profile["like"]], depth + 1)
    return {**base, **own, "hazards": [*base.get("hazards", ()), *own.get("hazards", ())]}
