"""What docs/devices.md and docs/plans.md show of profiles and plans, written into them.

Run: python benchmarks/device_pages.py [build/vad.edgeseq]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from typer.testing import CliRunner

from edgeseq_runtime import Device, list_devices
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.jetpack import JetPack, list_jetpacks

DOCS = Path(__file__).parents[1] / "docs"
PLANNED = ("jetson-orin-nano-8gb", "jetson-t5000", "rtx-4090", "h100-sxm5-80gb")
ASKED = ("--rate", "31.25", "--axis", "T=1:100:2000")  # a frame of the voice-activity network is 32 ms


def main() -> int:
    bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "build/vad.edgeseq")
    write(DOCS / "devices.md", device_blocks())
    write(DOCS / "plans.md", plan_blocks(bundle))
    return 0


def write(page: Path, blocks: Mapping[str, str]) -> None:
    page.write_text(filled(page.read_text("utf-8"), blocks), "utf-8")


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A page with what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` replaced."""
    for name, block in blocks.items():
        pattern = rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)"
        text, count = re.subn(pattern, lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"the page has {count} places for '{name}'; it must have one")
    return text


def device_blocks() -> dict[str, str]:
    """The tables of docs/devices.md, by name."""
    groups: dict[str, list[Device]] = {}
    for device in list_devices():
        groups.setdefault(device.group, []).append(device)
    ordered = {name: sorted(members, key=_generation) for name, members in groups.items()}
    return {
        "Jetson": _table(
            ("device", "chip", "memory", "bandwidth", "fp32", "fp16", "int8", "L2", "power", "JetPack"),
            (_figures(device, jetson=True) for device in ordered["Jetson"]),
        ),
        "GPU": _table(
            ("device", "chip", "memory", "bandwidth", "fp32", "fp16", "L2", "power"),
            (_figures(device, jetson=False) for device in ordered["GPU"]),
        ),
        "others": _table(("device", "is"), ((f"`{one.name}`", one.title) for one in [*ordered["CPU"], *ordered["any"]])),
        "JetPack": _table(
            ("JetPack", "Jetson Linux", "CUDA", "cuDNN", "TensorRT", "Python", "onnxruntime-gpu"), map(_release, list_jetpacks())
        ),
    }


def _generation(device: Device) -> tuple[float, float, str]:
    return (float(device.chip.compute_capability) if device.chip else 0.0, device.memory.gb if device.memory else 0.0, device.name)


def _figures(device: Device, *, jetson: bool) -> tuple[str, ...]:
    chip, memory, peak, gpu, int8 = device.chip, device.memory, device.peak, device.gpu, device.int8
    dense = (int8.dense_tops or int8.tops) if int8 else None
    eight = f"{dense:g}" if dense else f"{int8.sparse_tops:g} sparse" if int8 and int8.sparse_tops else ""
    return (
        f"`{device.name}`",
        chip.compute_capability if chip else "",
        f"{memory.gb:g} GB {memory.type or ''}".strip() if memory else "",
        f"{memory.bandwidth_gb_s:g} GB/s" if memory and memory.bandwidth_gb_s else "",
        f"{peak.fp32_tflops:g}" if peak and peak.fp32_tflops else "",
        f"{peak.fp16_tflops:g}" if peak and peak.fp16_tflops else "",
        *((eight,) if jetson else ()),
        f"{gpu.l2_mb:g} MB" if gpu and gpu.l2_mb else "",
        f"{device.power.tdp_w:g} W" if device.power else "",
        *((", ".join(device.jetpack.releases) if device.jetpack else "",) if jetson else ()),
    )


def _release(jetpack: JetPack) -> tuple[str, ...]:
    return (
        jetpack.release,
        ", ".join(jetpack.l4t),
        jetpack.cuda or "",
        jetpack.cudnn or "",
        ", ".join(jetpack.tensorrt),
        jetpack.python or "",
        jetpack.onnxruntime_gpu or "",
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(columns)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plan_blocks(bundle: Path) -> dict[str, str]:
    """The screens of docs/plans.md, by device."""
    return {device: f"```text\n{screen(bundle, device)}\n```" for device in PLANNED}


def screen(bundle: Path, device: str) -> str:
    """What `edgeseq plan` shows on a terminal of 100 columns."""
    done = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["plan", str(bundle), "--device", device, *ASKED])
    if done.exit_code:
        raise SystemExit(done.output)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


if __name__ == "__main__":
    sys.exit(main())
