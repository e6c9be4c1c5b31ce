"""A Jetson module and its JetPack: by the device tree, which the firmware gives the kernel, and by the release of Jetson Linux."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgeseq_runtime.detect.files import field, file_text
from edgeseq_runtime.device import Device, list_devices
from edgeseq_runtime.jetpack import jetpack_of_l4t

TREES = ("/proc/device-tree", "/sys/firmware/devicetree/base")


class Jetson(msgspec.Struct, frozen=True, kw_only=True):
    """What a board says of itself; what it does not say is None or empty."""

    model: str | None
    parts: tuple[str, ...]  # part numbers in `compatible`, in its order: carrier board and module
    soc: str | None
    l4t: str | None  # release of Jetson Linux
    jetpack: str | None
    device: str | None  # the profile of this module
    like: tuple[str, ...] = ()  # where no profile is this module's: those with the same SoC


def read_jetson(root: Path) -> Jetson | None:
    """The board; None where nothing says that it is one."""
    model = _tree_text(root, "model")
    compatible = (_tree_text(root, "compatible") or "").split("\0")
    l4t = _l4t(root)
    soc = next((name[1] for entry in compatible if (name := re.fullmatch(r"nvidia,(tegra\d+)", entry))), None)
    if soc is None and l4t is None:
        return None
    parts = tuple(part for entry in compatible for part in re.findall(r"p\d{4}-\d{4}(?:-\w+)?", entry))
    device = _device_of(parts, model)
    jetpack = jetpack_of_l4t(l4t) if l4t else None
    return Jetson(
        model=model,
        parts=tuple(dict.fromkeys(parts)),
        soc=soc,
        l4t=l4t,
        jetpack=jetpack.release if jetpack else None,
        device=device,
        like=() if device else tuple(one.name for one in list_devices() if soc and one.chip and one.chip.soc == soc),
    )


def _tree_text(root: Path, name: str) -> str | None:
    return next((text for tree in TREES if (text := file_text(root, f"{tree}/{name}")) is not None), None)


def _l4t(root: Path) -> str | None:
    release = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", file_text(root, "/etc/nv_tegra_release") or "")
    if release:
        return f"{release[1]}.{release[2]}"
    # A container often lacks that file; the package that brings it says its version too.
    packages = file_text(root, "/var/lib/dpkg/status") or ""
    entry = next((one for one in packages.split("\n\n") if field(one, "Package") == "nvidia-l4t-core"), None)
    version = re.match(r"\d+(?:\.\d+)+", field(entry, "Version") or "")
    return version[0] if version else None


def _device_of(parts: tuple[str, ...], model: str | None) -> str | None:
    modules = [device for device in list_devices() if device.jetpack and device.identity]
    for part in parts:
        for device in modules:
            if part in _identity(device)[0]:
                return device.name
    return next((device.name for device in modules if any(text in (model or "") for text in _identity(device)[1])), None)


def _identity(device: Device) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (device.identity.modules, device.identity.models) if device.identity else ((), ())
