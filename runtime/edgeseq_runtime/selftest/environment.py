"""The environment of a self-test: what this machine has, against what the device that was asked for needs. It changes nothing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeseq_runtime.detect import Machine
from edgeseq_runtime.detect.libraries import find_library
from edgeseq_runtime.detect.nvml import LIBRARY
from edgeseq_runtime.device import LOCAL_CPU, Device
from edgeseq_runtime.forecast.software import provider_text
from edgeseq_runtime.jetpack import load_jetpack
from edgeseq_runtime.native.compiled import kept_library
from edgeseq_runtime.native.compiler import Compiler, find_compilers
from edgeseq_runtime.plan import Plan
from edgeseq_runtime.provider_needs import COMPILER, CUDA, DRIVER, FILES, Missing, missing_for, missing_for_engines, together
from edgeseq_runtime.selftest.board import Board, Clock
from edgeseq_runtime.selftest.checks import Check, good, missing, note

SMALL_BOARD = 4.6e9  # bytes: modules with 4 GB say a little less, and none has between 4 and 8
LITTLE_DISK = 1e9  # bytes; an engine, its timing cache and a copy of a bundle are far below
# https://github.com/dusty-nv/jetson-containers/blob/0cd94c0b/docs/setup.md (Mounting Swap)
SWAP = (
    "sudo systemctl disable nvzramconfig",
    "sudo fallocate -l 8G /mnt/8GB.swap && sudo chmod 600 /mnt/8GB.swap",
    "sudo mkswap /mnt/8GB.swap && sudo swapon /mnt/8GB.swap",
    "echo '/mnt/8GB.swap none swap sw 0 0' | sudo tee -a /etc/fstab",
)
LIBRARIES = ("libcudart.so", "libcudnn.so", "libcublas.so", "libnvinfer.so", DRIVER)


def environment_checks(
    machine: Machine, board: Board, device: Device, plan: Plan, needed: int | None, root: Path
) -> tuple[Check, ...]:
    """Everything that was looked at, in the order in which a board is set up.

    Args:
        machine: what was detected.
        board: what it is set to.
        device: the profile that was asked for.
        plan: of the bundle on it.
        needed: bytes that the bundle needs at its greatest sizes; None where that is not known.
        root: the folder that stands for the machine's root.
    """
    checks = (
        _device(machine, device),
        _jetpack(machine),
        _python(machine),
        _packages(machine, plan),
        *_provider(machine, plan, root),
        _libraries(machine, root),
        _memory(machine, needed),
        _swap(machine, board),
        _disk(board),
        _power(machine, board),
        _clocks(machine, board),
        _temperature(board),
    )
    return tuple(check for check in checks if check is not None)


def _device(machine: Machine, device: Device) -> Check:
    name = (machine.jetson.model if machine.jetson else None) or machine.processor.name or machine.architecture
    if machine.jetson and machine.jetson.device is None:
        like = f"; with its SoC: {', '.join(machine.jetson.like)}" if machine.jetson.like else ""
        return note("device", f"{name}: no profile is this module's{like}", "edgeseq devices --detect")
    found = f"{name}: {', '.join(machine.devices) or 'no profile is its'}"
    generic = device.group == "any" or device.name in (*LOCAL_CPU, "native", "tensorrt-network")
    if machine.devices and not generic and device.name not in machine.devices:
        return note("device", f"{found}; tested as {device.name}, which it is not")
    return good("device", f"{found}; tested as {device.name}") if machine.devices else note("device", found)


def _jetpack(machine: Machine) -> Check | None:
    if machine.jetson is None:
        return None
    if machine.jetson.l4t is None:
        return note(
            "JetPack", "no release of Jetson Linux is named in /etc/nv_tegra_release or by its packages; in a container that is so"
        )
    if machine.jetson.jetpack is None:
        return note(
            "JetPack", f"Jetson Linux {machine.jetson.l4t} belongs to no JetPack that is known here", "edgeseq devices --json"
        )
    release = load_jetpack(machine.jetson.jetpack)
    versions = [f"CUDA {release.cuda}" if release.cuda else "", f"TensorRT {release.tensorrt[-1]}" if release.tensorrt else ""]
    brings = ", ".join(one for one in versions if one)
    return good(
        "JetPack", f"{release.release} (Jetson Linux {machine.jetson.l4t})" + (f", which brings {brings}" if brings else "")
    )


def _python(machine: Machine) -> Check:
    release = load_jetpack(machine.jetson.jetpack) if machine.jetson and machine.jetson.jetpack else None
    if release and release.python and not machine.python.startswith(f"{release.python}."):
        found = f"{machine.python}; the board's TensorRT is for its own Python {release.python}, and not seen by this one"
        return note("Python", found, f"python{release.python} -m venv --system-site-packages .venv")
    inside = sys.prefix != sys.base_prefix
    return good("Python", machine.python + (", in a virtual environment" if inside else ""))


def _packages(machine: Machine, plan: Plan) -> Check:
    shown = ", ".join(f"{name} {version}" for name, version in machine.packages.items()) or "none"
    both = [name for name in machine.packages if name in ("onnxruntime", "onnxruntime-gpu")]
    if len(both) > 1:
        wanted = "gpu" if any(name in FILES for name in plan.providers) else "ort"
        found = f"{shown}; onnxruntime and onnxruntime-gpu write to the same folder, and the one installed last is what runs"
        return note("packages", found, "pip uninstall onnxruntime onnxruntime-gpu", f'pip install "edgeseq[{wanted}]"')
    return good("packages", shown)


def _provider(machine: Machine, plan: Plan, root: Path) -> Iterator[Check]:
    """What the plan's backend needs; and, where a CPU was asked for on a machine with a GPU, what that would need."""
    own_machine = root == Path("/")
    nvml = LIBRARY if own_machine else None
    wanted = ", ".join(provider_text(name).removesuffix("ExecutionProvider") for name in plan.providers)
    if plan.backend == "onnxruntime":
        found = missing_for(plan.providers, root, nvml=nvml)
        yield from _absent(found, f"{wanted} through ONNX Runtime")
    elif plan.backend == "tensorrt":
        yield from _absent(missing_for_engines(root, nvml=nvml), "a TensorRT engine")
    elif plan.backend == "native":
        yield _compiler()
    if (machine.jetson or machine.driver) and not any(name in FILES for name in plan.providers) and plan.backend != "tensorrt":
        lacking = missing_for((CUDA,), root, nvml=nvml)
        if lacking:
            text = f"not used by '{plan.device}'; --device cuda lacks: {', '.join(one.name for one in lacking)}"
            yield note("GPU", text, *dict.fromkeys(one.install for one in lacking))
        else:
            yield good("GPU", f"not used by '{plan.device}'; --device cuda finds all that it needs")


