"""The machine that this runs on, in one look: reads files and asks the driver, imports no backend and changes nothing."""

from __future__ import annotations

import platform
from os import PathLike
from pathlib import Path

import msgspec

from edgeseq_runtime.detect.files import field, file_text
from edgeseq_runtime.detect.jetson import Jetson, read_jetson
from edgeseq_runtime.detect.nvml import LIBRARY, Driver, read_driver
from edgeseq_runtime.detect.processor import Processor, Ram, read_processor, read_ram
from edgeseq_runtime.device import list_devices

PACKAGES = ("edgeseq", "numpy", "onnxruntime", "tensorrt")  # names begin with one of these
BRINGS = {  # package -> execution providers of ONNX Runtime in it
    "onnxruntime": ("CPUExecutionProvider",),
    "onnxruntime-gpu": ("CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"),
}


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is, as far as it says so."""

    architecture: str
    system: str | None
    python: str
    processor: Processor
    ram: Ram
    jetson: Jetson | None
    driver: Driver | None
    packages: dict[str, str]  # that run models, or are needed for it -> version
    providers: tuple[str, ...]  # of ONNX Runtime, by its packages; whether one works, only a session tells
    devices: tuple[str, ...]  # profiles that are this machine's, the most specific first


def detect_machine(root: str | PathLike[str] = "/", *, nvml: str | None = LIBRARY, architecture: str | None = None) -> Machine:
    """Look at a machine.

    Args:
        root: the folder that stands for its root.
        nvml: the driver's library; None to leave GPUs out.
        architecture: what `platform.machine()` says on it.
    """
    root = Path(root)
    architecture = architecture or platform.machine()
    jetson, driver = read_jetson(root), read_driver(nvml)
    packages = _packages()
    gpus = [gpu.device for gpu in driver.gpus if gpu.device] if driver else []
    cpus = [device.name for device in list_devices() if device.kind == "cpu" and architecture in device.machines]
    named = [jetson.device] if jetson and jetson.device else []
    release = file_text(root, "/etc/os-release")
    return Machine(
        architecture=architecture,
        system=field(release, "PRETTY_NAME"),
        python=platform.python_version(),
        processor=read_processor(root),
        ram=read_ram(root),
        jetson=jetson,
        driver=driver,
        packages=packages,
        providers=tuple(dict.fromkeys(one for name in packages for one in BRINGS.get(name, ()))),
        devices=tuple(dict.fromkeys([*named, *gpus, *cpus])),
    )


def _packages() -> dict[str, str]:
    from importlib import metadata  # which a session does without

    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if name.startswith(PACKAGES):
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))
