"""What a Jetson Orin Nano developer kit shows of itself in its files, to be planted in the root of an emulated board.

The CPU's lines are an AGX Orin's (`lscpu`, https://github.com/KavrakiLab/vamp/issues/20); the Nano has six of the same cores. The
module's number is in devices/jetson-orin-nano-8gb.toml; L4T 36.4.3 is JetPack 6.2 (devices/jetpack/6.2.toml).

The lists of processors below /sys are planted, too: ONNX Runtime's import ends the process where they and /proc/cpuinfo do not fit,
as when /proc/cpuinfo has one processor and the host two.
"""

from __future__ import annotations

from pathlib import Path

DEVICE = "jetson-orin-nano-8gb"  # what `edgeseq devices --detect` is to make of it
JETPACK = "6.2"
CORES = 6
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
    "lrcpc dcpop asimddp uscat ilrcpc flagm paca pacg"
)
PROCESSOR = f"""processor\t: {{number}}
BogoMIPS\t: 62.50
Features\t: {FEATURES}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
RELEASE = """# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025
# KERNEL_VARIANT: oot
TARGET_USERSPACE_LIB_DIR=nvidia
TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia
"""
CPU_LIST = f"0-{CORES - 1}\n"

FILES = {
    "etc/nv_tegra_release": RELEASE,
    # Strings of a device tree end with a zero byte.
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/cpuinfo": "".join(PROCESSOR.format(number=number) for number in range(CORES)),
    "sys/devices/system/cpu/kernel_max": f"{CORES - 1}\n",
    **{f"sys/devices/system/cpu/{name}": CPU_LIST for name in ("online", "possible", "present")},
}


def plant(root: Path) -> None:
    """Write the files below a root; what is there is replaced."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
