"""The CPU and the memory, as Linux describes them under /proc."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgeseq_runtime.detect.files import field, file_text

# What makes a difference to recurrent networks: products of vectors, of 8-bit integers, of half-precision numbers, of tiles.
FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
# (implementer, part) -> name. Source: arch/arm64/include/asm/cputype.h of Linux.
ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD83): "Neoverse-V3AE",
    (0x4E, 0x003): "Denver 2",
    (0x4E, 0x004): "Carmel",
}


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """The CPU; what can't be read is None or empty."""

    name: str | None
    cores: int | None  # that the system runs threads on
    features: tuple[str, ...]  # of FEATURES, in their order


class Ram(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory, in bytes."""

    total: int | None
    available: int | None
    swap: int | None


def read_processor(root: Path) -> Processor:
    """The CPU by /proc/cpuinfo."""
    text = file_text(root, "/proc/cpuinfo")
    cores = len(re.findall(r"^processor\s*:", text or "", re.MULTILINE))
    said = set((field(text, "flags") or field(text, "Features") or "").split())
    return Processor(
        name=field(text, "model name") or _arm_name(text),
        cores=cores or None,
        features=tuple(feature for feature in FEATURES if feature in said),
    )


def _arm_name(text: str | None) -> str | None:
    implementer, part = (_number(field(text, name)) for name in ("CPU implementer", "CPU part"))
    if implementer is None or part is None:
        return None
    return ARM_PARTS.get((implementer, part), f"an ARM processor of implementer {implementer:#x}, part {part:#x}")


def _number(text: str | None) -> int | None:
    try:
        return int(text or "", 16)
    except ValueError:
        return None


def read_ram(root: Path) -> Ram:
    """Memory by /proc/meminfo."""
    text = file_text(root, "/proc/meminfo")
    total, available, swap = (_kibibytes(field(text, name)) for name in ("MemTotal", "MemAvailable", "SwapTotal"))
    return Ram(total=total, available=available, swap=swap)


def _kibibytes(text: str | None) -> int | None:
    found = re.fullmatch(r"(\d{1,15}) kB", text or "")
    return int(found[1]) * 1024 if found else None