def _absent(found: Sequence[Missing], wanted: str) -> Iterator[Check]:
    if not found:
        yield good("providers", f"{wanted}: nothing that it needs is missing")
    for one in together(found):
        yield missing(one.kind, one.text, one.install)


def _compiler() -> Check:
    """What compiles the kernels: this machine's, wherever the root is, as the self-test runs here."""
    asked = list(find_compilers())
    found = [one for one in asked if isinstance(one, Compiler)]
    if found:
        return good("compiler", ", ".join(f"{one.title} ({shlex.join(one.command)})" for one in found))
    kept = kept_library()
    if kept:
        return good(
            "compiler", f"none, and none is needed: the kernels that {kept.record.compiler} compiled are kept in {kept.path}"
        )
    return missing("compiler", "; ".join(map(str, asked)), COMPILER)


def _libraries(machine: Machine, root: Path) -> Check | None:
    """Which of NVIDIA's there are, with the version that their file's name tells."""
    if not (machine.jetson or machine.driver):
        return None
    found = {name: path for name in LIBRARIES if (path := find_library(name, root))}
    shown = ", ".join(_real_name(path) for path in found.values()) or "none of NVIDIA's"
    absent = [name for name in LIBRARIES if name not in found]
    return good("libraries", shown) if not absent else note("libraries", f"{shown}; not found: {', '.join(absent)}")


