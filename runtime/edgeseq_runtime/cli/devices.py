"""`edgeseq devices`: the profiles of this release, one of them with its sources, or what this machine is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from edgeseq_runtime.cli.options import DebugOption, JsonOption
from edgeseq_runtime.console import OUT, pairs, table
from edgeseq_runtime.detect import Machine, detect_machine
from edgeseq_runtime.detect.nvml import LIBRARY
from edgeseq_runtime.device import Device, list_devices, load_device
from edgeseq_runtime.device_facts import Facts
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.jetpack import JetPack, list_jetpacks, load_jetpack

NameArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="One device, with its figures and their sources; or a profile (.toml).")
]
DetectOption = Annotated[bool, typer.Option("--detect", help="Say what this machine is, and which profiles are its.")]
RootOption = Annotated[Path, typer.Option("--root", hidden=True, help="The folder that stands for the machine's root.")]

GROUPS = {
    "CPU": "CPUs, and what runs on one",
    "Jetson": "Jetson modules",
    "GPU": "GPUs",
    "any": "any NVIDIA GPU, by backend",
}
UNITS = {
    "gb": "GB",
    "bandwidth_gb_s": "GB/s",
    "fp32_tflops": "TFLOPS in fp32",
    "fp16_tflops": "TFLOPS in fp16 outside tensor cores",
    "tops": "TOPS",
    "tops_at_10_w": "TOPS at 10 W",
    "dense_tops": "TOPS",
    "sparse_tops": "TOPS where half of the products are zeros",
    "gpu_sparse_tops": "of them by the GPU",
    "dla_sparse_tops": "of them by the accelerators",
    "sm_count": "multiprocessors",
    "tensor_cores": "tensor cores",
    "l2_mb": "MB of L2 cache",
    "tdp_w": "W",
    "cores": "cores",
    "count": "accelerators",
}
LABELS = {
    "chip": "chip",
    "memory": "memory",
    "peak": "at most",
    "int8": "8 bits",
    "gpu": "GPU",
    "power": "power",
    "modes": "power modes",
    "cpu": "CPU",
    "dla": "DLA",
    "jetpack": "JetPack",
    "identity": "known by",
}


def devices_command(
    name: NameArgument = None,
    detect: DetectOption = False,
    root: RootOption = Path("/"),
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the devices that are known, show one, or say what this machine is."""
    if name is not None and detect:
        raise UsageError(f"--detect looks at this machine; leave out '{name}', or leave out --detect")
    if detect:
        # Another root is another machine: this one's driver says nothing about it.
        machine = detect_machine(root, nvml=LIBRARY if root == Path("/") else None)
        _print_json(machine) if as_json else OUT.print(pairs(list(_machine(machine))))
        return
    if name is not None:
        device = load_device(name)
        _print_json(device) if as_json else _show(device)
        return
    if as_json:
        _print_json({"devices": list_devices(), "jetpack": list_jetpacks()})
        return
    for index, part in enumerate(_listing()):
        if index:
            OUT.print()
        OUT.print(part)


def _print_json(value: Any) -> None:
    print(json.dumps(msgspec.to_builtins(value), indent=1))


def _listing() -> Iterator[RenderableType]:
    devices = list_devices()
    for group, heading in GROUPS.items():
        members = [device for device in devices if device.group == group]
        if group in ("CPU", "any"):
            yield table((heading, "is"), [(device.name, device.title) for device in members])
        else:
            columns = (heading, "chip", "GB", "GB/s", "TFLOPS", "through")
            rows = [_figures(device) for device in sorted(members, key=_generation)]
            yield table(columns, rows, right=columns[1:5])
    yield "TFLOPS in fp32. `edgeseq devices NAME` shows everything that is known of one, with its sources."


def _generation(device: Device) -> tuple[float, float, str]:
    capability = float(device.chip.compute_capability) if device.chip else 0.0
    return (capability, device.memory.gb if device.memory else 0.0, device.name)


def _figures(device: Device) -> tuple[str, ...]:
    memory, peak = device.memory, device.peak
    return (
        device.name,
        device.chip.compute_capability if device.chip else "",
        f"{memory.gb:g}" if memory else "",
        f"{memory.bandwidth_gb_s:g}" if memory and memory.bandwidth_gb_s else "",
        f"{peak.fp32_tflops:g}" if peak and peak.fp32_tflops else "",
        "TensorRT" if device.backend == "tensorrt" else "ONNX Runtime, CUDA",
    )


