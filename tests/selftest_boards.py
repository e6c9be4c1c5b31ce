"""Boards as their files show them, to be planted below a root for `edgeseq selftest`.

Of the Orin Nano are the module's files (`orin_nano_files`), and settings in the form that the tools of the board write: nvpmodel's
configuration and status, the clocks of two clusters and of the GPU, two thermal zones, memory that is swapped to zram.
"""

from __future__ import annotations

from pathlib import Path

from orin_nano_files import FILES

CONFIGURATION = """# nvpmodel
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=1 >
"""
MEMORY = "MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {free} kB\nSwapTotal: 3814000 kB\n"
SWAPS = (
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/dev/zram0                              partition\t635000\t\t0\t\t5\n"
    "/dev/zram1                              partition\t635000\t\t0\t\t5\n"
)
SWAP_FILE = "/mnt/8GB.swap                           file\t\t8388604\t\t0\t\t-2\n"
CPU = "sys/devices/system/cpu/cpu{number}/cpufreq/scaling_{name}"
GPU = "sys/class/devfreq/17000000.gpu/"
ZONE = "sys/class/thermal/thermal_zone{number}/"


def orin_nano(
    *, total: int = 7802020, free: int = 5000000, locked: bool = False, hot: bool = False, disk: bool = False
) -> dict[str, str]:
    """Files of an Orin Nano: memory in kB, whether its clocks are locked, whether it is too hot, whether a file is swapped to."""
    files = {
        **FILES,
        "etc/nvpmodel.conf": CONFIGURATION,
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "proc/meminfo": MEMORY.format(total=total, free=free),
        "proc/swaps": SWAPS + (SWAP_FILE if disk else ""),
        f"{GPU}device/of_node/name": "gpu\0",
        f"{GPU}governor": "nvhost_podgov\n",
        f"{GPU}cur_freq": "306000000\n",
        f"{GPU}min_freq": "1020000000\n" if locked else "306000000\n",
        f"{GPU}max_freq": "1020000000\n",
        "sys/class/devfreq/15480000.nvdec/device/of_node/name": "nvdec\0",
        "sys/class/devfreq/15480000.nvdec/max_freq": "1\n",
    }
    for number in range(6):
        least = "1728000" if locked else "115200"
        for name, value in (
            ("governor", "schedutil"),
            ("min_freq", least),
            ("max_freq", "1728000"),
            ("cur_freq", str(729600 + number)),
        ):
            files[CPU.format(number=number, name=name)] = f"{value}\n"
    for number, (name, temperature) in enumerate(
        (("cpu-thermal", 51062), ("gpu-thermal", 99500 if hot else 49000), ("cv0-thermal", None))
    ):
        zone = ZONE.format(number=number)
        files |= {
            f"{zone}type": f"{name}\n",
            f"{zone}trip_point_0_type": "critical\n",
            f"{zone}trip_point_0_temp": "104500\n",
            f"{zone}trip_point_1_type": "passive\n",
            f"{zone}trip_point_1_temp": "99000\n",
        }
        if temperature is not None:
            files[f"{zone}temp"] = f"{temperature}\n"
    return files


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
