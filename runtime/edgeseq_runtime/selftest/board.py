"""What a board is set to, read from its files: power mode, clocks, temperatures, swap, disk.

Sources: /etc/nvpmodel.conf and /var/lib/nvpmodel/status are nvpmodel's own (the format stands at the top of the former); names of
an integrated GPU's clock are those of https://github.com/rbonghi/jetson_stats/blob/02fe65cb/jtop/core/gpu.py; cpufreq, devfreq,
thermal and /proc/swaps are Linux's own interfaces (Documentation/admin-guide/pm/cpufreq.rst, ABI/testing/sysfs-class-devfreq,
driver-api/thermal/sysfs-api.rst).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgeseq_runtime.detect.files import file_text

GPU_CLOCKS = ("gv11b", "gp10b", "gm20b", "ga10b", "gpu")  # what a device tree calls an integrated GPU
MODEL = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", re.MULTILINE)


class PowerMode(msgspec.Struct, frozen=True, kw_only=True):
    """The mode that nvpmodel has set, and those that there are, by number."""

    number: int
    name: str | None
    modes: dict[int, str]


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """The clock of CPU cores or of a GPU, in Hz; what can't be read is None."""

    name: str
    governor: str | None
    now: int | None
    least: int | None
    most: int | None

    @property
    def locked(self) -> bool:
        """Whether it can't move."""
        return self.least is not None and self.least == self.most


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """A temperature in degrees Celsius, and the one from which the kernel slows the board down, where there is one."""

    name: str
    temperature: float
    slowed_from: float | None

    @property
    def slowed(self) -> bool:
        return self.slowed_from is not None and self.temperature >= self.slowed_from


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """A file or device that is swapped to, in bytes; zram is memory that is compressed, not more memory."""

    path: str
    size: int

    @property
    def zram(self) -> bool:
        return "zram" in self.path


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of the above; what can't be read is None or empty."""

    power: PowerMode | None
    clocks: tuple[Clock, ...]
    zones: tuple[Zone, ...]
    swaps: tuple[Swap, ...]
    disk_free: int | None


def read_board(root: Path) -> Board:
    """What a machine is set to, below a folder that stands for its root."""
    return Board(
        power=_power(root),
        clocks=(*_cpu_clocks(root), *_gpu_clocks(root)),
        zones=tuple(_zones(root)),
        swaps=tuple(_swaps(root)),
        disk_free=_disk_free(root),
    )


def _power(root: Path) -> PowerMode | None:
    status = re.search(r"pmode:0*(\d+)", file_text(root, "/var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    modes = {int(found[1]): found[2] for found in MODEL.finditer(file_text(root, "/etc/nvpmodel.conf") or "")}
    return PowerMode(number=number, name=modes.get(number), modes=modes)


def _cpu_clocks(root: Path) -> Iterator[Clock]:
    """Cores that are clocked alike are one clock; cpufreq tells kHz."""
    alike: dict[tuple[str | None, int | None, int | None], list[tuple[int, int | None]]] = {}
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        place = f"/{folder.relative_to(root)}"
        least, most = (_number(root, f"{place}/scaling_{end}_freq") for end in ("min", "max"))
        key = (file_text(root, f"{place}/scaling_governor"), least, most)
        alike.setdefault(key, []).append((int(folder.parent.name[3:]), _number(root, f"{place}/scaling_cur_freq")))
    for (governor, least, most), cores in sorted(alike.items(), key=lambda pair: min(pair[1])):
        numbers = sorted(number for number, _ in cores)
        speeds = [speed for _, speed in cores if speed is not None]
        name = f"CPU {numbers[0]}" if len(numbers) == 1 else f"CPU {numbers[0]} to {numbers[-1]}"
        yield Clock(name=name, governor=governor, now=_kilo(min(speeds, default=None)), least=_kilo(least), most=_kilo(most))


def _gpu_clocks(root: Path) -> Iterator[Clock]:
    for folder in sorted(root.glob("sys/class/devfreq/*")):
        place = f"/{folder.relative_to(root)}"
        name = file_text(root, f"{place}/device/of_node/name") or folder.name.partition(".")[2]
        if name in GPU_CLOCKS:
            now, least, most = (_number(root, f"{place}/{end}_freq") for end in ("cur", "min", "max"))
            yield Clock(name="GPU", governor=file_text(root, f"{place}/governor"), now=now, least=least, most=most)


def _zones(root: Path) -> Iterator[Zone]:
    """Of the kernel's thermal zones, those that tell a temperature, in thousandths of a degree."""
    for folder in sorted(root.glob("sys/class/thermal/thermal_zone*"), key=lambda path: (len(path.name), path.name)):
        place = f"/{folder.relative_to(root)}"
        temperature = _number(root, f"{place}/temp")
        if temperature is None:
            continue
        trips = [file.name.removesuffix("_type") for file in folder.glob("trip_point_*_type")]
        slowing = [trip for trip in trips if file_text(root, f"{place}/{trip}_type") == "passive"]
        limits = [limit for trip in slowing if (limit := _number(root, f"{place}/{trip}_temp"))]
        yield Zone(
            name=file_text(root, f"{place}/type") or folder.name,
            temperature=temperature / 1000,
            slowed_from=min(limits) / 1000 if limits else None,
        )


def _swaps(root: Path) -> Iterator[Swap]:
    for line in (file_text(root, "/proc/swaps") or "").splitlines()[1:]:
        parts = line.split()
        if len(parts) >= 3 and re.fullmatch(r"\d{1,15}", parts[2]):
            yield Swap(path=parts[0], size=int(parts[2]) * 1024)


def _disk_free(root: Path) -> int | None:
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None


def _number(root: Path, path: str) -> int | None:
    text = file_text(root, path) or ""
    return int(text) if re.fullmatch(r"-?\d{1,15}", text.strip()) else None


def _kilo(value: int | None) -> int | None:
    return None if value is None else value * 1000