def _show(device: Device) -> None:
    sources: dict[str, int] = {}

    def cited(text: str, source: str) -> str:
        return f"{text} [{sources.setdefault(source, len(sources) + 1)}]"

    rows = [("device", f"{device.name}: {device.title}")]
    rows.append(("backend", ", ".join([device.backend, *(name.removesuffix("ExecutionProvider") for name in device.providers)])))
    rows += [(LABELS[name], cited(_facts_text(facts), facts.source)) for name, facts in device.facts.items()]
    OUT.print(pairs(rows))
    if device.jetpack:
        OUT.print()
        columns = ("JetPack", "Jetson Linux", "CUDA", "TensorRT", "Python")
        OUT.print(table(columns, [_release_row(load_jetpack(one), sources) for one in device.jetpack.releases]))
    if device.hazards:
        OUT.print()
        OUT.print(pairs([(hazard.rule, cited(hazard.text, hazard.source)) for hazard in device.hazards]))
    if sources:
        OUT.print()
        OUT.print(pairs([(f"[{number}]", source) for source, number in sources.items()]))


def _facts_text(facts: Facts) -> str:
    parts = []
    for name in facts.__struct_fields__:
        value = getattr(facts, name)
        if name == "source" or value is None or value == ():
            continue
        shown = (
            ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value) if isinstance(value, tuple) else value
        )
        shown = f"{value:g}" if isinstance(value, float) else str(shown)
        parts.append(f"{shown} {UNITS[name]}" if name in UNITS else _named(name, shown))
    return ", ".join(parts)


def _named(name: str, shown: str) -> str:
    words = {
        "compute_capability": "compute capability",
        "range_w": "W from, to:",
        "int8_sparse_tops": "at TOPS",
        "qemu_cpu": "qemu-aarch64 -cpu",
    }
    return f"{words[name]} {shown}" if name in words else shown


def _release_row(jetpack: JetPack, sources: dict[str, int]) -> tuple[str, ...]:
    def cell(field: str, text: str | None) -> str:
        return f"{text} [{sources.setdefault(jetpack.sources[field], len(sources) + 1)}]" if text else ""

    l4t = jetpack.l4t[0] if len(jetpack.l4t) == 1 else f"{jetpack.l4t[0]} to {jetpack.l4t[-1]}"
    return (
        jetpack.release,
        cell("l4t", l4t),
        cell("cuda", jetpack.cuda),
        cell("tensorrt", ", ".join(jetpack.tensorrt)),
        cell("python", jetpack.python),
    )


def _machine(machine: Machine) -> Iterator[tuple[str, str]]:
    processor, ram, jetson, driver = machine.processor, machine.ram, machine.jetson, machine.driver
    yield "profiles", ", ".join(machine.devices) or "none is this machine's; write one, see docs/devices.md"
    yield "system", ", ".join([machine.architecture, machine.system or "an unnamed system", f"Python {machine.python}"])
    yield "CPU", f"{processor.name or 'not named'}, {processor.cores or '?'} cores"
    yield "features", ", ".join(processor.features) or "none of those that make a difference"
    yield (
        "memory",
        ", ".join(
            f"{size / 1e9:.1f} GB {word}"
            for size, word in ((ram.total, "in all"), (ram.available, "free"), (ram.swap, "of swap"))
            if size is not None
        )
        or "not known",
    )
    if jetson:
        yield "Jetson", jetson.model or "a module without a name"
        yield "parts", ", ".join([*jetson.parts, jetson.soc or "SoC not named"])
        release = f"JetPack {jetson.jetpack}" if jetson.jetpack else "a JetPack that is not among those known"
        yield "JetPack", f"Jetson Linux {jetson.l4t}: {release}" if jetson.l4t else "Jetson Linux not found"
        if jetson.like:
            yield "", f"no profile is this module's; with the same SoC: {', '.join(jetson.like)}"
    if driver:
        yield "driver", f"NVIDIA {driver.version or 'of unknown version'}, for CUDA up to {driver.cuda or '?'}"
        for gpu in driver.gpus:
            size = f", {gpu.memory / 1e9:.1f} GB" if gpu.memory else ""
            yield "GPU", f"{gpu.name}{size}, compute capability {gpu.compute_capability or 'not known'}"
    else:
        yield "GPU", "no NVIDIA driver"
    yield "packages", ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    yield (
        "providers",
        ", ".join(name.removesuffix("ExecutionProvider") for name in machine.providers)
        or ('no ONNX Runtime; install it: pip install "edgeseq[ort]"'),
    )