def _real_name(path: Path) -> str:
    try:
        return path.resolve().name
    except OSError:
        return path.name


def _memory(machine: Machine, needed: int | None) -> Check:
    ram = machine.ram
    if ram.total is None or ram.available is None:
        return note("memory", "not known: /proc/meminfo does not say")
    found = f"{ram.total / 1e9:.1f} GB, {ram.available / 1e9:.1f} GB of it free"
    if needed is None:
        return good("memory", found)
    found += f"; the bundle needs {needed / 1e6:.3g} MB at its greatest sizes, besides what the backend takes"
    if needed > ram.available:
        return note("memory", found, "sudo init 3  # ends the desktop; back with sudo init 5")
    return good("memory", found)


def _swap(machine: Machine, board: Board) -> Check:
    shown = ", ".join(f"{one.path} {one.size / 1e9:.1f} GB" for one in board.swaps) or "none"
    on_disk = any(not one.zram for one in board.swaps)
    if machine.jetson and machine.ram.total and machine.ram.total < SMALL_BOARD and not on_disk:
        return note("swap", f"{shown}; none on a disk, and building an engine on a 4 GB board may need it", *SWAP)
    return good("swap", shown)


def _disk(board: Board) -> Check:
    if board.disk_free is None:
        return note("disk", "not known")
    found = f"{board.disk_free / 1e9:.1f} GB free"
    return good("disk", found) if board.disk_free > LITTLE_DISK else note("disk", f"{found}: little for engines", "sudo apt clean")


def _power(machine: Machine, board: Board) -> Check | None:
    if machine.jetson is None:
        return None
    if board.power is None:
        return note("power mode", "not known: nvpmodel has left no /var/lib/nvpmodel/status", "sudo nvpmodel -q")
    others = ", ".join(f"{number} {name}" for number, name in board.power.modes.items() if number != board.power.number)
    return good(
        "power mode",
        f"{board.power.number} {board.power.name or 'without a name'}" + (f"; there are also {others}" if others else ""),
    )


def _clocks(machine: Machine, board: Board) -> Check:
    if not board.clocks:
        return note("clocks", "not known: the system shows none")
    shown = "; ".join(map(_clock_text, board.clocks))
    if machine.jetson and not all(clock.locked for clock in board.clocks):
        return note("clocks", f"{shown}; they move, and so do the times below", "sudo jetson_clocks")
    return good("clocks", shown)


def _clock_text(clock: Clock) -> str:
    ends = [f"{value / 1e6:.0f}" for value in (clock.least, clock.most) if value is not None]
    range_ = f"{' to '.join(dict.fromkeys(ends))} MHz" if ends else "limits not known"
    now = f", now {clock.now / 1e6:.0f}" if clock.now is not None else ""
    return f"{clock.name}: {range_}{now}" + (f" ({clock.governor})" if clock.governor else "")


def _temperature(board: Board) -> Check:
    if not board.zones:
        return note("temperature", "not known: the system shows none")
    slowed = [zone for zone in board.zones if zone.slowed]
    if slowed:
        text = ", ".join(f"{zone.name} {zone.temperature:.0f} °C, slowed from {zone.slowed_from:.0f} °C" for zone in slowed)
        return note("temperature", f"{text}: times below are not what the board can do; cool it and test again")
    hottest = max(board.zones, key=lambda zone: zone.temperature)
    return good("temperature", f"at most {hottest.temperature:.0f} °C ({hottest.name})")
